from __future__ import annotations

import math

import pytest
import torch

from cagc.metrics.precision_recall import Manifold, precision_recall


def brute_force(reference: torch.Tensor, generated: torch.Tensor, k: int) -> tuple[float, float]:
    def inside(points, centres) -> float:
        radii = [sorted(math.dist(c, other) for other in centres if other is not c)[k - 1] for c in centres]
        return sum(any(math.dist(p, c) <= r for c, r in zip(centres, radii)) for p in points) / len(points)

    reference, generated = reference.tolist(), generated.tolist()
    return inside(generated, reference), inside(reference, generated)


@pytest.mark.parametrize("k", [1, 3])
def test_equal_to_the_definition_whatever_the_block(k):
    rng = torch.Generator().manual_seed(k)
    a = torch.randn(40, 3, generator=rng, dtype=torch.float64)
    b = 0.7 * torch.randn(30, 3, generator=rng, dtype=torch.float64) + 1.2
    precision, recall = brute_force(a, b, k)
    assert 0.2 < precision < 1 and 0.2 < recall < 1
    for block in (1, 7, 64):
        found = precision_recall(Manifold(a, k, block), b, k)
        assert found == {"precision": pytest.approx(precision), "recall": pytest.approx(recall)}


def test_what_the_two_mean():
    rng = torch.Generator().manual_seed(0)
    everything = torch.cat([torch.randn(300, 8, generator=rng), torch.randn(300, 8, generator=rng) + 20])
    half = torch.randn(300, 8, generator=rng)
    found = precision_recall(everything, half)
    assert found["precision"] > 0.7 and 0.3 < found["recall"] < 0.5
    swapped = precision_recall(half, everything)
    assert swapped["recall"] == found["precision"] and swapped["precision"] == found["recall"]
    assert precision_recall(half, half) == {"precision": 1.0, "recall": 1.0}
    assert precision_recall(half, half + 100) == {"precision": 0.0, "recall": 0.0}


def test_single_precision_far_from_the_origin():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(200, 16, generator=rng, dtype=torch.float64) + 50 for _ in range(2))
    exact, single = precision_recall(a, b), precision_recall(a.float(), b.float())
    assert all(single[name] == pytest.approx(exact[name], abs=0.011) for name in exact)


def test_bad_input_is_named():
    good = torch.randn(5, 2)
    with pytest.raises(ValueError, match="k: got 5"):
        Manifold(good, 5)
    with pytest.raises(ValueError, match=r"features: got torch.int64 \[5, 2\]"):
        Manifold(good.long())
    with pytest.raises(ValueError, match="points: got 3 features a sample, expected 2"):
        Manifold(good).holds(torch.randn(5, 3))
    with pytest.raises(ValueError, match="points: got NaN or infinity, expected finite"):
        Manifold(good).holds(good * float("nan"))
