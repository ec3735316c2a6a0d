"""Argument checks that say the argument's name, what came and what was expected."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import CagcError


def choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise CagcError unless ``value`` is one of ``choices``."""
    choices = tuple(choices)
    if value not in choices:
        raise CagcError(f"{name}: got {value!r}, expected one of {', '.join(choices)}")


def at_least_one(**numbers: object) -> None:
    """Raise TypeError or ValueError unless each number is an integer of at least 1."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name}: got {number!r}, expected an integer")
        if number < 1:
            raise ValueError(f"{name}: got {number}, expected at least 1")
