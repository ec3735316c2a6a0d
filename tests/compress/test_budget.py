from __future__ import annotations

import json
import math
import re

import pytest
import torch

from cagc.checkpoints import generator_hash
from cagc.common.errors import CagcError
from cagc.metrics.macs import total_macs, total_parameters
from cagc.models.stylegan2 import Generator, GeneratorConfig
from cagc.pruning.budget import kept_channels, plan_channels, removed_channels
from cagc.pruning.plan import ChannelPlan
from cagc.pruning.scores import ChannelScores, score_channels


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(1)
    return Generator(GeneratorConfig.uniform(32, channel_base=1024, channel_max=64, style_dim=16, mapping_layers=2))


@pytest.fixture(scope="module")
def scores(generator: Generator) -> ChannelScores:
    return score_channels(generator, "l1-out", samples=4)


def one_step_wider(plan: ChannelPlan, round_to: int) -> list[dict[str, int]]:
    widths, wider = plan.channels(), []
    for name, width in widths.items():
        if width < plan.full[name]:
            wider.append(widths | {name: min(plan.full[name], (width // round_to + 1) * round_to)})
    return wider


def macs_of(generator: Generator, widths: dict[str, int]) -> int:
    return total_macs(GeneratorConfig(32, widths, style_dim=16, mapping_layers=2))


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize("round_to", [1, 4, 8])
@pytest.mark.parametrize("macs", [0.9, 0.5, 1 / 11, 0.06])
def test_macs_budget_is_met_and_used_up(generator, scores, allocation: str, round_to: int, macs: float):
    plan = plan_channels(generator, scores, macs=macs, allocation=allocation, round_to=round_to)
    limit = macs * total_macs(generator)
    assert plan.cost["macs"] == [total_macs(generator), macs_of(generator, plan.channels())]
    assert plan.cost["macs"][1] <= limit
    assert all(macs_of(generator, widths) > limit for widths in one_step_wider(plan, round_to))
    for name, width in plan.channels().items():
        assert width % round_to == 0 or width == plan.full[name]
        assert width >= min(8, plan.full[name])


def test_absolute_budget_is_the_share_of_it(generator, scores):
    share = plan_channels(generator, scores, macs=0.25)
    assert plan_channels(generator, scores, macs=0.25 * total_macs(generator)).kept == share.kept
    everything = {name: list(range(width)) for name, width in generator.config.channels.items()}
    assert plan_channels(generator, scores, macs=1.0).kept == everything


@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_memory_budget(generator, scores, allocation: str):
    full = 4 * total_parameters(generator)
    plan = plan_channels(generator, scores, memory=0.3, allocation=allocation)
    assert 0.27 * full < 4 * plan.cost["parameters"][1] <= 0.3 * full
    assert plan_channels(generator, scores, memory=0.3 * full, allocation=allocation).kept == plan.kept


def test_kept_channels_are_the_highest_of_each_layer(generator, scores):
    for options in ({"keep": 0.4}, {"macs": 0.2}, {"memory": 0.3}):
        plan = plan_channels(generator, scores, **options)
        for name, indices in plan.kept.items():
            score = scores.scores[name]
            removed = torch.ones(len(score), dtype=torch.bool)
            removed[indices] = False
            assert indices == sorted(set(indices))
            if removed.any():
                assert score[indices].min() >= score[removed].max()


def test_global_allocation_follows_the_scores(generator):
    """A layer whose score is concentrated in few channels becomes narrower, and more of the score is kept."""
    even = {name: torch.ones(width, dtype=torch.float64) for name, width in generator.config.channels.items()}
    peaked = even | {"b16.conv0": torch.cat([torch.ones(8), torch.full([56], 1e-3)]).double()}
    teacher = generator_hash(generator)
    documents = [ChannelScores("x", scores, teacher, {}) for scores in (even, peaked)]
    plans = [plan_channels(generator, document, macs=0.5) for document in documents]
    widths = [plan.channels() for plan in plans]
    assert widths[1]["b16.conv0"] <= 16 < widths[0]["b16.conv0"]
    kept = [math.prod((s[plan.kept[name]].sum() / s.sum()).item() for name, s in peaked.items()) for plan in plans]
    assert kept[1] > kept[0]


def test_global_allocation_ignores_a_layers_scale(generator, scores):
    scaled = ChannelScores("x", scores.scores | {"b8.conv1": 1024 * scores.scores["b8.conv1"]}, scores.teacher, {})
    plans = [plan_channels(generator, document, macs=0.2).kept for document in (scores, scaled)]
    assert plans[0] == plans[1]


def test_global_allocation_of_equal_channels_spends_alike_on_every_layer(generator):
    """Without floors, narrowing any layer above its minimum by 1 % must save about the same."""
    equal = {name: torch.ones(width, dtype=torch.float64) for name, width in generator.config.channels.items()}
    document = ChannelScores("x", equal, generator_hash(generator), {})
    widths = plan_channels(generator, document, macs=0.3, round_to=1, min_width=1).channels()
    spent = {}
    for name, width in widths.items():
        if width < generator.config.channels[name]:
            spent[name] = width * (macs_of(generator, widths) - macs_of(generator, widths | {name: width - 1}))
    assert len(spent) >= 3 and max(spent.values()) < 1.25 * min(spent.values())


def test_scores_of_nothing_but_zeros_still_make_a_plan(generator):
    zero = {name: torch.zeros(width, dtype=torch.float64) for name, width in generator.config.channels.items()}
    plan = plan_channels(generator, ChannelScores("x", zero, generator_hash(generator), {}), macs=0.2)
    assert plan.cost["macs"][1] <= 0.2 * total_macs(generator)


def test_floors(generator, scores):
    plan = plan_channels(generator, scores, macs=0.3, min_keep=0.5)
    assert all(2 * width >= plan.full[name] for name, width in plan.channels().items())
    plan = plan_channels(generator, scores, macs=0.3, min_width=24)
    assert all(width >= 24 for width in plan.channels().values())


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.5, 0.77, 1.0])
def test_keep_is_the_papers_rule_rounded_up(generator, scores, keep: float):
    exact = plan_channels(generator, scores, keep=keep, round_to=1).channels()
    rounded = plan_channels(generator, scores, keep=keep).channels()
    for name, full in generator.config.channels.items():
        assert exact[name] == full - int(full * round(1 - keep, 12))
        assert rounded[name] == min(full, (exact[name] + 7) // 8 * 8)


def test_published_widths_and_macs():
    config = GeneratorConfig.uniform(256)
    kept = {name: c - removed_channels(c, round(1 - 0.3, 12)) for name, c in config.channels.items()}
    assert sorted(set(kept.values())) == [39, 77, 154]
    assert f"{total_macs(config) / total_macs(GeneratorConfig(256, kept)):.2f}" == "10.94"


def test_ties_and_layers_that_would_vanish():
    assert kept_channels(torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0]), 2) == [0, 3, 4]
    assert kept_channels(torch.tensor([1.0, 2.0]), 2) == [0, 1]
    assert kept_channels(torch.tensor([1.0, 2.0]), 0) == [0, 1]


@pytest.mark.parametrize("budget", [{"macs": 0.001}, {"macs": 10}, {"macs": 1e12}, {"memory": 0.01}, {"memory": 1e12}])
def test_budget_out_of_reach_tells_the_range(generator, scores, budget: dict):
    with pytest.raises(CagcError, match=r"reaches [\d,]+ to [\d,]+ (MACs|bytes)"):
        plan_channels(generator, scores, **budget)


def test_the_range_that_is_told_can_be_reached(generator, scores):
    with pytest.raises(CagcError) as error:
        plan_channels(generator, scores, macs=10)
    told = re.search(r"reaches (\S+) to (\S+) MACs", str(error.value))
    least, most = (int(number.replace(",", "")) for number in told.groups())
    assert plan_channels(generator, scores, macs=least).cost["macs"][1] == least
    assert plan_channels(generator, scores, macs=most).cost["macs"][1] == most
    with pytest.raises(CagcError):
        plan_channels(generator, scores, macs=least - 1)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ValueError, "exactly one"),
        ({"keep": 0.3, "macs": 0.1}, ValueError, "exactly one"),
        ({"keep": 0}, ValueError, "keep"),
        ({"keep": 1.2}, ValueError, "keep"),
        ({"macs": -1}, ValueError, "macs"),
        ({"macs": float("nan")}, ValueError, "macs"),
        ({"macs": "1/11"}, TypeError, "macs"),
        ({"macs": 0.5, "round_to": 0}, ValueError, "round_to"),
        ({"macs": 0.5, "round_to": 8.0}, TypeError, "round_to"),
        ({"macs": 0.5, "min_keep": 2}, ValueError, "min_keep"),
        ({"macs": 0.5, "allocation": "best"}, ValueError, "uniform"),
    ],
)
def test_bad_arguments(generator, scores, options: dict, error: type, words: str):
    with pytest.raises(error, match=words):
        plan_channels(generator, scores, **options)


