"""Group 9: diversity scores of DCP-GAN's authors."""

from __future__ import annotations

import torch

from cagc.checkpoints.rosinality import generator_from_rosinality
from cagc.pruning.scores.diversity import PrincipalAxes, diversity_scores
from cagc.pruning.scores.samples import SampleBatch, batch_sizes

from .vectors import Case, cases, load_torch


def precision(case: Case) -> tuple[torch.dtype, float]:
    """The peer's dtype, and a bound for scores relative to a layer's largest: single precision is squared."""
    dtype = getattr(torch, case.options["dtype"].removeprefix("torch."))
    return dtype, 1e-6 if dtype == torch.float64 else 2e-3


def generator(case: Case):
    g = generator_from_rosinality(load_torch(case.options["weights"])["g_ema"]).to(precision(case)[0])
    if not case.series("noise_"):
        for name, parameter in g.named_parameters():
            if name.endswith("noise_strength"):
                parameter.data.zero_()
    g.w_avg.copy_(case["mean_w"])
    return g


def batches(case: Case, g) -> list[SampleBatch]:
    noise = [n.to(g.w_avg) for n in case.series("noise_")] or "none"
    parts = case["z"].to(g.w_avg).split(case["batch_sizes"].tolist())
    truncation = case.options["truncation_trick"]
    return [SampleBatch(g.ws(z, truncation=truncation).detach(), noise, (i,)) for i, z in enumerate(parts)]


def strength(case: Case) -> float:
    return case.options["edit_strength"] * case.options["truncation_trick"]


def stored_directions(case: Case):
    return lambda batch: case["directions"][batch.seeds[0]]


def assert_scores(ours: dict[str, torch.Tensor], theirs: list[torch.Tensor], tolerance: float) -> None:
    for (name, score), expected in zip(ours.items(), theirs, strict=True):
        limit = tolerance * expected.abs().max().item()
        torch.testing.assert_close(score, expected.double(), rtol=0, atol=limit, msg=lambda m: f"{name}: {m}")


@cases("9")
def test_split_into_batches(case: Case):
    assert batch_sizes(case.options["n_sample"], case.options["batch_size"]) == case["batch_sizes"].tolist()


@cases("9", having="z_pool")
def test_principal_axes(case: Case):
    g = generator(case)
    axes = PrincipalAxes.of(g.mapping.w(case["z_pool"].to(g.w_avg)))
    torch.testing.assert_close(axes.mean, case.f64("mean_w"), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(axes.shares, case.f64("var_ratio"), rtol=1e-5, atol=1e-9)
    agreement = (axes.axes * case.f64("components")).sum(dim=1).abs()
    torch.testing.assert_close(agreement, torch.ones_like(agreement), rtol=0, atol=1e-5)
    chosen = axes.axes[case["chosen"]]
    along = (chosen * case.f64("directions")).sum(dim=2).abs()
    torch.testing.assert_close(along, torch.ones_like(along), rtol=0, atol=1e-5)


@cases("9")
def test_images_before_and_after_a_move(case: Case):
    g, first = generator(case), 0
    batch = batches(case, g)[first]
    moved = batch.ws + strength(case) * case["directions"][first, 0].to(batch.ws)
    for ws, expected in ((batch.ws, case["img_first"]), (moved, case["img_edit_first"])):
        torch.testing.assert_close(g.synthesis(ws, batch.noise).float(), expected, rtol=1e-5, atol=1e-5)


@cases("9")
def test_scores_of_each_batch(case: Case):
    """The stored entries are one per direction; a batch's score is their sum."""
    g, count = generator(case), case.options["n_direction"]
    for i, batch in enumerate(batches(case, g)[:2]):
        ours = diversity_scores(g, [batch], stored_directions(case), strength(case), "batch-sum")
        entries = [case.series(f"sqdev_{k}_l") for k in range(i * count, (i + 1) * count)]
        assert_scores(ours, [torch.stack(layer).sum(dim=0) for layer in zip(*entries)], precision(case)[1])


@cases("9")
def test_scores_summed_over_batches(case: Case):
    g = generator(case)
    ours = diversity_scores(g, batches(case, g), stored_directions(case), strength(case), "batch-sum")
    assert_scores(ours, case.series("score_sum_l"), precision(case)[1])
