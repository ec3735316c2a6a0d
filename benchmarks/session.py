"""The session of a benchmark run: its options, its rows, and their way to pytest-benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .results import Times, append, make_row


class Clock:
    """The timer of a pytest-benchmark test, which each call of ``advance`` moves on by the next recorded time."""

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
        quick: runs small cases with few rounds.
        peers: folder with checkouts of the peers' code.
        results: folder of the JSON Lines files.
        asked_rounds: timed rounds of each case; None: the case's own number.
        only: names of the implementations to run; all if empty.
        device: "cuda" if there is a GPU, else "cpu".
    """

    quick: bool
    peers: Path | None
    results: Path
    asked_rounds: int | None
    only: tuple[str, ...]
    device: str
    _measured: dict[Any, Any] = field(default_factory=dict)

    def rounds(self, usual: int) -> int:
        """Return the number of timed rounds of a case."""
        return self.asked_rounds or (2 if self.quick else usual)

    def wants(self, implementation: str) -> bool:
        return not self.only or implementation in self.only

    def once(self, key: Any, measure: Callable[[], Any]) -> Any:
        """Return ``measure()``, cached until another key is used: cases of one measurement follow each other."""
        if key not in self._measured:
            self._measured.clear()
            self._measured[key] = measure()
        return self._measured[key]

    def publish(self, benchmark: Any, name: str, implementation: str, case: dict, times: Times, **about: Any) -> None:
        """Write a row of :func:`make_row` to its JSON Lines file, and its times to pytest-benchmark by ``CLOCK``."""
        row = make_row(name, implementation, case, times, self.device, **about)
        seconds = times[about.get("of") or implementation]
        append(self.results / f"{name}.jsonl", [row])
        benchmark.extra_info |= row
        CLOCK.pending = iter(seconds)
        benchmark.pedantic(CLOCK.advance, rounds=len(seconds))
