from __future__ import annotations

import sys

import pytest
import torch

from cagc.common.errors import CagcError
from cagc.distill.losses import FeatureDistance, load_perceptual, mask_at, perceptual_loss, rgb_loss


def rgb_pairs(n=2, resolutions=(4, 8, 16)):
    student = [torch.randn(n, 3, r, r, requires_grad=True) for r in resolutions]
    return student, [torch.randn(n, 3, r, r) for r in resolutions]


def half_mask(n=2, resolution=16):
    mask = torch.zeros(n, 1, resolution, resolution)
    mask[:, :, :, : resolution // 2] = 1
    return mask


def test_output_mode_looks_at_the_image_alone():
    student, teacher = rgb_pairs()
    loss = rgb_loss(student, teacher)
    assert loss.item() == pytest.approx((student[-1] - teacher[-1]).abs().mean().item())
    gradients = torch.autograd.grad(loss, student, allow_unused=True)
    assert [g is None for g in gradients] == [True, True, False]


def test_intermediate_mode_masks_every_resolution():
    student, teacher = rgb_pairs()
    rgb_loss(student, teacher, half_mask(), mode="intermediate").backward()
    for rgb in student:
        content, rest = rgb.grad.chunk(2, dim=3)
        assert (content != 0).all() and (rest == 0).all()


def test_lower_resolutions_are_weighted_by_their_share_of_content():
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 0, :3] = 1
    assert torch.equal(mask_at(mask, (8, 8)), mask)
    assert mask_at(mask, (4, 4))[0, 0, 0].tolist() == [0.5, 0.25, 0, 0]
    student, teacher = rgb_pairs(1, (4, 8))
    weights = [mask_at(mask, (4, 4)), mask]
    expected = sum((w * (s - t).abs()).mean() for w, s, t in zip(weights, student, teacher))
    torch.testing.assert_close(rgb_loss(student, teacher, mask, "intermediate"), expected)


def test_normalizing_by_area_makes_the_loss_independent_of_the_area():
    student, teacher = [torch.full((2, 3, 16, 16), 0.25)], [torch.zeros(2, 3, 16, 16)]
    small = torch.zeros(2, 1, 16, 16)
    small[:, :, :2, :2] = 1
    assert rgb_loss(student, teacher, small).item() == pytest.approx(0.25 * 4 / 256)
    for mask in (small, half_mask(), torch.ones(2, 1, 16, 16)):
        assert rgb_loss(student, teacher, mask, normalize_by_area=True).item() == pytest.approx(0.25)
    assert rgb_loss(student, teacher, torch.zeros(2, 1, 16, 16), normalize_by_area=True).item() == 0


def test_rgb_loss_names_what_is_wrong():
    student, teacher = rgb_pairs()
    with pytest.raises(ValueError, match="mode: got 'all', expected 'output' or 'intermediate'"):
        rgb_loss(student, teacher, mode="all")
    with pytest.raises(ValueError, match=r"teacher_rgbs: got shapes .*expected"):
        rgb_loss(student, teacher[:2], mode="intermediate")
    with pytest.raises(ValueError, match="teacher_rgbs: got shapes"):
        rgb_loss(student, [t[:1] for t in teacher])


class Planes:
    """Feature extractor whose single map is the image itself."""

    def maps(self, images, size=None):
        return [images]


def test_feature_distance_is_one_minus_the_cosine():
    a = torch.zeros(1, 3, 2, 2)
    a[:, 0] = 5
    b, c = torch.roll(a, 1, dims=1), -a
    distance = FeatureDistance(Planes())
    assert [round(distance(a, x).item(), 5) for x in (a * 3, b, c)] == [0, 1, 2]


def test_perceptual_gradient_stays_inside_the_mask_and_off_the_teacher():
    student = torch.rand(2, 3, 64, 64).requires_grad_()
    teacher = torch.rand(2, 3, 64, 64).requires_grad_()
    mask = half_mask(2, 64)
    loss = perceptual_loss(student, teacher, load_perceptual("efficientnet-lite0"), mask)
    assert 0 < loss.item() < 2
    loss.backward()
    content, rest = student.grad.chunk(2, dim=3)
    assert content.abs().sum() > 0 and (rest == 0).all() and teacher.grad is None
    with torch.no_grad():
        assert perceptual_loss(student, student, load_perceptual("efficientnet-lite0"), mask).item() < 1e-6


@pytest.mark.parametrize("resolution, seen", [(128, 128), (256, 256), (512, 256), (1024, 256)])
def test_large_images_are_compared_at_256_pixels(resolution, seen):
    sizes = []
    image = torch.zeros(1, 3, resolution, resolution)
    perceptual_loss(image, image, lambda a, b: sizes.extend((a.shape[-1], b.shape[-1])) or a.sum())
    assert sizes == [seen, seen]


@pytest.mark.parametrize("limit, seen", [(32, (32, 16)), (64, (64, 32)), (128, (64, 32))])
def test_with_a_limit_larger_images_are_averaged_by_area(limit, seen):
    compared = []
    image = torch.randn(1, 3, 64, 32)
    perceptual_loss(image, image, lambda a, b: compared.append(a) or a.sum(), limit=limit)
    torch.testing.assert_close(compared[0], torch.nn.functional.adaptive_avg_pool2d(image, seen))


def test_perceptual_names(monkeypatch):
    with pytest.raises(CagcError, match="perceptual: got 'vgg', expected lpips-vgg or efficientnet-lite0$"):
        load_perceptual("vgg")
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(CagcError, match="pip install lpips"):
        load_perceptual("lpips-vgg")
