"""Times of layers, tables of them, and plans within a budget of milliseconds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cagc.common.errors import CagcError
from cagc.latency import table as tables
from cagc.latency.layers import default_executor, profile_layers
from cagc.latency.table import LatencyTable, latency_table, measure_table
from cagc.latency.work import layer_work
from cagc.metrics.macs import total_macs
from cagc.models import SNGANConfig, SNGANGenerator
from cagc.models.stylegan2 import Generator, GeneratorConfig
from cagc.pruning.budget import plan_channels
from cagc.pruning.scores import ChannelScores, score_channels
from cagc_kernels import native, use_backend


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(1)
    return Generator(GeneratorConfig.uniform(32, channel_base=1024, channel_max=64, style_dim=16, mapping_layers=2))


@pytest.fixture(scope="module")
def scores(generator) -> ChannelScores:
    return score_channels(generator, "l1-out", samples=4)


def made_table(generator, layer_ms) -> LatencyTable:
    """A table whose layers take ``layer_ms(name, in, out)``, 0.1 ms a toRGB and 1 ms the rest."""
    full, names = dict(generator.config.channels), list(generator.config.channels)
    grid = {name: sorted({8, width // 2, width}) for name, width in full.items()}
    ms = {
        name: [[layer_ms(name, i, o) for o in grid[name]] for i in grid[below]]
        for below, name in zip(names, names[1:], strict=False)
    }
    rgb = {name.replace("conv1", "to_rgb"): [0.1] * len(grid[name]) for name in names if name.endswith("conv1")}
    return LatencyTable(tables.device_name("cpu"), "eager", 1, full, grid, ms, rgb, 1.0)


@pytest.fixture(scope="module")
def flat_32(generator) -> LatencyTable:
    """Time follows MACs, but the 32 px layers do not get faster with fewer channels."""
    return made_table(generator, lambda name, i, o: 0.5 if name.startswith("b32") else i * o / 1000)


def test_layers_add_up_to_the_call(generator):
    rows = profile_layers(generator, batch=2, executor="eager", repeats=2)
    assert [row["name"] for row in rows] == list(layer_work(generator, 2))
    assert sum(row["macs"] for row in rows) == 2 * total_macs(generator)
    assert all(row["ms"] > 0 for row in rows)
    last = {row["name"]: row["bytes"] for row in rows}["b32.conv1"]
    assert last == 4 * (2 * (32 + 33) * 32**2 + 9 * 32**2 + 32 + 1 + 17 * 32)
    with pytest.raises(ValueError, match="executor: got 'fast'"):
        profile_layers(generator, executor="fast")
    with pytest.raises(ValueError, match="repeats"):
        profile_layers(generator, repeats=0)


def test_the_runtime_is_taken_where_it_runs():
    with use_backend("reference"):
        assert default_executor("cpu") == default_executor("cuda") == "eager"
    with use_backend("native"):
        assert default_executor("cpu") == ("runtime" if native.REASON is None else "eager")


@pytest.mark.skipif(native.REASON is not None, reason=str(native.REASON))
def test_the_runtime_tells_its_layers_too(generator):
    rows = profile_layers(generator, executor="runtime", repeats=1)
    assert set(rows[0]) >= {"name", "ms", "macs", "bytes", "kernel"}
    table = measure_table(generator, executor="runtime", repeats=1, shares=(0.5, 1.0))
    least = {name: grid[0] for name, grid in table.grid.items()}
    assert table.executor == "runtime" and 0 < table.cost(least) <= table.cost(table.full)


def test_a_table_is_measured_kept_and_read(generator, tmp_path, monkeypatch):
    monkeypatch.setenv("CAGC_CACHE_DIR", str(tmp_path))
    table = latency_table(generator, executor="eager")
    (kept,) = (tmp_path / "latency").iterdir()
    assert "cores" in kept.name and LatencyTable.load(kept) == table
    monkeypatch.setattr(tables, "measure_table", lambda *_, **__: pytest.fail("measured again"))
    assert latency_table(generator, executor="eager") == table
    assert list(table.rgb) == [f"b{r}.to_rgb" for r in (4, 8, 16, 32)]
    for rows in table.ms.values():
        for i, row in enumerate(rows):
            assert row == sorted(row) and (i == 0 or all(a <= b for a, b in zip(rows[i - 1], row, strict=True)))
    full = table.cost(table.full)
    assert 0 < table.cost({name: 8 for name in table.full}) <= full


def test_a_damaged_cached_table_is_measured_anew(generator, tmp_path, monkeypatch, flat_32):
    monkeypatch.setenv("CAGC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tables, "measure_table", lambda *_, **__: flat_32)
    latency_table(generator, executor="eager")
    (kept,) = (tmp_path / "latency").iterdir()
    kept.write_text(kept.read_text()[:100])
    assert latency_table(generator, executor="eager") == LatencyTable.load(kept) == flat_32


def test_costs_are_interpolated(generator, flat_32):
    names, full = list(flat_32.full), flat_32.full
    expected = (
        1.0 + 0.4 + sum(full[a] * full[b] / 1000 for a, b in zip(names, names[1:]) if not b.startswith("b32")) + 1
    )
    assert flat_32.cost(full) == pytest.approx(expected)
    assert flat_32.cost(full | {"b8.conv0": 40}) - flat_32.cost(full) == pytest.approx(-24 * 128 / 1000)


def test_below_what_was_measured_nothing_gets_cheaper(generator):
    """A linear extrapolation of a table's steep end would give negative times."""
    table = made_table(generator, lambda name, i, o: 0.01 if min(i, o) == 8 else 5.0)
    costs = [table.cost(dict.fromkeys(table.full, width)) for width in (1, 4, 8, 9, 32)]
    assert 0 < costs[0] == costs[1] == costs[2] < costs[3] < costs[4]


