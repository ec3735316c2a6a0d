"""Measures the time that a run spends in each phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class PhaseClock:
    """Seconds by phase. On a GPU, CUDA events measure them, so that no synchronisation is needed while training."""

    def __init__(self, device: torch.device | str) -> None:
        self._on_gpu = torch.device(device).type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time of the block for ``phase``; blocks do not nest."""
        start = self._now()
        try:
            yield
        finally:
            end = self._now()
            if self._on_gpu:
                self._events.append((phase, start, end))
            else:
                self._seconds[phase] = self._seconds.get(phase, 0.0) + end - start

    def _now(self):
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def take(self) -> dict[str, float]:
        """Seconds by phase since the last call, in the order in which the phases first ran."""
        if self._events:
            torch.cuda.synchronize()
        for phase, start, end in self._events:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + start.elapsed_time(end) / 1000
        seconds, self._seconds, self._events = self._seconds, {}, []
        return seconds
