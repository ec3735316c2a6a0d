"""One run of the benchmarks: its options, its rows, and how they reach pytest-benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .results import Row, append


class Clock:
    """The timer and the function of a pytest-benchmark test: each call of ``advance`` takes the next recorded time."""

    def __init__(self) -> None:
        self.now, self.pending = 0.0, iter(())

    def __call__(self) -> float:
        return self.now

    def advance(self) -> None:
        self.now += next(self.pending, 0.0)


CLOCK = Clock()


@dataclass
class Session:
    """One run of the benchmarks.

    Attributes:
        quick, peers, only: the options.
        device: "cuda" where there is one.
    """

    quick: bool
    peers: Path | None
    results: Path
    asked_rounds: int | None
    only: tuple[str, ...]
    device: str
    _measured: dict[Any, Any] = field(default_factory=dict)

    def rounds(self, usual: int) -> int:
        """Timed rounds of a case."""
        return self.asked_rounds or (2 if self.quick else usual)

    def wants(self, implementation: str) -> bool:
        return not self.only or implementation in self.only

    def once(self, key: Any, measure: Callable[[], Any]) -> Any:
        """``measure()``, kept until another key asks: cases of one measurement follow each other."""
        if key not in self._measured:
            self._measured.clear()
            self._measured[key] = measure()
        return self._measured[key]

    def publish(self, benchmark: Any, row: Row, seconds: list[float]) -> None:
        """Write ``row`` to its JSON Lines file, and its times to pytest-benchmark, whose timer is ``CLOCK``."""
        append(self.results / f"{row['benchmark']}.jsonl", [row])
        benchmark.extra_info |= row
        CLOCK.pending = iter(seconds)
        benchmark.pedantic(CLOCK.advance, rounds=len(seconds))
