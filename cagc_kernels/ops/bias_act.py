"""Bias, activation, gain and clamp in one pass."""

from __future__ import annotations

import torch

from .. import backend as _backend
from ..reference import bias_act as reference
from ..reference.bias_act import ACTIVATIONS
from . import checks


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    _check(x, b, dim, act, alpha, gain, clamp)
    _backend.select("bias_act", backend, x.device.type, x.dtype)
    return reference.bias_act(x, b, dim, act, alpha, gain, clamp)


def _check(x, b, dim, act, alpha, gain, clamp) -> None:
    checks.tensor("x", x)
    checks.choice("act", act, tuple(ACTIVATIONS))
    if b is not None:
        checks.tensor("b", b, 1, "[C]")
        checks.like("b", b, "x", x)
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f"dim: got {dim}, expected an axis of x, which has {x.ndim}")
        checks.shape("b", b, (x.shape[dim],), f"x.shape[{dim}]")
    checks.number("alpha", alpha)
    checks.number("gain", gain)
    checks.number("clamp", clamp, 0)


def fused_leaky_relu(x, bias=None, negative_slope=0.2, scale=2**0.5, backend=None):
    return bias_act(x, bias, 1, "lrelu", negative_slope, scale, backend=backend)
