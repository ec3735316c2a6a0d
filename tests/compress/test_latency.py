"""Paired timing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cagc import evaluation, runtime
from cagc.latency import measure as latency
from cagc.latency.measure import LatencyResult, machine_info, measure_generators, measure_latency, speedup
from cagc.models.stylegan2 import Generator, GeneratorConfig


def test_candidates_take_turns_and_warm_up_is_not_timed():
    calls = []
    results = measure_latency({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=20, warmup=2)
    assert calls[:4] == ["a", "b"] * 2
    rounds = {tuple(calls[i : i + 2]) for i in range(4, 44, 2)}
    assert rounds == {("a", "b"), ("b", "a")}  # every round has both, not always one after the other
    assert list(results) == ["a", "b"]
    assert all(len(r.times_ms) == 20 for r in results.values())


def test_a_steady_call_follows_one_of_its_own():
    calls = []
    functions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    results = measure_latency(functions, repeats=20, warmup=0, prepare=lambda: calls.append("-"), steady=True)
    rounds = {tuple(calls[i : i + 6]) for i in range(0, 120, 6)}
    assert len(calls) == 120 and rounds == {tuple("a-ab-b"), tuple("b-ba-a")}
    assert all(len(r.times_ms) == 20 for r in results.values())


@pytest.fixture
def work(monkeypatch) -> Callable[[float], Callable[[], None]]:
    """A function that advances the measured clock by so many seconds, without taking real time."""
    now = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    return lambda seconds: lambda: now.__setitem__(0, now[0] + seconds)


def test_figures_are_milliseconds_of_the_calls(work):
    results = measure_latency({"slow": work(0.02), "fast": work(0.002)}, repeats=7)
    slow, fast = results["slow"], results["fast"]
    assert (slow.p10, slow.median_ms, slow.p90) == pytest.approx((20, 20, 20))
    assert fast.median_ms == pytest.approx(2) and speedup(slow, fast).median == pytest.approx(10)
    assert slow.to_dict() == {"median_ms": slow.median_ms, "p10_ms": slow.p10, "p90_ms": slow.p90, "repeats": 7}


def test_speedup_pairs_neighbours():
    """A disturbance that slows both calls of every second pair leaves the ratio alone."""
    slow = LatencyResult(0, 0, 0, (10.0, 100.0, 10.0, 100.0), {})
    fast = LatencyResult(0, 0, 0, (2.0, 20.0, 2.0, 20.0), {})
    ratio = speedup(slow, fast)
    assert ratio.median == ratio.p10 == ratio.p90 == 5.0
    with pytest.raises(ValueError, match="candidate: got 1 times, expected 4"):
        speedup(slow, LatencyResult(0, 0, 0, (1.0,), {}))


def test_min_seconds_adds_rounds(work):
    results = measure_latency({"a": work(0.25)}, repeats=1, warmup=0, min_seconds=1.5)
    assert len(results["a"].times_ms) == 6


def test_machine_is_described():
    info = machine_info()
    assert info["cpu"] and info["cores"] >= 1 and info["gpu"] is None
    assert info["torch"] == torch.__version__ and info["threads"] == torch.get_num_threads()
    (result,) = measure_latency({"a": int}, repeats=1).values()
    assert result.machine == info


@pytest.mark.parametrize(
    "arguments, name",
    [
        (({}, 3, 0), "functions"),
        (({"a": int}, 0, 0), "repeats"),
        (({"a": int}, 1, -1), "warmup"),
        (({"a": int}, 1, 0, -1), "min_seconds"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        measure_latency(*arguments)


def test_generators_are_timed_compiled_and_left_as_they_were(monkeypatch):
    config = GeneratorConfig.uniform(16, channel_base=128, channel_max=8, style_dim=16, mapping_layers=2)
    generators = {"teacher": Generator(config).train(), "student": Generator(config).eval().double()}
    seen = []
    call = runtime.CompiledGenerator.__call__
    monkeypatch.setattr(
        runtime.CompiledGenerator,
        "__call__",
        lambda self, z, c=None: seen.append((z.shape[0], z.dtype)) or call(self, z),
    )
    results = measure_generators(generators, batch=2, repeats=2, warmup=1)
    assert sorted(seen, key=str) == [(2, torch.float32)] * 5 + [(2, torch.float64)] * 5
    assert generators["teacher"].training and not generators["student"].training
    assert all(r.median_ms > 0 for r in results.values())
    with pytest.raises(ValueError, match="batch"):
        measure_generators(generators, batch=0)


def test_cuda_calls_are_waited_for(monkeypatch):
    order = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            order.append("event")

        def elapsed_time(self, end: Event) -> float:
            order.append("read")
            return 2.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("wait"))
    assert latency._time_cuda(lambda: order.append("call")) == 2.0
    assert order == ["wait", "event", "call", "event", "wait", "read"]


def test_noisy_times_are_measured_again_and_then_told(monkeypatch):
    calls = []

    def noisy(generators, batch, repeats, progress):
        calls.append(repeats)
        quiet = len(calls) == 2
        times = {"Teacher": (20.0, 4.0, 80.0), "Student": (20.0, 4.0, 80.0) if quiet else (20.0, 1.0, 20.0)}
        return {name: LatencyResult(20.0, min(t), max(t), t, {}) for name, t in times.items()}

    monkeypatch.setattr(evaluation, "measure_generators", noisy)
    evaluation._latency({}, 1, 3, lambda title: None)
    assert calls == [3, 6]
    with pytest.warns(UserWarning, match="the machine was too noisy to time Student against Teacher"):
        evaluation._latency({}, 1, 3, lambda title: None)
    assert calls == [3, 6, 3, 6, 12]
