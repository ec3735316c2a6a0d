"""The one table of tolerances: how far a result may lie from the float64 oracle, elementwise and on average."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Tolerance(NamedTuple):
    """``|a - b| <= relative * (|b| + scale of b)``, and the mean of ``a - b`` within ``bias`` of that scale."""

    relative: float
    bias: float


TOLERANCES = {
    torch.float64: Tolerance(1e-12, 1e-13),
    torch.float32: Tolerance(2e-6, 2e-7),
    torch.float16: Tolerance(2e-3, 2e-4),
    torch.bfloat16: Tolerance(1.6e-2, 2e-3),
}


def assert_close(got: torch.Tensor, oracle: torch.Tensor, dtype: torch.dtype, factor: float = 1.0) -> None:
    """``got``, computed in ``dtype``, agrees with the float64 ``oracle``: shape, no NaN, each element, and no bias."""
    assert got.shape == oracle.shape, (got.shape, oracle.shape)
    if got.numel() == 0:
        return
    got, oracle = got.detach().double().cpu(), oracle.detach().double().cpu()
    tolerance = TOLERANCES[dtype]
    scale = oracle.abs().mean().clamp_min(1e-12)
    error = got - oracle
    worst = (error.abs() / (oracle.abs() + scale)).max().item()
    assert worst <= factor * tolerance.relative, f"elementwise: {worst:.3g} > {factor * tolerance.relative:.3g}"
    if got.numel() >= 64:
        bias = (error.mean().abs() / scale).item()
        assert bias <= factor * tolerance.bias, f"signed mean: {bias:.3g} > {factor * tolerance.bias:.3g}"
