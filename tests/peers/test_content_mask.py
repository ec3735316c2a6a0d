"""Groups 6a and 7: the authors' label maps → content masks → masked images, by their two resizing rules."""

from __future__ import annotations

import math

import torch
from torch import nn

from cagc.content import BiSeNetContent, apply_mask
from cagc.models import bisenet

from .vectors import cases


class StoredLabels(BiSeNetContent):
    """The BiSeNet parser with recorded label maps in the place of its network."""

    def __init__(self, labels: torch.Tensor, resize_rule: str) -> None:
        super().__init__(nn.Identity(), None, "cpu")
        self.labels, self.resize_rule, self.position = labels, resize_rule, 0

    def label(self, images: torch.Tensor) -> torch.Tensor:
        start, self.position = self.position, self.position + len(images)
        return self.labels[start : self.position]


def masks(labels: torch.Tensor, images: torch.Tensor, resize_rule: str) -> torch.Tensor:
    return StoredLabels(labels, resize_rule)(images[:, :1].expand(-1, 3, -1, -1))


@cases("6a", "Get_Content_Aware_Pruning_Score")
def test_mask_for_scores(case):
    mask = masks(case["labels"], case["img"], "nearest")
    assert torch.equal(mask[:, 0].bool(), case["mask"].bool())


@cases("7", "Get_Masked_Tensor")
def test_masked_images(case):
    images, labels = case["img"], case["labels"]
    mask = masks(labels, images, "bilinear")
    official = case["effective_mask"].bool()
    if case.options["n"] > 1:
        assert torch.equal(mask[:, 0].bool(), official)
        assert torch.equal(apply_mask(images, mask), case["masked"])
        return
    # The official code takes row 0 of a lone mask for every row; ours is the mask that the image has in any batch.
    assert torch.equal(mask[:, :, :1].expand_as(mask)[:, 0].bool(), official)
    in_a_batch = masks(labels.repeat(2, 1, 1), images.repeat(2, 1, 1, 1), "bilinear")[1:]
    assert torch.equal(mask, in_a_batch)
    assert torch.equal(apply_mask(images, mask), torch.where(mask.bool(), images, 0.0))


@cases("7", "KD_loss")
def test_what_the_parsing_network_sees(case):
    if "parsing_in_sub" not in case:
        return
    expected = case["parsing_in_sub"]
    seen = bisenet.preprocess(case.series("teacher_rgb_")[-1].double())
    rows, columns = (math.ceil(seen.shape[d] / expected.shape[d]) for d in (2, 3))
    torch.testing.assert_close(seen[:, :, ::rows, ::columns], expected.double(), rtol=0, atol=2e-5)
