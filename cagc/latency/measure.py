"""Measures wall-clock time of several candidates on a machine that runs other work too.

Candidates take turns, in a random order every round, and are compared round by round. Other load and the state of the
caches then affect all of them alike: on a shared machine single times vary by tens of percent, ratios within a round
do not.
"""

from __future__ import annotations

import gc
import os
import platform
import random
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import runtime
from ..common.callbacks import Progress
from ..common.seeds import inputs_of_seeds


def machine_info(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Describe the machine: cpu, cores (usable by this process), threads, gpu (or None), torch, python, system."""
    device = torch.device(device)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@dataclass(frozen=True)
class LatencyResult:
    """Times of one candidate in milliseconds.

    Attributes:
        median_ms, p10, p90: median, 10th and 90th percentile of `times_ms`.
        times_ms: time of every timed call, in order.
        machine: `machine_info` of the run.
    """

    median_ms: float
    p10: float
    p90: float
    times_ms: tuple[float, ...] = field(repr=False)
    machine: dict[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary, without the time of each call."""
        return {"median_ms": self.median_ms, "p10_ms": self.p10, "p90_ms": self.p90, "repeats": len(self.times_ms)}


@dataclass(frozen=True)
class Speedup:
    """How many times faster a candidate is: median and percentiles of the ratio baseline / candidate per round."""

    median: float
    p10: float
    p90: float


def speedup(baseline: LatencyResult, candidate: LatencyResult) -> Speedup:
    """Ratios baseline / candidate, call by call, of two results of the same `measure_latency`.

    Raises ValueError when the two were not timed the same number of times.
    """
    if len(baseline.times_ms) != len(candidate.times_ms):
        raise ValueError(
            f"candidate: got {len(candidate.times_ms)} times, expected {len(baseline.times_ms)} as baseline: "
            "only results of one run can be paired"
        )
    ratios = np.asarray(baseline.times_ms) / np.asarray(candidate.times_ms)
    return Speedup(*_percentiles(ratios))


def settled(baseline: LatencyResult, candidate: LatencyResult, tolerance: float = 0.1) -> bool:
    """Whether the median ratio agrees with the ratio of the median times, within the relative `tolerance`.

    If not, the machine was too noisy: the printed ratio would contradict the two printed times.
    """
    quotient = baseline.median_ms / candidate.median_ms
    return abs(speedup(baseline, candidate).median / quotient - 1) <= tolerance


def _percentiles(values: np.ndarray) -> tuple[float, float, float]:
    p50, p10, p90 = np.percentile(values, [50, 10, 90])
    return float(p50), float(p10), float(p90)


@contextmanager
def _no_garbage_collection():
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _time_cpu(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def _time_cuda(function: Callable[[], Any]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def measure_latency(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int = 20,
    warmup: int = 3,
    min_seconds: float = 0.0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    prepare: Callable[[], Any] | None = None,
    steady: bool = False,
) -> dict[str, LatencyResult]:
    """Time the functions by turns, `repeats` rounds and at least `min_seconds` in all, after `warmup` untimed rounds.

    The clock is `time.perf_counter` on the CPU and CUDA events on a GPU. progress(done, repeats) is called after each
    of the first `repeats` rounds, prepare() before each timed call, untimed. Raises ValueError for an empty mapping or
    numbers out of range, before anything runs.

    The order within a round is random (from a fixed seed), because the first call after a large one finds cold caches,
    and that must not be the same function in every round. With `steady` each timed call follows an untimed call of the
    same function, so that the caches hold that function's own data.
    """
    if not functions:
        raise ValueError("functions: got none, expected at least one callable")
    for name, value, least in (("repeats", repeats, 1), ("warmup", warmup, 0), ("min_seconds", min_seconds, 0)):
        if value < least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")
    device = torch.device(device)
    clock = _time_cuda if device.type == "cuda" else _time_cpu
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(warmup):
        for function in functions.values():
            function()
    start, rounds, order = time.perf_counter(), 0, random.Random(0)
    with _no_garbage_collection():
        while rounds < repeats or time.perf_counter() - start < min_seconds:
            for name in order.sample(list(functions), len(functions)):
                if steady:
                    functions[name]()
                if prepare is not None:
                    prepare()
                times[name].append(clock(functions[name]))
            rounds += 1
            if progress is not None and rounds <= repeats:
                progress(rounds, repeats)
    machine = machine_info(device)
    return {name: LatencyResult(*_percentiles(np.asarray(t)), tuple(t), machine) for name, t in times.items()}


def measure_generators(
    generators: Mapping[str, nn.Module],
    batch: int = 1,
    repeats: int = 20,
    warmup: int = 3,
    min_seconds: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, LatencyResult]:
    """Time whole images: z [batch, z_dim] → image [batch, 3, R, R] with constant noise, by `cagc.runtime.compile`.

    Each timed call follows an untimed one of the same generator, as when one generator draws many images: otherwise the
    weights of a small generator would have been evicted from the caches by the large one. All generators must be on one
    device. Otherwise as `measure_latency`.
    """
    if batch < 1:
        raise ValueError(f"batch: got {batch}, expected at least 1")
    devices = {next(g.parameters()).device for g in generators.values()}
    if len(devices) > 1:
        raise ValueError(f"generators: got devices {sorted(map(str, devices))}, expected a single one")
    device = devices.pop() if devices else torch.device("cpu")

    def image(generator: nn.Module) -> Callable[[], Any]:
        dtype = next(generator.parameters()).dtype
        compiled = runtime.compile(generator, batch, dtype, device)
        z, c = inputs_of_seeds(generator, range(seed, seed + batch))
        return lambda: compiled(z, c)

    calls = {name: image(generator) for name, generator in generators.items()}
    return measure_latency(calls, repeats, warmup, min_seconds, device, progress, steady=True)
