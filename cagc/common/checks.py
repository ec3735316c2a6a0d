"""Argument checks whose errors give the argument's name, its value and what was expected."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

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


@dataclass(frozen=True)
class Check:
    """A condition on a setting, written beside its type: ``Annotated[int, Check(...)]``.

    Attributes:
        holds: whether a value, of any type, meets the condition.
        expected: what the message says was expected.
    """

    holds: Callable[[Any], bool]
    expected: str


def integer(value: Any, least: int = 0) -> bool:
    """Whether ``value`` is an integer of at least ``least``, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def number(value: Any) -> bool:
    """Whether ``value`` is a finite number, and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


Count = Annotated[int, Check(lambda v: integer(v, 1), "an integer of at least 1")]
CountOrZero = Annotated[int, Check(integer, "an integer of at least 0")]
Number = Annotated[float, Check(number, "a number")]
Positive = Annotated[float, Check(lambda v: number(v) and v > 0, "a number above 0")]
Weight = Annotated[float, Check(lambda v: number(v) and v >= 0, "a number of at least 0")]
Share = Annotated[float, Check(lambda v: number(v) and 0 <= v <= 1, "a number from 0 to 1")]


def check_settings(settings: Any) -> None:
    """Check each field of a dataclass against its type: ``Literal``, :class:`Check`, ``bool``, ``str``, each optional.

    Raises:
        ValueError: names the setting, its value and what was expected.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if expected := _expected(hint, value):
            raise ValueError(f"{name}: got {value!r}, expected {expected}")


def _expected(hint: Any, value: Any) -> str | None:
    """Return what ``hint`` expects if ``value`` does not meet it, else None."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        checks = (argument for argument in arguments[1:] if isinstance(argument, Check))
        return next((check.expected for check in checks if not check.holds(value)), None)
    if origin is Literal:
        return None if value in arguments else f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, types.UnionType):
        optional, *_ = (argument for argument in arguments if argument is not type(None))
        expected = None if value is None else _expected(optional, value)
        return expected and f"{expected}, or None"
    if hint in (bool, str) and not isinstance(value, hint):
        return {bool: "True or False", str: "a string"}[hint]
    return None
