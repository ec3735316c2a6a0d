"""Argument checks shared by the ops: each raises an error with the argument's name, its value and what is valid."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod
from numbers import Real
from operator import index

import torch
from torch.compiler import is_compiling

from ..arguments import HALF

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

# Larger factors and paddings would overflow sizes; more elements would overflow byte addresses.
_MOST, _ELEMENTS = 2**31 - 1, 2**60


def tensor(name: str, value: object, ndim: int | None = None, axes: str = "") -> torch.Tensor:
    """Return ``value``, checked to be a strided float tensor of ``ndim`` dimensions; messages name them by ``axes``."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a torch.Tensor{axes and ' ' + axes}")
    strided(name, value)
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name}: got shape {list(value.shape)}, expected {ndim} dimensions {axes}".rstrip())
    if value.dtype not in FLOATS:
        raise TypeError(
            f"{name}: got dtype {value.dtype}, expected a floating-point tensor (float16, bfloat16, float32, float64)"
        )
    return value


def strided(name: str, value: torch.Tensor) -> None:
    """Check that ``value`` is strided: not sparse, nested or in another library's layout."""
    if value.layout is not torch.strided or value.is_nested:
        layout = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise TypeError(f"{name}: got a {layout} tensor, expected a dense one")


def like(name: str, value: torch.Tensor, other_name: str, other: torch.Tensor, wide: bool = False) -> None:
    """Check dtype and device of ``value`` against ``other``; ``wide`` also allows float32 beside half precision."""
    if value.dtype != other.dtype and not (wide and other.dtype in HALF and value.dtype == torch.float32):
        raise TypeError(f"{name}: got dtype {value.dtype}, expected {other.dtype} as {other_name}")
    if value.device != other.device:
        raise ValueError(f"{name}: is on {value.device}, expected {other.device} as {other_name}")


def shape(name: str, value: torch.Tensor, expected: Sequence[int], why: str) -> None:
    """Check that ``value`` has exactly the shape ``expected``; the message gives the reason ``why``."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{name}: got shape {list(value.shape)}, expected {list(expected)} ({why})")


def number(name: str, value: object, minimum: float = -inf, optional: bool = True) -> float | None:
    """Return ``value`` as a float >= ``minimum`` (infinity passes), or finite without one; None stays None."""
    if value is None and optional or (type(value) is float and minimum == -inf < value < inf):
        return value
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a number{' or None' if optional else ''}")
    try:
        found = float(value)
    except OverflowError:
        raise ValueError(f"{name}: got an integer of {len(str(value))} digits, expected a float") from None
    if minimum == -inf:
        if not -inf < found < inf:
            raise ValueError(f"{name}: got {found}, expected a finite number")
    elif not found >= minimum:
        raise ValueError(f"{name}: got {value}, expected at least {minimum:g}")
    return found


def flag(name: str, value: object) -> None:
    """Check that ``value`` is True or False."""
    if value is not True and value is not False:
        raise TypeError(f"{name}: got {type(value).__name__}, expected True or False")


def choice(name: str, value: object, valid: Sequence[str]) -> None:
    """Check that ``value`` is one of the strings ``valid``."""
    if not isinstance(value, str) or value not in valid:
        got = repr(value) if isinstance(value, str) else type(value).__name__
        error = ValueError if isinstance(value, str) else TypeError
        raise error(f"{name}: got {got}, expected one of {', '.join(valid)}")


def integers(name: str, value: object, lengths: Sequence[int], minimum: int = -_MOST) -> tuple[int, ...]:
    """Return ``value`` as a tuple: one integer, or a sequence whose length is in ``lengths``."""
    if type(value) is int and minimum <= value <= _MOST:
        return (value,)
    alone = not isinstance(value, (tuple, list))
    items = (value,) if alone else tuple(value)
    for item in items:
        if type(item) is not int:
            items = _converted(name, value, items, "an integer" + " or a sequence of integers" * bool(lengths))
            break
    if not alone and len(items) not in lengths:
        expected = " or ".join(map(str, lengths)) or "one without a sequence"
        raise ValueError(f"{name}: got {len(items)} integers, expected {expected}")
    if min(items) < minimum:
        raise ValueError(f"{name}: got {value!r}, expected at least {minimum}")
    if max(items) > _MOST:
        raise ValueError(f"{name}: got {value!r}, expected at most {_MOST}")
    return items


def pair(name: str, value: object) -> tuple[int, int]:
    """Return (x, y) from one factor of at least 1 or a pair of them."""
    found = integers(name, value, (2,), 1)
    return found * 2 if len(found) == 1 else found


def margins(name: str, value: object) -> tuple[int, int, int, int]:
    """Return (x0, x1, y0, y1) from one integer, ``[x, y]`` or all four."""
    found = integers(name, value, (2, 4))
    if len(found) == 4:
        return found
    x, y = found * 2 if len(found) == 1 else found
    return x, x, y, y


def _converted(name: str, value: object, items: tuple, expected: str) -> tuple[int, ...]:
    """Return ``items`` of the argument ``value`` as integers."""
    found = tuple(map(_integer, items))
    if any(item is None for item in found):
        got = type(value).__name__ if isinstance(value, torch.Tensor) else repr(value)
        raise TypeError(f"{name}: got {got}, expected {expected}")
    return found


def _integer(value: object) -> int | None:
    """Return an int, NumPy integer or 0-d integer tensor (a size under torch.jit.trace) as an integer, else None."""
    if isinstance(value, (int, torch.SymInt)):
        return None if isinstance(value, bool) else value
    if getattr(value, "ndim", 0) != 0:
        return None
    try:
        return index(value)
    except (TypeError, RuntimeError):
        return None


def addressable(name: str, *sizes: int) -> None:
    """Check that an array of ``sizes`` is addressable; whether memory suffices shows only at allocation."""
    if not is_compiling() and prod(sizes) > _ELEMENTS:
        raise ValueError(f"{name}: got an array of {list(sizes)}, expected at most 2**60 elements")