@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_the_budget_is_met_and_used(generator, scores, flat_32, allocation):
    plan = plan_channels(generator, scores, latency_ms=10.0, latency=flat_32, allocation=allocation)
    assert 9.0 < flat_32.cost(plan.channels()) <= 10.0
    assert plan.rule["predicted_ms"] == pytest.approx(flat_32.cost(plan.channels()), abs=1e-5)
    assert plan.rule["latency_ms"] == 10.0 and plan.rule["device"] == flat_32.device


def test_channels_that_cost_no_time_are_kept(generator, scores, flat_32):
    plan = plan_channels(generator, scores, latency_ms=8.0, latency=flat_32).channels()
    by_macs = plan_channels(generator, scores, macs=0.3).channels()
    assert plan["b32.conv1"] == flat_32.full["b32.conv1"] > by_macs["b32.conv1"]


def test_a_saving_behind_a_plateau_is_found(generator, scores):
    """Narrowing to half the width saves nothing; narrowing further saves much."""
    table = made_table(generator, lambda name, i, o: 1.0 + 4.0 * (min(i, o) > 8))
    floor, full = table.cost({name: 8 for name in table.full}), table.cost(table.full)
    plan = plan_channels(generator, scores, latency_ms=(floor + full) / 2, latency=table)
    assert table.cost(plan.channels()) <= (floor + full) / 2


def test_what_does_not_fit_is_refused(generator, scores, flat_32, tmp_path):
    with pytest.raises(CagcError, match="budget of 0.001 ms: this generator reaches"):
        plan_channels(generator, scores, latency_ms=0.001, latency=flat_32)
    with pytest.raises(ValueError, match="macs, latency_ms, expected exactly one"):
        plan_channels(generator, scores, macs=0.5, latency_ms=5.0)
    with pytest.raises(CagcError, match="measured on Elsewhere"):
        plan_channels(generator, scores, latency_ms=5.0, latency=replace(flat_32, device="Elsewhere"))
    with pytest.raises(CagcError, match="measured for layers"):
        plan_channels(generator, scores, latency_ms=5.0, latency=replace(flat_32, full={}))
    with pytest.raises(ValueError, match="table of batch 4"):
        plan_channels(generator, scores, latency_ms=5.0, latency=replace(flat_32, batch=4))
    path = tmp_path / "table.json"
    replace(flat_32, device="Elsewhere").save(path)
    with pytest.raises(CagcError, match="measured on Elsewhere"):
        latency_table(generator, path=path)
    with pytest.raises(ValueError, match="batch"):
        latency_table(generator, batch=0)
    with pytest.raises(CagcError, match="architecture 'sngan'"):
        latency_table(SNGANGenerator(SNGANConfig.uniform(8, 2)))


def test_measuring_leaves_random_numbers_alone(generator):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    measure_table(generator, executor="eager", repeats=1, shares=(1.0,))
    assert torch.equal(torch.get_rng_state(), before)
