"""The harness, its rows, and their comparison."""

from __future__ import annotations

import copy
import json
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import compare, conftest, harness, results
from benchmarks.session import CLOCK, Session


def test_candidates_are_paired_and_caches_flushed(monkeypatch):
    calls = []
    monkeypatch.setattr(harness, "flush", lambda device: calls.append("flush"))
    times = harness.paired({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, 1, True, "cpu")
    assert calls[:2] == ["a", "b"] and calls[2::2] == ["flush"] * 6
    assert [set(calls[i : i + 4]) for i in (2, 6, 10)] == [{"flush", "a", "b"}] * 3
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


def test_spread_and_ratios():
    assert harness.spread([3.0]) == (3.0, 3.0, 3.0)
    assert harness.spread([float(i) for i in range(11)]) == pytest.approx((5.0, 1.0, 9.0))
    times = {"slow": [10.0, 100.0, 10.0], "fast": [2.0, 20.0, 1.0]}
    assert harness.ratios(times, "slow", "fast") == [5.0, 5.0, 10.0] and harness.ratio(times, "slow", "fast") == 5.0


def test_roofs_are_of_this_machine():
    roofs = harness.roofs("cpu", torch.float32)
    assert roofs["copy_gbs"] > 0.1 and roofs["matrix_gflops"] > 1
    assert harness.roofs("cpu", torch.float32) is roofs


def test_peak_memory_sees_what_a_call_holds():
    base = harness.memory("cpu")
    peak = harness.peak_memory(lambda: torch.ones(2**25).sum(), "cpu")
    if base is None or peak is None:
        pytest.skip("this system does not tell")
    assert 0.9 * 2**27 < peak - base < 1.5 * 2**27


def a_row(median: float = 10.0, implementation: str = "runtime", width: str = "full") -> results.Row:
    times = {implementation: [median / 1e3 * f for f in (0.9, 1.0, 1.1)], "other": [0.02, 0.02, 0.02]}
    about = {"shape": (1,), "bytes": 5, "macs": 7, "figures": {"x": 1}}
    return results.make_row("generators", implementation, {"widths": width}, times, "cpu", **about)


def test_a_row_tells_what_it_depends_on():
    row = json.loads(json.dumps(a_row(), allow_nan=False))
    assert row["ms"]["median"] == pytest.approx(10.0) and row["ms"]["rounds"] == 3
    assert row["ratios"]["other"]["median"] == pytest.approx(2.0)
    assert row["device"]["threads"] == torch.get_num_threads() and row["versions"]["torch"] == torch.__version__
    for name in ("roofs", "commit", "command", "at", "allocator", "dtype", "shape", "bytes", "macs"):
        assert name in row


def test_torn_lines_and_other_versions_are_skipped_and_counted(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    results.append(path, [a_row()])
    with path.open("a") as file:
        file.write(json.dumps(a_row() | {"schema": 0}) + "\n[1]\n")
        file.write(json.dumps(a_row())[:90])
    results.append(path, [a_row(12.0)])
    loaded = results.read(path)
    assert [row["ms"]["median"] for row in loaded.rows] == pytest.approx([10.0, 12.0])
    assert (loaded.torn, loaded.other_version) == (1, 2)
    assert loaded.skipped() == "1 line torn, 2 lines of another version"
    assert [row["ms"]["median"] for row in loaded.latest().values()] == pytest.approx([12.0])


@pytest.fixture
def files(tmp_path):
    def write(name, *rows):
        results.append(tmp_path / name, rows)
        return str(tmp_path / name)

    return write


def test_slower_beyond_the_spread(files, capsys):
    before = files("a", a_row(10.0), a_row(10.0, width="0.3"), a_row(5.0, "native"))
    after = files("b", a_row(11.5), a_row(13.0, width="0.3"), a_row(4.0, "native"), a_row(1.0, width="new"))
    assert compare.main([before, after]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("1.30x  generators runtime widths=0.3")
    assert lines[1] == "1 of 3 measurements slower beyond their spread"
    assert compare.main([before, before]) == 0


def test_a_changed_device_is_refused(files, capsys):
    other = copy.deepcopy(a_row())
    other["device"]["threads"] = 64
    assert compare.main([files("a", a_row()), files("b", other)]) == 2
    assert "the device changed: threads" in capsys.readouterr().err
    assert compare.main([files("c", a_row(), other), files("d", a_row())]) == 2
    assert "rows of 2 devices" in capsys.readouterr().err
    assert compare.main([files("a"), str(files("x", a_row())) + ".absent"]) == 2


def test_cases_may_set_their_threads(files):
    one = copy.deepcopy(a_row())
    one["case"]["threads"] = one["device"]["threads"] = 1
    two = copy.deepcopy(a_row())
    two["case"]["threads"] = two["device"]["threads"] = 2
    assert compare.main([files("a", one, two), files("b", one, two)]) == 0


def test_a_slower_machine_is_named(files, capsys):
    slow = a_row(20.0)
    slow["roofs"] = {name: value / 2 for name, value in slow["roofs"].items()}
    assert compare.main([files("a", a_row()), files("b", slow)]) == 1
    assert "roofs were 2.00 and 2.00 times lower" in capsys.readouterr().out


@pytest.mark.benchmark(timer=CLOCK)
def test_times_reach_pytest_benchmark_as_measured(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "disabled", False)  # which it is beside other workers of pytest-xdist
    session = Session(True, None, tmp_path, None, (), "cpu")
    times = {"runtime": [0.009, 0.01, 0.011]}
    session.publish(benchmark, "generators", "runtime", {}, times, shape=(1,), bytes=5, macs=7)
    assert benchmark.stats.stats.median == pytest.approx(0.01) and benchmark.stats.stats.rounds == 3
    assert results.read(tmp_path / "generators.jsonl").rows[0]["macs"] == 7


def test_only_changes_of_code_mark_a_commit(monkeypatch):
    asked = []
    monkeypatch.setattr(results, "_command", lambda *words: asked.append(words) or ("abc" if len(asked) == 1 else None))
    assert results.commit.__wrapped__() == "abc"
    assert asked[1][:2] == ("git", "status") and ":!benchmarks/results" in asked[1]


def test_an_absent_folder_of_peers_is_refused_at_once(tmp_path):
    config = SimpleNamespace(getoption=lambda name, default: tmp_path / "absent")
    with pytest.raises(pytest.UsageError, match="--peers: .*absent, expected a folder"):
        conftest.pytest_configure(config)


def test_once_keeps_the_last_measurement_only(tmp_path):
    session, made = Session(True, None, tmp_path, None, ("a",), "cpu"), []
    measure = lambda: made.append(time.time()) or len(made)  # noqa: E731
    assert [session.once(key, measure) for key in ("x", "x", "y", "x")] == [1, 1, 2, 3]
    assert session.rounds(9) == 2 and session.wants("a") and not session.wants("b")
