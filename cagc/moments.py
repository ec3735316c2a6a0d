"""Principal components of samples."""

from __future__ import annotations

import torch
from torch import Tensor


def principal_components(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [D], axes [D, D], one a row, of length 1 and of any sign, and variances [D] of ``x`` [N, D], N above 1.

    The largest variance comes first. In float64, unbiased.
    """
    x = x.double()
    mean = x.mean(dim=0)
    variances, axes = torch.linalg.eigh((x - mean).T @ (x - mean) / (len(x) - 1))
    return mean, axes.T.flip(0), variances.flip(0).clamp(min=0)