def test_scores_of_another_generator(generator, scores):
    other = Generator(generator.config)
    with pytest.raises(CagcError, match=scores.teacher):
        plan_channels(other, scores, keep=0.3)
    missing = ChannelScores("x", {k: v for k, v in scores.scores.items() if k != "b8.conv0"}, scores.teacher, {})
    with pytest.raises(CagcError, match="b8.conv0"):
        plan_channels(generator, missing, keep=0.3)


def test_document_round_trip(generator, scores, tmp_path):
    plan = plan_channels(generator, scores, macs=0.2)
    plan.save(tmp_path / "plan.json")
    loaded = ChannelPlan.load(tmp_path / "plan.json")
    assert loaded == plan and list(loaded.kept) == list(generator.config.channels)
    loaded.check(generator)
    assert loaded.metric == "l1-out" and loaded.scoring["samples"] == 4 and loaded.rule["macs"] == 0.2
    with pytest.raises(CagcError, match="does not exist"):
        plan.save(tmp_path / "absent" / "plan.json")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def _edit(path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["kept"].update(extra=[0]), "extra"),
        (lambda d: d["kept"].pop("b8.conv0"), "b8.conv0"),
        (lambda d: d["kept"].update({"b8.conv0": []}), "at least one"),
        (lambda d: d["kept"].update({"b8.conv0": [1, 1]}), "repeated"),
        (lambda d: d["kept"].update({"b8.conv0": [2, 1]}), "ascending"),
        (lambda d: d["kept"].update({"b8.conv0": [0, 64]}), "channel 64"),
        (lambda d: d["kept"].update({"b8.conv0": [-1, 3]}), "channel -1"),
        (lambda d: d["kept"].update({"b8.conv0": [0.5]}), "indices"),
        (lambda d: d["kept"].update({"b8.conv0": "all"}), "indices"),
        (lambda d: d["full"].update({"b8.conv0": 0}), "width"),
        (lambda d: d.update(kept=[]), "kept"),
        (lambda d: d.update(teacher=None), "teacher"),
        (lambda d: d["cost"].pop("macs"), "macs"),
        (lambda d: d["cost"].update(macs=[1, 0]), "macs"),
        (lambda d: d.pop("metric"), "metric"),
        (lambda d: d.update(format="cagc-plan-99"), "cagc-plan-99"),
    ],
)
def test_damaged_plan(generator, scores, tmp_path, change, words: str):
    path = tmp_path / "plan.json"
    plan_channels(generator, scores, keep=0.5).save(path)
    _edit(path, change)
    with pytest.raises(CagcError, match=words):
        ChannelPlan.load(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_not_a_plan(tmp_path, text: str):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(CagcError, match="plan.json"):
        ChannelPlan.load(tmp_path / "plan.json")
    with pytest.raises(CagcError, match="no such file"):
        ChannelPlan.load(tmp_path / "absent.json")
