"""Times bias_act and upfirdn2d beside plain PyTorch and a copy, on the layers of the 256 px generator.

``pytest benchmarks/bench_ops.py`` times each op × backend × layer, and records the bytes moved, GB/s, the speed
relative to a copy and the speed-up over plain PyTorch (for upfirdn2d a depthwise convolution of the padded input), all
timed in turns in the same rounds.

The layers are those of the StyleGAN2 generator at 256 px, full and pruned (a width of 0.3, and that rounded to 8), and
of its discriminator. "copy" is ``x.clone()`` of as many bytes, read once and written once; like the ops it allocates
its result, and "share of a copy" refers to it. "copy_" writes into existing memory. On the CPU the allocator keeps
freed memory, because touching fresh pages costs several passes over memory and would hide the kernels. ``--fresh``
leaves the allocator unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch

from cagc_kernels import bias_act, setup_filter, upfirdn2d
from cagc_kernels.backend import refusal

from .harness import milliseconds, paired, ratio

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ("native", "triton")
# Widths at 32, 128 and 256 px.
WIDTHS = {"full": (512, 256, 128), "0.3": (154, 77, 39), "0.3 by 8": (160, 80, 40)}
RESOLUTIONS = (32, 128, 256)
# Calls of upfirdn2d in the layers of a resolution: (options, rows of the input beyond the resolution).
RESAMPLING = {
    "blur": ({"padding": 1, "gain": 4.0}, 1),  # after the transposed convolution of an up-sampling layer
    "up": ({"up": 2, "padding": [2, 1, 2, 1], "gain": 4.0}, 0),
    "down": ({"down": 2, "padding": 1}, 0),
}
# (pass, dtype, one thread)
MODES = (
    ("forward", torch.float32, False),
    ("forward", torch.float32, True),
    ("backward", torch.float32, False),
    ("forward", torch.bfloat16, False),
    ("forward", torch.float16, False),
)


class Case(NamedTuple):
    """One op on one layer."""

    op: str
    widths: str
    channels: int
    size: int
    last: bool

    @property
    def name(self) -> str:
        layout = "nhwc" if self.last else "nchw"
        return f"{self.op} {self.widths} {self.channels}x{self.size}x{self.size} {layout}"


CASES = [
    Case(op, widths, c, size, last)
    for widths, channels in WIDTHS.items()
    for c, size in zip(channels, RESOLUTIONS, strict=True)
    for last in (False, True)
    for op in ("bias_act", *RESAMPLING)
]


class Work(NamedTuple):
    """What is timed: a call by backend, the number of elements that it reads and writes, and its MACs."""

    run: Callable[[str], object]
    elements: int
    dtype: torch.dtype
    shape: torch.Size
    macs: int

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize


def multiply_adds(op: str, x: torch.Tensor, out: torch.Tensor, backward: bool = False) -> int:
    """Count the MACs of the formula: the filter's 16 taps without inserted zeros, one per element for bias_act."""
    if op == "bias_act":
        return out.numel()
    step = {"up": x, "down": out}.get(op, out)
    return 16 * (x if backward and op == "blur" else step).numel()


def prepare(case: Case, dtype: torch.dtype, backward: bool = False) -> Work:
    """Create random tensors of a layer and its op, or the backward pass with respect to x (and b) of a kept graph."""
    options, more = RESAMPLING.get(case.op, ({}, 0))
    side = case.size // 2 if case.op == "up" else case.size + more  # up-sampled layers come from half their size
    memory_format = torch.channels_last if case.last else torch.contiguous_format
    x = torch.randn(1, case.channels, side, side, device=DEVICE).to(dtype).contiguous(memory_format=memory_format)
    b = torch.randn(case.channels, device=DEVICE).to(dtype)
    f = setup_filter([1, 3, 3, 1], DEVICE)
    if case.op == "bias_act":
        leaves, forward = (x, b), lambda backend: bias_act(x, b, act="lrelu", backend=backend)
    else:
        leaves, forward = (x,), lambda backend: upfirdn2d(x, f, **options, backend=backend)
    out = forward("reference")
    if not backward:
        return Work(forward, x.numel() + out.numel(), dtype, out.shape, multiply_adds(case.op, x, out))
    for leaf in leaves:
        leaf.requires_grad_()
    with torch.enable_grad():
        outputs = {name: forward(name) for name in ("reference", *BACKENDS) if not refusal(name, "upfirdn2d", DEVICE)}
    g = torch.randn_like(out)
    run = lambda backend: torch.autograd.grad(outputs[backend], leaves, g, retain_graph=True)  # noqa: E731
    reads = 2 if case.op == "bias_act" else 1  # the gradient, and for lrelu the saved output
    macs = multiply_adds(case.op, x, out, True)
    return Work(run, reads * out.numel() + x.numel(), dtype, x.shape, macs)


def measure(work: Work, backend: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of each candidate, and the figures of ``backend``."""
    source = torch.empty(work.elements // 2, dtype=work.dtype, device=DEVICE).normal_()
    target = torch.empty_like(source)
    calls = {
        "copy": source.clone,
        "copy_": lambda: target.copy_(source),
        "torch": lambda: work.run("reference"),
        backend: lambda: work.run(backend),
    }
    times = paired(calls, rounds)
    seconds = milliseconds(times[backend])[0] / 1e3
    figures = {
        "MB": work.bytes / 1e6,
        "GB/s": work.bytes / seconds / 1e9,
        "share of a copy": ratio(times, "copy", backend),
        "share of a copy_": ratio(times, "copy_", backend),
        "times torch": ratio(times, "torch", backend),
    }
    return times, {name: round(value, 3) for name, value in figures.items()}


@contextmanager
def threads(single: bool) -> Iterator[int]:
    """Run the block on one thread, or on the current number; yields the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if single else before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _name(mode: tuple[str, torch.dtype, bool]) -> str:
    phase, dtype, single = mode
    return f"{phase} {str(dtype).removeprefix('torch.')}" + (" on one thread" if single else "")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES, ids=_name)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_op(benchmark, session, case, mode, backend):
    phase, dtype, single = mode
    if reason := refusal(backend, "upfirdn2d", DEVICE):
        pytest.skip(reason)
    if session.quick and (case.size > 32 or mode != MODES[0]):
        pytest.skip("--quick: the smallest layers only")
    if dtype == torch.float16 and DEVICE == "cpu" and (case.size, case.widths) != (RESOLUTIONS[0], "0.3 by 8"):
        pytest.skip("PyTorch's float16 convolution takes a second for a larger layer on the CPU")
    if single and (DEVICE == "cuda" or torch.get_num_threads() == 1):
        pytest.skip("nothing but one thread here")
    with threads(single) as count, torch.no_grad():
        work = prepare(case, dtype, phase == "backward")
        times, figures = measure(work, backend, session.rounds(12 if dtype == torch.float32 else 6))
        tolerance = 1e-4 if dtype == torch.float32 else 0.1  # the reference rounds at each step
        torch.testing.assert_close(work.run(backend), work.run("reference"), rtol=tolerance, atol=tolerance)
    about = {"layer": case.name, "pass": phase, "threads": count}
    session.publish(
        benchmark, "ops", backend, about, times,
        dtype=dtype, shape=work.shape, bytes=work.bytes, macs=work.macs, figures=figures,
    )  # fmt: skip
