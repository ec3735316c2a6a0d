"""Group 6a: content-aware scores of the paper's authors."""

from __future__ import annotations

import torch

from cagc.checkpoints.rosinality import generator_from_rosinality
from cagc.pruning.scores.consumers import consumer_names
from cagc.pruning.scores.content_aware import content_aware_scores, content_gradients
from cagc.pruning.scores.samples import SampleBatch, batch_sizes

from .vectors import Case, cases, load_torch

RELATIVE_TO_MAX = 2e-6


def generator(case: Case):
    g = generator_from_rosinality(load_torch(case.options["weights"])["g_ema"]).double()
    if not case.options["explicit_noise"]:
        for name, parameter in g.named_parameters():
            if name.endswith("noise_strength"):
                parameter.data.zero_()
    return g


def batches(case: Case, g) -> list[SampleBatch]:
    noises = [n.double() for n in case.series("noise_")] if case.options["explicit_noise"] else "none"
    parts, start = [], 0
    for size in case["batch_sizes"].tolist():
        rows = range(start, start + size)
        start += size
        noise = noises if noises == "none" else [n if n.shape[0] == 1 else n[rows.start : rows.stop] for n in noises]
        parts.append(SampleBatch(g.ws(case.f64("z")[rows.start : rows.stop]).detach(), noise, tuple(rows)))
    return parts


def stored_salt_and_pepper(case: Case):
    def disturb(images, seeds):
        return case["sp"][list(seeds)][:, None].to(images)

    return disturb


def assert_scores(ours: dict[str, torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs)
    for (name, score), expected in zip(ours.items(), theirs):
        limit = RELATIVE_TO_MAX * expected.abs().max().item()
        assert score.shape == expected.shape, name
        assert (score - expected).abs().max().item() <= limit, name


@cases("6a")
def test_split_into_batches(case: Case):
    ours = batch_sizes(case.options["n_sample"], case.options["batch_size"])
    assert ours == case["batch_sizes"].tolist() == case.options["batch_sizes"]


@cases("6a")
def test_images_and_what_is_replaced(case: Case):
    g = generator(case)
    images = torch.cat([g.synthesis(b.ws, b.noise) for b in batches(case, g)]).detach()
    torch.testing.assert_close(images, case["img"].double(), rtol=1e-6, atol=1e-6)
    replaced = case["sp"][:, None].double()
    assert not (case["flipped"] & ~case["mask"]).any()
    assert torch.equal(replaced[:, 0] != 0, case["flipped"])
    noisy = torch.where(replaced != 0, replaced, images)
    torch.testing.assert_close(noisy, case["noisy"].double(), rtol=1e-6, atol=1e-6)


@cases("6a")
def test_scores_of_each_batch(case: Case):
    g = generator(case)
    for i, batch in enumerate(batches(case, g)):
        ours = content_aware_scores(g, [batch], stored_salt_and_pepper(case), batch_rule="batch-sum")
        assert_scores(ours, case.series(f"score_b{i}_l"))


@cases("6a")
def test_scores_summed_over_batches(case: Case):
    g = generator(case)
    ours = content_aware_scores(g, batches(case, g), stored_salt_and_pepper(case), batch_rule="batch-sum")
    assert_scores(ours, case.series("score_sum_l"))


@cases("6a")
def test_scores_in_single_precision(case: Case):
    """The README's bound is for scores of one layer relative to the layer's largest."""
    g = generator(case)
    parts = [
        SampleBatch(b.ws.float(), b.noise if isinstance(b.noise, str) else [n.float() for n in b.noise], b.seeds)
        for b in batches(case, g)
    ]
    ours = content_aware_scores(g.float(), parts, stored_salt_and_pepper(case), batch_rule="batch-sum")
    for score, expected in zip(ours.values(), case.series("score_sum_l"), strict=True):
        torch.testing.assert_close(score, expected, rtol=0, atol=1e-5 * expected.max().item())


@cases("6a")
def test_per_sample_scores_are_those_of_batches_of_one(case: Case):
    """The peers' rule at batch size 1, averaged: where one batch holds one sample, both rules must agree."""
    g = generator(case)
    parts = batches(case, g)
    singles = [single for batch in parts for single in batch.singles()]
    disturb = stored_salt_and_pepper(case)
    ours = content_aware_scores(g, parts, disturb, batch_rule="per-sample")
    theirs = content_aware_scores(g, singles, disturb, batch_rule="batch-sum")
    for name, score in ours.items():
        torch.testing.assert_close(score * len(singles), theirs[name], rtol=1e-12, atol=0)


@cases("6a")
def test_gradients_match_finite_loss(case: Case):
    """Σ|I' - I| by plain autograd on the parameters themselves, without the detour over image gradients."""
    g = generator(case)
    batch = batches(case, g)[0]
    replaced = stored_salt_and_pepper(case)(batch.ws, batch.seeds)
    image = g.synthesis(batch.ws, batch.noise)
    noisy = torch.where(replaced != 0, replaced, image.detach())
    (noisy - image).abs().sum().backward()
    ours = content_gradients(g, batch, stored_salt_and_pepper(case), consumer_names(g.channel_groups(), "main"))
    for module, gradient in ours.items():
        torch.testing.assert_close(gradient, g.get_submodule(module).weight.grad, rtol=1e-9, atol=1e-12)
