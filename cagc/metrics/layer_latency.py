"""Where the time of a generator goes, layer by layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from statistics import median

import torch

from ..models.stylegan2 import Generator
from ..seeds import z_batch

EXECUTORS = ("runtime", "eager")


def layer_names(generator: Generator) -> list[str]:
    """ "mapping", then "b4.conv1", "b4.to_rgb", "b8.conv0", ... in the order in which they run."""
    names = ["mapping"]
    for resolution in generator.synthesis.resolutions:
        block = getattr(generator.synthesis, f"b{resolution}")
        names += [f"b{resolution}.{part}" for part in ("conv0", "conv1", "to_rgb") if hasattr(block, part)]
    return names


class _Marks:
    """Moments at which a layer begins; what follows a layer, up to the next, counts as its own."""

    def __init__(self, device: torch.device) -> None:
        self.cuda, self.marks = device.type == "cuda", []

    def mark(self, name: str) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append((name, event))
        else:
            self.marks.append((name, time.perf_counter()))

    def milliseconds(self) -> dict[str, float]:
        if self.cuda:
            torch.cuda.synchronize()
        spent: dict[str, float] = {}
        for (name, start), (_, end) in zip(self.marks, self.marks[1:], strict=False):
            ms = start.elapsed_time(end) if self.cuda else 1e3 * (end - start)
            spent[name] = spent.get(name, 0.0) + ms
        return spent


@contextmanager
def _hooked(generator: Generator, marks: _Marks) -> Iterator[None]:
    handles = []
    for name in layer_names(generator):
        module = generator.mapping if name == "mapping" else generator.synthesis.get_submodule(name)
        hook = lambda module, arguments, name=name: marks.mark(name)  # noqa: E731
        handles.append(module.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def eager_profile(generator: Generator, z: torch.Tensor) -> dict[str, float]:
    """Milliseconds of each layer of one eager call, in inference mode; up-sampling the image counts as its toRGB's."""
    marks = _Marks(z.device)
    with torch.inference_mode(), _hooked(generator, marks):
        generator(z, noise="const")
        marks.mark("end")
    return marks.milliseconds()


def has_runtime() -> bool:
    return find_spec("cagc.runtime") is not None


def profiler(generator: Generator, batch: int, executor: str) -> Callable[[torch.Tensor], dict[str, float]]:
    """A function z → milliseconds of each layer of one call, by the way the generator is run.

    Args:
        executor: "runtime" (:func:`cagc.runtime.compile`) or "eager".

    Raises:
        ValueError: another executor.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"executor: got {executor!r}, expected one of {', '.join(EXECUTORS)}")
    if executor == "eager":
        return lambda z: eager_profile(generator, z)
    parameter = generator.w_avg
    compiled = import_module("cagc.runtime").compile(
        generator, batch=batch, dtype=parameter.dtype, device=str(parameter.device)
    )
    return compiled.profile


def profile_layers(
    generator: Generator, batch: int = 1, executor: str | None = None, repeats: int = 5, warmup: int = 1
) -> dict[str, float]:
    """Median milliseconds of each layer over ``repeats`` calls of ``batch`` images, after ``warmup`` untimed ones.

    ``executor`` None takes the runtime where there is one. Raises ValueError for numbers out of range.
    """
    for name, value, least in (("batch", batch, 1), ("repeats", repeats, 1), ("warmup", warmup, 0)):
        if value < least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")
    executor = executor or ("runtime" if has_runtime() else "eager")
    profile = profiler(generator, batch, executor)
    z = z_batch(range(batch), generator.config.style_dim).to(generator.w_avg)
    for _ in range(warmup):
        profile(z)
    runs = [profile(z) for _ in range(repeats)]
    return {name: median(run[name] for run in runs) for name in runs[0]}
