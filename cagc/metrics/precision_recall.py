"""Precision and recall, density and coverage of a set of images with respect to another.

Kynkäänniemi et al., NeurIPS 2019, and Naeem et al., "Reliable Fidelity and Diversity Metrics", ICML 2020.

Each set is a union of balls around its features, each as large as the distance to its k-th nearest neighbour in the
set. Precision is the share of generated images inside the reference's balls, recall the share of reference images
inside those of the generated ones. The values depend on the feature space: state it with every figure.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class Manifold:
    """The union of balls around ``features`` [N, D], N above ``k``; distances are computed in their dtype.

    ``block``: rows of the distance matrix that are in memory at a time.

    Attributes:
        features: [N, D].
        k: rank of the neighbour whose distance is the radius.
        radii: [N], squared distance from each feature to its ``k``-th nearest neighbour among the others.

    Raises:
        ValueError: ``features`` is not as above, or holds values that are not finite.
    """

    def __init__(self, features: Tensor, k: int = 3, block: int = 1024) -> None:
        check_features(features, "features")
        if not 1 <= k < len(features):
            raise ValueError(f"k: got {k}, expected at least 1 and below the {len(features)} features")
        self.features, self.k, self.block = features, k, block
        parts = []
        for start, distances in _squared_distances(features, features, block):
            rows = torch.arange(len(distances), device=distances.device)
            distances[rows, start + rows] = torch.inf
            parts.append(distances.kthvalue(k, dim=1).values)
        self.radii = torch.cat(parts)

    def holds(self, points: Tensor) -> Tensor:
        """Which of ``points`` [M, D] lie inside or on the surface of a ball, [M] bool."""
        check_features(points, "points")
        if points.shape[1] != self.features.shape[1]:
            raise ValueError(f"points: got {points.shape[1]} features a sample, expected {self.features.shape[1]}")
        parts = [(d <= self.radii).any(dim=1) for _, d in _squared_distances(points, self.features, self.block)]
        return torch.cat(parts)


def precision_recall(reference: Tensor | Manifold, generated: Tensor, k: int = 3) -> dict[str, float]:
    """``{"precision": p, "recall": r}``, both in [0, 1], of ``generated`` [M, D] against ``reference`` [N, D].

    A reference that is used more than once can be passed as its :class:`Manifold`. Raises ValueError as that does.
    """
    reference = reference if isinstance(reference, Manifold) else Manifold(reference, k)
    inside = reference.holds(generated)
    covered = Manifold(generated, k, reference.block).holds(reference.features)
    return {"precision": inside.double().mean().item(), "recall": covered.double().mean().item()}


def density_coverage(reference: Tensor | Manifold, generated: Tensor, k: int = 5) -> dict[str, float]:
    """``{"density": d, "coverage": c}`` of ``generated`` [M, D] against ``reference`` [N, D].

    Density is the mean number of reference balls around a generated image, over k: 1 is expected of the reference's own
    distribution, and more is possible. Coverage, in [0, 1], is the share of reference balls with a generated image in
    them. Raises ValueError as :class:`Manifold` does.
    """
    reference = reference if isinstance(reference, Manifold) else Manifold(reference, k)
    check_features(generated, "generated")
    hits, covered = 0, torch.zeros(len(reference.features), dtype=torch.bool, device=reference.features.device)
    for _, distances in _squared_distances(generated, reference.features, reference.block):
        inside = distances <= reference.radii
        hits += int(inside.sum())
        covered |= inside.any(dim=0)
    return {"density": hits / (reference.k * len(generated)), "coverage": covered.double().mean().item()}


def _squared_distances(a: Tensor, b: Tensor, block: int) -> Iterator[tuple[int, Tensor]]:
    """Squared distances [rows, len(b)] for blocks of rows of ``a``, with the first row's index.

    Computed as |a|² + |b|² - 2ab relative to the mean of ``b``, which avoids cancellation.
    """
    centre = b.mean(dim=0)
    b = b - centre
    norms = b.square().sum(dim=1)
    for start in range(0, len(a), block):
        rows = a[start : start + block] - centre
        distances = torch.addmm(norms[None], rows, b.t(), alpha=-2) + rows.square().sum(dim=1, keepdim=True)
        yield start, distances.clamp_(min=0)


def check_features(features: Tensor, name: str) -> None:
    """Raise ValueError unless ``features`` is a finite, non-empty floating-point tensor [N, D]."""
    if features.ndim != 2 or not features.is_floating_point() or features.numel() == 0:
        raise ValueError(f"{name}: got {features.dtype} {list(features.shape)}, expected floating point [N, D]")
    if not torch.isfinite(features).all():
        raise ValueError(f"{name}: got NaN or infinity, expected finite values")
