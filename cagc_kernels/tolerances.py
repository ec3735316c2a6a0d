"""The table of tolerances: how far a result may deviate from the float64 oracle, elementwise and on average."""

from __future__ import annotations

from typing import NamedTuple

import torch

# The mean error is checked only with at least this many elements.
ENOUGH_FOR_A_MEAN = 64


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


def deviation(got: torch.Tensor, oracle: torch.Tensor) -> Tolerance:
    """Return the deviation of ``got`` from ``oracle``, of the same shape, as a :class:`Tolerance`; NaN if it has NaN.

    The scale of ``oracle`` is the mean of its absolute values. With few elements ``bias`` is 0.
    """
    if got.numel() == 0:
        return Tolerance(0.0, 0.0)
    got, oracle = got.detach().double(), oracle.detach().double().to(got.device)
    scale = oracle.abs().mean().clamp_min(1e-12)
    error = got - oracle
    worst = (error.abs() / (oracle.abs() + scale)).max().item()
    return Tolerance(worst, (error.mean().abs() / scale).item() if got.numel() >= ENOUGH_FOR_A_MEAN else 0.0)


def assert_close(got: torch.Tensor, oracle: torch.Tensor, dtype: torch.dtype, factor: float = 1.0) -> None:
    """Assert that ``got``, computed in ``dtype``, agrees with the float64 ``oracle``: shape, elements, mean, no NaN."""
    assert got.shape == oracle.shape, (got.shape, oracle.shape)
    found, allowed = deviation(got, oracle), TOLERANCES[dtype]
    limit = factor * allowed.relative
    assert found.relative <= limit, f"elementwise: {found.relative:.3g} > {limit:.3g}"
    limit = factor * allowed.bias
    assert found.bias <= limit, f"signed mean: {found.bias:.3g} > {limit:.3g}"
