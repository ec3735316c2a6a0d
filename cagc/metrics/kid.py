"""Kernel distance of two sets of images in a named feature space (Bińkowski et al., "Demystifying MMD GANs", 2018).

The distance may be called KID only when the features are Inception's, like FID for the Fréchet distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .precision_recall import check_features


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation over subsets of the squared distance; 0 is expected for equal distributions."""

    mean: float
    std: float
    subsets: int


def kernel_distance(
    reference: Tensor, generated: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Unbiased squared maximum mean discrepancy with the kernel (xᵀy / D + 1)³, in float64.

    Args:
        reference, generated: features [N, D] and [M, D].
        subsets: number of random subsets to average over; only 1 where a subset is the whole of both sets.
        subset_size: samples in a subset, reduced to the size of the smaller set.
        seed: seed of the subsets.

    Raises:
        ValueError: shapes are not as above, or a set has fewer than two samples.
    """
    for name, features in (("reference", reference), ("generated", generated)):
        check_features(features, name)
    if reference.shape[1] != generated.shape[1]:
        raise ValueError(f"generated: got {generated.shape[1]} features a sample, expected {reference.shape[1]}")
    size = min(subset_size, len(reference), len(generated))
    if size < 2 or subsets < 1:
        raise ValueError(f"subsets: got {subsets} of {size} features, expected at least 1 of at least 2")
    subsets = 1 if size == len(reference) == len(generated) else subsets
    rng = torch.Generator().manual_seed(seed)

    def part(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=rng)[:size].to(features.device)].double()

    found = torch.stack([_squared_discrepancy(part(reference), part(generated)) for _ in range(subsets)])
    return KernelDistance(found.mean().item(), found.std(unbiased=False).item(), subsets)


def _squared_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.t() / a.shape[1] + 1) ** 3

    def off_diagonal_mean(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    return off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y)) - 2 * kernel(x, y).mean()
