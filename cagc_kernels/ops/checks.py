"""Argument checks shared by the ops: each raises with the argument's name, what came and what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch

HALF = (torch.float16, torch.bfloat16)


def tensor(name: str, value: object, ndim: int | None = None, axes: str = "") -> torch.Tensor:
    """``value`` as a floating-point tensor of ``ndim`` dimensions; ``axes`` names them in the message."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a torch.Tensor{axes and ' ' + axes}")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name}: got shape {list(value.shape)}, expected {ndim} dimensions {axes}".rstrip())
    if not value.is_floating_point():
        raise TypeError(f"{name}: got dtype {value.dtype}, expected a floating-point tensor")
    return value


def like(name: str, value: torch.Tensor, other_name: str, other: torch.Tensor, wide: bool = False) -> None:
    """``value`` has the dtype and lives on the device of ``other``; ``wide``: or is float32 beside half precision."""
    if value.dtype != other.dtype and not (wide and other.dtype in HALF and value.dtype == torch.float32):
        raise TypeError(f"{name}: got dtype {value.dtype}, expected {other.dtype} as {other_name}")
    if value.device != other.device:
        raise ValueError(f"{name}: is on {value.device}, expected {other.device} as {other_name}")


def shape(name: str, value: torch.Tensor, expected: Sequence[int], why: str) -> None:
    """``value`` has exactly the shape ``expected``."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{name}: got shape {list(value.shape)}, expected {list(expected)} ({why})")


def number(name: str, value: object, minimum: float | None = None) -> float | None:
    """``value`` as a float of at least ``minimum``; None stays None."""
    if value is None or (type(value) is float and minimum is None):
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a number or None")
    if minimum is not None and not value >= minimum:
        raise ValueError(f"{name}: got {value}, expected at least {minimum:g}")
    return float(value)


def choice(name: str, value: object, valid: Sequence[str]) -> None:
    """``value`` is one of ``valid``."""
    if value not in valid:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(valid)}")


def integers(name: str, value: object, lengths: Sequence[int], minimum: int | None = None) -> tuple[int, ...]:
    """``value`` as a tuple: one integer, or a sequence of as many integers as one of ``lengths`` says."""
    items = (value,) if isinstance(value, int) else value
    if not isinstance(items, (tuple, list)) or any(isinstance(i, bool) or not isinstance(i, int) for i in items):
        raise TypeError(f"{name}: got {value!r}, expected an integer or a sequence of integers")
    if not isinstance(value, int) and len(items) not in lengths:
        raise ValueError(f"{name}: got {len(items)} integers, expected {' or '.join(map(str, lengths))}")
    if minimum is not None and min(items) < minimum:
        raise ValueError(f"{name}: got {value!r}, expected at least {minimum}")
    return tuple(items)
