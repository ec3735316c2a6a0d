"""Group 6b: the paper's baseline scores, and the quantities that they are made of."""

from __future__ import annotations

import pytest
import torch

from cagc.checkpoints.rosinality import generator_from_rosinality
from cagc.pruning.scores.activations import ACTIVATION_METRICS, MapStatistics, activation_scores, map_statistics
from cagc.pruning.scores.samples import SampleBatch
from cagc.pruning.scores.weights import (
    effective_weights,
    incoming_l1,
    l1_in_scores,
    l1_out_scores,
    l1_style_scores,
    mean_effective_weight,
    outgoing_l1,
)

from .vectors import Case, cases, load_torch

FLOAT64 = {"rtol": 1e-9, "atol": 1e-12}
STORED_AS_FLOAT32 = {"rtol": 1e-6, "atol": 1e-6}


def generator(case: Case):
    g = generator_from_rosinality(load_torch(case.options["weights"])["g_ema"]).double()
    for name, parameter in g.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.zero_()
    return g.requires_grad_(False)


def as_batches(g, z: torch.Tensor, size: int = 7) -> list[SampleBatch]:
    return [SampleBatch(g.ws(part), "none") for part in z.split(size)]


def assert_scores(case: Case, ours: dict[str, torch.Tensor]) -> None:
    random = case.options.get("random_layers", [])
    degenerate = case.options.get("degenerate_layers", [])
    expected = case.series("score_l")
    assert len(ours) == len(expected)
    for i, (score, other) in enumerate(zip(ours.values(), expected)):
        if i in random:
            assert score.shape == other.shape
        elif i in degenerate:
            torch.testing.assert_close(score, torch.zeros_like(score), rtol=0, atol=1e-6)
        else:
            torch.testing.assert_close(score, other, **FLOAT64)


@cases("6b", "ASV", "l1-norm-ASV", "l2-norm-ASV", "l1-map")
def test_scores_from_feature_maps(case: Case):
    g = generator(case)
    z = case.f64("z")[: case.options["n_z_used"]]
    assert_scores(case, activation_scores([map_statistics(g, as_batches(g, z))], case.op.lower()))


@cases("6b", "l1-in", "l1-out", "l1-style")
def test_scores_from_weights_and_styles(case: Case):
    g = generator(case)
    scorer = {"l1-in": l1_in_scores, "l1-out": l1_out_scores, "l1-style": l1_style_scores}[case.op]
    assert_scores(case, scorer(g, as_batches(g, case.f64("z")[: case.options["n_z_used"]])))


@cases("6b", "Get_Layer_Output")
def test_layer_outputs(case: Case):
    g = generator(case)
    features: dict[str, torch.Tensor] = {}
    g.synthesis(g.ws(case.f64("z")), "none", features=features)
    names = list(g.config.channels)
    for layer in case.options["layers"]:
        torch.testing.assert_close(features[names[layer]], case.f64(f"layer_out_{layer}"), **STORED_AS_FLOAT32)


@cases("6b", "Get_Generator_Effective_Weights")
def test_effective_weights(case: Case):
    g = generator(case)
    ws = g.ws(case.f64("z"))
    styles = {f"synthesis.{name}": style for name, style in g.synthesis.styles(ws).items()}
    modules = [group.consumers[0] for group in g.channel_groups()]
    stored = dict(enumerate(case.series("eff_w_"))) | {len(modules) - 1: case["eff_w_last"]}
    for index, expected in stored.items():
        weight = effective_weights(g, modules[index], styles[modules[index]])
        torch.testing.assert_close(weight, expected.double(), **STORED_AS_FLOAT32)
        mean = mean_effective_weight(g, modules[index], styles[modules[index]])
        torch.testing.assert_close(mean, weight.mean(dim=0), **FLOAT64)


@cases("6b", "Get_Generator_Styles")
def test_styles(case: Case):
    g = generator(case)
    styles = g.synthesis.styles(g.ws(case.f64("z")))
    modules = [group.consumers[0].removeprefix("synthesis.") for group in g.channel_groups()]
    for name, expected in zip(modules, case.series("style_"), strict=True):
        torch.testing.assert_close(styles[name], expected.double(), **STORED_AS_FLOAT32)


@cases("6b", "pruning_metrics")
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_metric_functions(case: Case, batch: int):
    statistics = MapStatistics()
    for part in case.f64("fea_maps").split(batch):
        statistics.add(part)
    theirs = {"ASV": "asv", "L1_map": "l1-map", "L1_norm_ASV": "l1-norm-asv", "L2_norm_ASV": "l2-norm-asv"}
    for name, metric in theirs.items():
        torch.testing.assert_close(ACTIVATION_METRICS[metric](statistics), case[name], **FLOAT64)
    torch.testing.assert_close(statistics.l2_map(), case["L2_map"], **FLOAT64)
    weight = case.f64("filter_4D")
    torch.testing.assert_close(outgoing_l1(weight), case["outgoing"], **FLOAT64)
    torch.testing.assert_close(incoming_l1(weight), case["incoming"], **FLOAT64)
