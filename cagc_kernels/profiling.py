"""NVTX ranges around every op and every layer of a generator, for Nsight Systems and Nsight Compute.

Off by default. On for a process with ``CAGC_NVTX=1``, or for a stretch of code::

    with cagc_kernels.profiling.nvtx_ranges():
        generator(z)

An op's range is named after the call, "bias_act lrelu [8,128,64,64] float32", a layer's after its module,
"synthesis.b64.conv0". While off, each op only reads one global. Code under ``torch.compile`` gets no ranges, because
compiled kernels no longer correspond to ops. docs/profiling.md shows how to use them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch

R = TypeVar("R")

# Number of reasons to record ranges: CAGC_NVTX=1, and each open nvtx_ranges() in any thread.
active = 0
# Called with the name of each layer as it starts; see :func:`observed_layers`.
_observers: list[Callable[[str], Any]] = []
_push: Callable[[str], Any] | None = None
_pop: Callable[[], Any] | None = None
_NOTHING = nullcontext()


def _load() -> None:
    """Find a library that records ranges: the ``nvtx`` package, else PyTorch's own in a CUDA build."""
    global _push, _pop
    try:
        import nvtx

        _push, _pop = nvtx.push_range, nvtx.pop_range
        return
    except ImportError:
        pass
    try:
        torch.cuda.nvtx.range_push("cagc")
        torch.cuda.nvtx.range_pop()
    except RuntimeError:
        raise RuntimeError("NVTX: the nvtx package is missing, and this PyTorch has none (pip install nvtx)") from None
    _push, _pop = torch.cuda.nvtx.range_push, torch.cuda.nvtx.range_pop


@contextmanager
def nvtx_ranges() -> Iterator[None]:
    """Record ranges inside the block, in all threads.

    Raises RuntimeError, on entry, if neither the ``nvtx`` package nor a PyTorch with CUDA is installed.
    """
    global active
    if _push is None:
        _load()
    active += 1
    try:
        yield
    finally:
        active -= 1


@contextmanager
def _range(name: str) -> Iterator[None]:
    pop = _pop
    _push(name)
    try:
        yield
    finally:
        pop()


@contextmanager
def observed_layers(observer: Callable[[str], Any]) -> Iterator[None]:
    """Call ``observer(name)`` inside the block when a layer of a generator begins, in any thread."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def layer_range(name: str) -> AbstractContextManager[None]:
    """Return a range around a layer, or a null context while ranges are off or a graph is compiled."""
    if not (active or _observers) or torch.compiler.is_compiling():
        return _NOTHING
    for observer in _observers:
        observer(name)
    return _range(name) if active else _NOTHING


def ranged(name: str, function: Callable[..., R], x: object, *arguments: object) -> R:
    """Return ``function(x, *arguments)``, run in a range named by ``name`` and the shape and dtype of ``x``.

    Ops test :data:`active` before calling this, which saves a function call while ranges are off.
    """
    if not torch.compiler.is_compiling():
        if isinstance(x, torch.Tensor):
            name = f"{name} [{','.join(map(str, x.shape))}] {str(x.dtype).removeprefix('torch.')}"
        with _range(name):
            return function(x, *arguments)
    return function(x, *arguments)


if os.environ.get("CAGC_NVTX") == "1":
    _load()
    active = 1
