"""Groups 6c and 6d: kept-channel masks, pruned weights and pruned images of the paper's code."""

from __future__ import annotations

import torch

from cagc.checkpoints import Checkpoint, generator_hash, to_rosinality
from cagc.checkpoints.rosinality import generator_from_rosinality
from cagc.metrics.macs import total_macs, total_parameters
from cagc.pruning.budget import kept_channels, plan_channels, removed_channels
from cagc.pruning.prune import prune
from cagc.pruning.scores import ChannelScores
from cagc.pruning.scores.content_aware import content_aware_scores

from .test_content_aware_scores import batches, stored_salt_and_pepper
from .test_content_aware_scores import generator as scored_generator
from .vectors import Case, cases, iter_cases, load_torch


def teacher(case: Case):
    return generator_from_rosinality(load_torch(case.options["weights"])["g_ema"])


def plan(case: Case, g, scores: list[torch.Tensor]):
    named = dict(zip(g.config.channels, scores, strict=True))
    document = ChannelScores("content-aware", named, generator_hash(g), {})
    return plan_channels(g, document, keep=1 - case.options["ratio"], round_to=1)


def kept_by_masks(case: Case) -> list[list[int]]:
    return [torch.nonzero(mask).flatten().tolist() for mask in case.series("mask_l")]


def masks_over(*ops: str):
    return cases("6[cd]*", *ops)


@masks_over("prune", "Generate_Prune_Mask_List")
def test_masks_from_stored_scores(case: Case):
    ours = [kept_channels(s, n) for s, n in zip(case.series("score_l"), case.options["rmve_list"], strict=True)]
    assert ours == kept_by_masks(case)


@masks_over("Get_Uniform_RmveList")
def test_uniform_numbers_of_removed_channels(case: Case):
    ratio = case.options["ratio"]
    assert [removed_channels(n, ratio) for n in case["net_shape"].tolist()] == case["rmve"].tolist()
    through_keep = round(1 - (1 - ratio), 12)
    assert [removed_channels(n, through_keep) for n in case["net_shape"].tolist()] == case["rmve"].tolist()


@masks_over("prune")
def test_plan_from_stored_scores(case: Case):
    g = teacher(case)
    ours = plan(case, g, case.series("score_l"))
    assert list(ours.kept.values()) == kept_by_masks(case)
    assert list(ours.channels().values()) == case.options["pruned_shape"]
    assert ours.cost["macs"] == [case.options["flops_full"], case.options["flops_pruned"]]
    assert ours.cost["parameters"] == [case.options["params_full"], case.options["params_pruned"]]


@masks_over("prune")
def test_our_scores_keep_the_same_channels(case: Case):
    source = next(c for c in iter_cases("6a") if c.id == case.options["score_source"])
    g = scored_generator(source)
    scores = content_aware_scores(g, batches(source, g), stored_salt_and_pepper(source), batch_rule="batch-sum")
    assert list(plan(case, teacher(case), list(scores.values())).kept.values()) == kept_by_masks(case)


@masks_over("prune")
def test_pruned_weights_are_exactly_theirs(case: Case):
    g = teacher(case)
    student = prune(g, plan(case, g, case.series("score_l")), rescale="none")
    ours = to_rosinality(Checkpoint(g_ema=student))["g_ema"]
    for network, theirs in load_torch(case.options["pruned_file"]).items():
        assert set(theirs) <= set(ours)
        # Buffers: kernels are made from the filter's taps, and noise maps are fresh where the source stores none.
        for name, expected in theirs.items():
            if not name.startswith("noises.") and not name.endswith("kernel"):
                assert torch.equal(ours[name], expected), f"{network} {name}"
    assert total_macs(student) == case.options["flops_pruned"]
    assert total_parameters(student) == case.options["params_pruned"]


@masks_over("prune")
def test_images_before_and_after(case: Case):
    g = teacher(case).double()
    noise = [n.double() for n in case.series("noise_")]
    student = prune(g, plan(case, g, case.series("score_l")), rescale="none")
    for network, expected in ((g, "img_full"), (student, "img_pruned")):
        torch.testing.assert_close(network(case.f64("z"), noise=noise), case.f64(expected), rtol=1e-5, atol=1e-5)
