"""Computes principal components."""

from __future__ import annotations

import torch
from torch import Tensor


def principal_components(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean [D], principal axes [D, D] (unit rows of arbitrary sign) and variances [D] of ``x`` [N, D], N > 1.

    Axes are ordered by falling variance. All are float64; the variances are unbiased.
    """
    x = x.double()
    mean = x.mean(dim=0)
    variances, axes = torch.linalg.eigh((x - mean).T @ (x - mean) / (len(x) - 1))
    return mean, axes.T.flip(0), variances.flip(0).clamp(min=0)
