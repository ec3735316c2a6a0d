"""The timing code of all benchmarks.

Candidates take turns, in another order every round, so that all of them see the same machine, and are compared round by
round (:func:`cagc.latency.measure.measure_latency`): ``time.perf_counter`` on the CPU, CUDA events on a GPU. Caches are
warm unless they are flushed before each call. The machine's roofs are measured in the same run.
"""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import torch

from cagc.common.allocator import keep_memory as keep_freed_memory
from cagc.common.allocator import libc
from cagc.latency.measure import measure_latency

Call = Callable[[], object]


def keep_memory() -> bool:
    """Make glibc keep freed memory, so that no candidate pays for fresh pages; returns whether this succeeded."""
    kept = keep_freed_memory()
    keep_memory.done = keep_memory.done or kept
    return kept


keep_memory.done = False


def allocator() -> str:
    """Return "kept" after :func:`keep_memory`, else "system"."""
    return "kept" if keep_memory.done else "system"


def pin_threads(threads: int | None = None) -> int:
    """Set the number of threads of PyTorch and of our kernels, by default the cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or usable)
    return torch.get_num_threads()


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _cache_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    levels = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [int(text[:-1]) * units[text[-1]] for text in (p.read_text().strip() for p in levels) if text[-1] in units]
    return max(sizes, default=32 * 2**20)


@cache
def _evictor(device: str) -> torch.Tensor:
    return torch.zeros(max(2 * _cache_bytes(device), 2**26) // 4, device=device)


def flush(device: str) -> None:
    """Empty the last-level cache by writing twice its size."""
    _evictor(device).add_(1)


def paired(
    candidates: Mapping[str, Call],
    rounds: int = 30,
    warmup: int = 3,
    cold: bool = False,
    device: str | None = None,
    steady: bool = False,
) -> dict[str, list[float]]:
    """Return seconds per call of each candidate, one entry per round.

    With ``cold``, caches are flushed before each call. With ``steady``, each timed call follows an untimed call of the
    same candidate.
    """
    device = device or default_device()
    prepare = partial(flush, device) if cold else None
    results = measure_latency(candidates, rounds, warmup, device=device, prepare=prepare, steady=steady)
    return {name: [ms / 1e3 for ms in result.times_ms] for name, result in results.items()}


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return median, 10th and 90th percentile."""
    if len(values) == 1:
        return (values[0],) * 3
    q = statistics.quantiles(values, n=10, method="inclusive")
    return statistics.median(values), q[0], q[-1]


def ratios(times: Mapping[str, list[float]], slow: str, fast: str) -> list[float]:
    """Return ``slow / fast`` round by round."""
    return [s / f for s, f in zip(times[slow], times[fast], strict=True)]


def ratio(times: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """Return the median of ``slow / fast`` over the rounds."""
    return statistics.median(ratios(times, slow, fast))


def milliseconds(times: list[float]) -> tuple[float, float, float]:
    """Return median, 10th and 90th percentile of ``times`` (seconds) in milliseconds."""
    return tuple(1e3 * t for t in spread(times))


def roofs(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Measure the machine's roofs, once per process and number of threads.

    "copy_gbs" counts the bytes read and written by a copy (256 MB in all). "matrix_gflops" is a matrix product of 2048³
    on the CPU and 8192³ on a GPU, with PyTorch's current TF32 setting.
    """
    return _roofs(device, dtype, torch.get_num_threads())


@cache
def _roofs(device: str, dtype: torch.dtype, threads: int) -> dict[str, float]:
    size = 2048 if device == "cpu" else 8192
    source, target = torch.zeros(2, 2**25, device=device).unbind()
    a, b = torch.randn(2, size, size, device=device).to(dtype).unbind()
    out = torch.empty_like(a)
    calls = {"copy": lambda: target.copy_(source), "matrix": lambda: torch.mm(a, b, out=out)}
    times = paired(calls, rounds=7, warmup=2, device=device)
    best = {name: min(seconds) for name, seconds in times.items()}
    return {
        "copy_gbs": round(2 * source.nbytes / best["copy"] / 1e9, 2),
        "matrix_gflops": round(2 * size**3 / best["matrix"] / 1e9, 1),
    }


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def memory(device: str) -> int | None:
    """Return the bytes in use now: allocated on a GPU; resident on the CPU, after returning freed memory."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    try:
        libc().malloc_trim(0)
        return _resident("VmRSS")
    except (AttributeError, OSError, StopIteration):
        return None


def peak_memory(call: Call, device: str) -> int | None:
    """Return the most bytes in use during ``call``, including everything that the process holds; None if unknown."""
    if memory(device) is None:
        return None
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's peak counter
        call()
        return _resident("VmHWM")
    except (OSError, StopIteration):
        return None
