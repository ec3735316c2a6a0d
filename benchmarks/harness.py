"""Timing that compares: candidates are called in turn, round after round, so that all of them see the same machine."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def keep_memory() -> bool:
    """Have glibc keep freed memory for the process, so that no side pays for fresh pages; whether it could be told."""
    trim_threshold, mmap_max = -1, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def paired(candidates: Mapping[str, Callable[[], object]], rounds: int = 30, warmup: int = 3) -> dict[str, list[float]]:
    """Seconds per call of each candidate, one entry per round; CUDA work is waited for."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(-warmup, rounds):
        for name, call in candidates.items():
            wait()
            start = time.perf_counter()
            call()
            wait()
            if i >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """Median over the rounds of ``slow / fast``."""
    return statistics.median(s / f for s, f in zip(times[slow], times[fast], strict=True))


def milliseconds(times: list[float]) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile."""
    q = statistics.quantiles(times, n=10)
    return tuple(1e3 * t for t in (statistics.median(times), q[0], q[-1]))
