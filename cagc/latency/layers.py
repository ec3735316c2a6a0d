"""Profiles a generator layer by layer."""

from __future__ import annotations

import time
from typing import Any

import torch

from cagc_kernels import backend
from cagc_kernels.profiling import observed_layers

from .. import runtime
from ..common.checks import choice
from ..common.seeds import inputs_of_seeds
from ..models import AnyGenerator
from .work import layer_work

Row = dict[str, Any]
EXECUTORS = ("runtime", "eager")


class _Marks:
    """Records when each layer begins; the time until the next layer begins counts for it."""

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


def _eager_rows(
    generator: AnyGenerator, batch: int, z: torch.Tensor, c: torch.Tensor | None, repeats: int
) -> list[Row]:
    rows = {spec.module: spec.row for spec in generator.config.layers() if spec.row is not None}
    rows["mapping"] = "mapping"
    runs = []
    with torch.inference_mode():
        for _ in range(repeats):
            marks = _Marks(z.device)
            # Profiling ranges, not module hooks: hooks would keep layers from being fused.
            with observed_layers(lambda name: name in rows and marks.mark(rows[name])):
                generator(z, c, noise_mode="const")
                marks.mark("end")
            runs.append(marks.milliseconds())
    work = layer_work(generator, batch)
    return [
        {"name": name, "ms": min(run[name] for run in runs), "macs": macs, "bytes": moved, "kernel": "eager"}
        for name, (macs, moved) in work.items()
    ]


def default_executor(device: torch.device | str) -> str:
    """The fastest executor on ``device`` that times layers separately: "runtime" with the CPU program, else "eager"."""
    kind = torch.device(device).type
    taken = backend.select("modulated_conv2d", None, backend.preferred(), kind)
    return "runtime" if (kind, taken) == ("cpu", "native") else "eager"


def profile_layers(generator: AnyGenerator, batch: int = 1, executor: str | None = None, repeats: int = 5) -> list[Row]:
    """Rows of name, ms, macs, bytes and kernel, in the order in which the layers run; they add up to a call.

    ms is the minimum over ``repeats`` calls, after an untimed one, in inference mode with constant noise. bytes:
    activations read and written once, weights read once. Up-sampling of the image counts with its toRGB. The runtime
    has one row for a convolution together with its toRGB, and one row for all styles.

    Args:
        executor: "runtime" (:func:`cagc.runtime.compile`) or "eager"; None: :func:`default_executor`.

    Raises:
        ValueError: unknown ``executor``, a number out of range, or a generator that the runtime does not support.
    """
    for name, value in (("batch", batch), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1")
    executor = check_executor(executor, generator.w_avg.device)
    z, c = inputs_of_seeds(generator, range(batch))
    if executor == "eager":
        _eager_rows(generator, batch, z, c, 1)
        return _eager_rows(generator, batch, z, c, repeats)
    compiled = runtime.compile(generator, batch=batch)
    compiled.profile(z, repeats=1, c=c)
    return compiled.profile(z, repeats=repeats, c=c)


def check_executor(executor: str | None, device: torch.device | str) -> str:
    """``executor``, or for None the default one of ``device``. Raises ValueError for an unknown one."""
    if executor is None:
        return default_executor(device)
    choice("executor", executor, EXECUTORS)
    return executor
