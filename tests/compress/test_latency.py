"""Paired timing."""

import time

import pytest
import torch

from cagc import runtime
from cagc.metrics.latency import LatencyResult, machine_info, measure_generators, measure_latency, speedup
from cagc.models.stylegan2 import Generator, GeneratorConfig


def test_candidates_take_turns_and_warm_up_is_not_timed():
    calls = []
    results = measure_latency({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=20, warmup=2)
    assert calls[:4] == ["a", "b"] * 2
    rounds = {tuple(calls[i : i + 2]) for i in range(4, 44, 2)}
    assert rounds == {("a", "b"), ("b", "a")}  # every round has both, not always one after the other
    assert list(results) == ["a", "b"]
    assert all(len(r.times_ms) == 20 for r in results.values())


def test_figures_are_milliseconds_of_the_calls():
    results = measure_latency({"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.002)}, repeats=7)
    slow, fast = results["slow"], results["fast"]
    assert slow.p10 <= slow.median_ms <= slow.p90
    assert 20 <= slow.median_ms < 200 and 2 <= fast.median_ms < slow.median_ms
    assert speedup(slow, fast).median > 1.5
    assert slow.to_dict() == {"median_ms": slow.median_ms, "p10_ms": slow.p10, "p90_ms": slow.p90, "repeats": 7}


def test_speedup_pairs_neighbours():
    """A disturbance that slows both calls of every second pair leaves the ratio alone."""
    slow = LatencyResult(0, 0, 0, (10.0, 100.0, 10.0, 100.0), {})
    fast = LatencyResult(0, 0, 0, (2.0, 20.0, 2.0, 20.0), {})
    ratio = speedup(slow, fast)
    assert ratio.median == ratio.p10 == ratio.p90 == 5.0
    with pytest.raises(ValueError, match="candidate has 1 times, expected 4"):
        speedup(slow, LatencyResult(0, 0, 0, (1.0,), {}))


def test_min_seconds_adds_rounds():
    results = measure_latency({"a": lambda: time.sleep(0.002)}, repeats=1, warmup=0, min_seconds=0.03)
    assert len(results["a"].times_ms) > 1


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
        runtime.CompiledGenerator, "__call__", lambda self, z: seen.append((z.shape[0], z.dtype)) or call(self, z)
    )
    results = measure_generators(generators, batch=2, repeats=2, warmup=1)
    assert sorted(seen, key=str) == [(2, torch.float32)] * 3 + [(2, torch.float64)] * 3
    assert generators["teacher"].training and not generators["student"].training
    assert all(r.median_ms > 0 for r in results.values())
    with pytest.raises(ValueError, match="batch"):
        measure_generators(generators, batch=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_calls_are_waited_for():
    a = torch.randn(4096, 4096, device="cuda")
    results = measure_latency({"one": lambda: a @ a, "ten": lambda: [a @ a for _ in range(10)]}, device="cuda")
    assert 5 < speedup(results["ten"], results["one"]).median < 20
    assert results["one"].machine["gpu"]
