"""Every launch of the convolutions goes through here, so that a whole list of them can be compiled before it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

import triton

_compiling: ContextVar[bool] = ContextVar("compiling", default=False)


def start(kernel: triton.JITFunction, grid: tuple[int, ...], *arguments: object, **options: object) -> None:
    """``kernel[grid](*arguments, **options)``; within :func:`compiling` it is only compiled."""
    if _compiling.get():
        kernel.warmup(*arguments, grid=grid, **options)
    else:
        kernel[grid](*arguments, **options)


@contextmanager
def compiling() -> Iterator[None]:
    """Compile what is launched inside side by side and launch nothing; what does not compile raises when it is used.

    Most of the time of a compilation is the assembler's, a process of its own: threads are enough.
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
