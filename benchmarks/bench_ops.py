"""bias_act and upfirdn2d against the plain PyTorch composition and a copy.

``pytest benchmarks/bench_ops.py`` (pytest-benchmark) times each op × backend × layer, and notes beside each time the
bytes moved, GB/s, its share of a copy's and the speed-up over plain PyTorch, all three timed in turn in the same
rounds. ``python -m benchmarks.bench_ops`` prints the same as a table.

The layers are those of the StyleGAN2 generator at 256 px, full and pruned (a width of 0.3, and that rounded to 8), and
of its discriminator. A copy reads and writes as many bytes once, and allocates its result as the ops do. On the CPU
the allocator is told to keep what is freed: fresh pages cost several times a pass over memory, to all sides, and hide
the kernels. ``--fresh`` leaves the allocator as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch

from cagc_kernels import bias_act, explain, setup_filter, upfirdn2d
from cagc_kernels.backend import refusal

from .harness import keep_memory, milliseconds, paired, ratio
from .results import make_row

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ("native", "triton")
# Widths at 32, 128 and 256 px.
WIDTHS = {"full": (512, 256, 128), "0.3": (154, 77, 39), "0.3 by 8": (160, 80, 40)}
RESOLUTIONS = (32, 128, 256)
# What the layers of a given resolution ask of upfirdn2d: (options, growth of the input over the resolution).
RESAMPLING = {
    "blur": ({"padding": 1, "gain": 4.0}, 1),  # after the transposed convolution of an up-sampling layer
    "up": ({"up": 2, "padding": [2, 1, 2, 1], "gain": 4.0}, 0),
    "down": ({"down": 2, "padding": 1}, 0),
}


class Row(NamedTuple):
    """One op on one layer: what to run, and how many elements it reads and writes."""

    name: str
    run: Callable[[str], torch.Tensor]
    elements: int
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize

    def roof(self) -> torch.Tensor:
        """A tensor whose copy moves as many bytes."""
        return torch.empty(self.elements // 2, dtype=self.dtype, device=DEVICE).normal_()


def _images(channels: int, size: int, last: bool, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(1, channels, size, size, device=DEVICE).to(dtype)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _bias_act(label: str, channels: int, size: int, last: bool, dtype: torch.dtype) -> Row:
    x, b = _images(channels, size, last, dtype), torch.randn(channels, device=DEVICE).to(dtype)
    run = lambda backend: bias_act(x, b, act="lrelu", backend=backend)  # noqa: E731
    return Row(f"bias_act {label}", run, 2 * x.numel(), dtype)


def _upfirdn2d(label: str, op: str, channels: int, size: int, last: bool, dtype: torch.dtype) -> Row:
    options, more = RESAMPLING[op]
    x, f = _images(channels, size + more, last, dtype), setup_filter([1, 3, 3, 1], DEVICE)
    run = lambda backend: upfirdn2d(x, f, **options, backend=backend)  # noqa: E731
    return Row(f"{op} {label}", run, x.numel() + run("reference").numel(), dtype)


def rows(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Row]]]:
    """(name, maker) of every row: tensors are made when their turn comes."""
    for widths, channels in WIDTHS.items():
        for c, size in zip(channels, RESOLUTIONS, strict=True):
            for last in (False, True):
                label = f"{widths} {c}x{size}x{size} {'nhwc' if last else 'nchw'}"
                arguments = (label, c, size, last, dtype)
                yield f"bias_act {label}", lambda a=arguments: _bias_act(*a)
                for op in RESAMPLING:
                    # An up-sampled layer of this resolution comes from half of it.
                    a = (label, op, c, size // 2 if op == "up" else size, last, dtype)
                    yield f"{op} {label}", lambda a=a: _upfirdn2d(*a)


def measure(row: Row, backend: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """(seconds of each candidate, figures)."""
    roof = row.roof()
    calls = {
        "copy": lambda: roof.clone(),
        "torch": lambda: row.run("reference"),
        backend: lambda: row.run(backend),
    }
    times = paired(calls, rounds)
    seconds = milliseconds(times[backend])[0] / 1e3
    figures = {
        "MB": row.bytes / 1e6,
        "GB/s": row.bytes / seconds / 1e9,
        "share of a copy": ratio(times, "copy", backend),
        "times torch": ratio(times, "torch", backend),
    }
    return times, {name: round(value, 3) for name, value in figures.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name, make", [pytest.param(name, make, id=name) for name, make in rows(torch.float32)])
def test_op(benchmark, session, name, make, backend):
    if reason := refusal(backend, "upfirdn2d", DEVICE):
        pytest.skip(reason)
    if session.quick and "32x32" not in name:
        pytest.skip("--quick: the smallest layers only")
    row = make()
    with torch.no_grad():
        times, figures = measure(row, backend, session.rounds(20))
        torch.testing.assert_close(row.run(backend), row.run("reference"), rtol=1e-4, atol=1e-4)
    case = {"layer": name}
    made = make_row("ops", backend, case, times, DEVICE, dtype=row.dtype, bytes=row.bytes, figures=figures)
    session.publish(benchmark, made, times[backend])


def main(arguments: list[str] | None = None) -> int:
    """Print the table; milliseconds are medians, ratios medians over paired rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "float16", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--backend", default="native", choices=BACKENDS)
    parser.add_argument("--fresh", action="store_true", help="let the allocator return memory to the system")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args(arguments)
    kept = not options.fresh and keep_memory()
    memory = "kept" if kept else "as the system has it"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, memory {memory}")
    print(explain("upfirdn2d", DEVICE, options.dtype))
    print(f"| layer | MB | copy ms | torch ms | {options.backend} ms | GB/s | of a copy | times torch |")
    print("|---" * 8 + "|")
    torch.set_grad_enabled(False)
    for name, make in rows(getattr(torch, options.dtype)):
        if options.only in name:
            times, figures = measure(make(), options.backend, options.rounds)
            cells = [f"{milliseconds(t)[0]:.3f}" for t in times.values()]
            shown = [f"{figures[k]:.2f}" for k in ("GB/s", "share of a copy", "times torch")]
            print(f"| {name} | {figures['MB']:.1f} | {' | '.join(cells + shown)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
