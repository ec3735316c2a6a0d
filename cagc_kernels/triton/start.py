"""Launches the convolutions' kernels, or only compiles them, several at a time, before they are launched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

import triton

_compiling: ContextVar[bool] = ContextVar("compiling", default=False)


def start(kernel: triton.JITFunction, grid: tuple[int, ...], *arguments: object, **options: object) -> None:
    """Launch ``kernel[grid](*arguments, **options)``; within :func:`compiling`, only compile it."""
    if _compiling.get():
        kernel.warmup(*arguments, grid=grid, **options)
    else:
        kernel[grid](*arguments, **options)


@contextmanager
def compiling() -> Iterator[None]:
    """Compile the kernels started inside the block in parallel, without launching them.

    A kernel that does not compile raises only when it is launched. Threads suffice, because most of a compilation's
    time is the assembler, a separate process.
    """
    if _compiling.get():
        yield
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
        token = _compiling.set(True)
        try:
            yield
        finally:
            _compiling.reset(token)
