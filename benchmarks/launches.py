"""Counts, without a GPU, the kernels that a GPU would launch for images, and the bytes that they move.

``python -m benchmarks.launches`` runs the frozen generator with kernels that do nothing, under Triton's interpreter:
the compiled program (:func:`cagc.runtime.compile`), and the eager layers that it replaces, in which every operator of
PyTorch and of ``cagc_kernels`` counts as one kernel. Bytes are those of each kernel's tensors, read or written once;
cache hits are not counted. Nothing is timed; :mod:`benchmarks.roof` computes times from bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cagc.models import Generator, GeneratorConfig
from cagc_kernels import use_backend

from . import generators


class Counts(NamedTuple):
    """Launches and bytes by the kernel's name."""

    launches: Counter[str]
    moved: Counter[str]


def _bytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor's elements in memory; expanded dimensions count once."""
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride else min(length, 1)
    return size


class _Operators(TorchDispatchMode):
    """Counts operators, except views and allocations."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.name()
        if not function.is_view and "empty" not in name:
            tensors = [t for t in (*args, *(kwargs or {}).values(), out) if isinstance(t, torch.Tensor)]
            self.counts.launches[name] += 1
            self.counts.moved[name] += sum(map(_bytes, tensors))
        return out


@contextmanager
def counted() -> Iterator[Counts]:
    """Count launches inside the block: Triton kernels do not run, PyTorch's do. Needs TRITON_INTERPRET=1."""
    counts = Counts(Counter(), Counter())
    executor = import_module("triton.runtime.interpreter").GridExecutor
    run = executor.__call__

    def count(grid: object, *arguments: object, **options: object) -> None:
        name = grid.fn.__name__
        counts.launches[name] += 1
        counts.moved[name] += sum(_bytes(t) for t in arguments if isinstance(t, torch.Tensor))

    executor.__call__ = count
    try:
        with _Operators(counts):
            yield counts
    finally:
        executor.__call__ = run


@torch.inference_mode()
def of_program(generator: Generator, batch: int, dtype: torch.dtype) -> Counts:
    """Count the launches of the Triton program, with the default tiles for an H100."""
    from cagc.runtime.program import ProgramSynthesis
    from cagc_kernels.triton import synthesis
    from cagc_kernels.triton.gemm import configs

    choose, synthesis.choose = synthesis.choose, lambda problem, *_: configs.default(problem)
    try:
        with counted():
            program = synthesis.Program(generator.frozen_weights(), batch, dtype, "cpu")
            network = ProgramSynthesis(generator, program)
            z = torch.zeros(batch, generator.z_dim, dtype=dtype)
            program.workspace(batch)
        with counted() as counts:
            w = program.map(z)
            network(w[:, None].expand(-1, generator.num_ws, -1), noise_mode="const")
    finally:
        synthesis.choose = choose
    return counts


@torch.inference_mode()
def of_eager(generator: Generator, batch: int, dtype: torch.dtype) -> Counts:
    """Count the launches of the generator's eager layers with the native backend."""
    generator = generator.to(dtype)
    z = torch.zeros(batch, generator.z_dim, dtype=dtype)
    with use_backend("native"), counted() as counts:
        generator(z, noise="const")
    return counts


WAYS: dict[str, Callable[[Generator, int, torch.dtype], Counts]] = {
    "eager layers": of_eager,
    "compiled program": of_program,
}


def main(arguments: list[str] | None = None) -> int:
    """Print a row for each width and each way to run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    parser.add_argument("--kernels", action="store_true", help="a line for each kernel's name below each row")
    options = parser.parse_args(arguments)
    os.environ["TRITON_INTERPRET"] = "1"
    print("| widths | way | launches | MB |\n|---|---|---|---|")
    for name, width in generators.WIDTHS.items():
        config = GeneratorConfig(options.resolution, generators.widths(options.resolution, *width))
        for way, count in WAYS.items():
            generator = generators.random_generator(config, "cpu")
            launches, moved = count(generator, options.batch, getattr(torch, options.dtype))
            print(f"| {name} | {way} | {launches.total()} | {moved.total() / 1e6:.1f} |")
            for kernel, times in launches.most_common() if options.kernels else ():
                print(f"|  | {kernel} | {times} | {moved[kernel] / 1e6:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
