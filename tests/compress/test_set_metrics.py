"""Kernel distance, density, coverage and similarity against independent implementations."""

from __future__ import annotations

import pytest
import torch

from cagc.metrics.kid import kernel_distance
from cagc.metrics.precision_recall import Manifold, density_coverage, precision_recall
from cagc.metrics.similarity import perceptual_similarity, structural_similarity

from .oracles import oracle


def features(seed: int, count: int = 60, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_kernel_distance_by_definition():
    x, y = features(0, 40), features(1, 40, 0.3)

    def kernel(a, b):
        return (float(a @ b) / 8 + 1) ** 3

    def within(s):
        return sum(kernel(s[i], s[j]) for i in range(40) for j in range(40) if i != j) / (40 * 39)

    expected = within(x) + within(y) - 2 * sum(kernel(a, b) for a in x for b in y) / 1600
    assert kernel_distance(x, y, subsets=1).mean == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_agrees_with_torchmetrics():
    kid = oracle("torchmetrics.image.kid")
    x, y = features(0), features(1, 60, 0.5)
    theirs = kid.poly_mmd(x, y, 3, 1 / 8, 1.0)
    assert kernel_distance(x, y, subsets=1).mean == pytest.approx(theirs.item(), rel=1e-9)


def test_kernel_distance_is_unbiased_and_reproducible():
    same = kernel_distance(features(0, 1000), features(1, 1000), subsets=50, subset_size=100)
    other = kernel_distance(features(0, 1000), features(1, 1000, 0.5), subsets=50, subset_size=100)
    assert abs(same.mean) < 3 * same.std and other.mean > 5 * other.std
    assert kernel_distance(features(0), features(1), seed=3) == kernel_distance(features(0), features(1), seed=3)


def test_density_and_coverage_by_definition():
    real, fake, k = features(0, 30), features(1, 40, 0.4), 4
    distances = torch.cdist(real, real)
    radii = distances.sort(dim=1).values[:, k]
    inside = torch.cdist(fake, real) <= radii
    found = density_coverage(Manifold(real, k, block=7), fake)
    assert found["density"] == pytest.approx(inside.sum().item() / (k * 40))
    assert found["coverage"] == pytest.approx(inside.any(dim=0).double().mean().item())


def test_balls_are_those_of_scipys_trees():
    from scipy.spatial import KDTree

    real, fake, k = features(0, 200), features(1, 150, 0.6), 3
    trees = {"real": KDTree(real), "fake": KDTree(fake)}
    radii = {name: tree.query(tree.data, k + 1)[0][:, k] for name, tree in trees.items()}
    pairs = trees["real"].sparse_distance_matrix(trees["fake"], 100, output_type="ndarray")
    near_real = pairs[pairs["v"] <= radii["real"][pairs["i"]]]
    near_fake = pairs[pairs["v"] <= radii["fake"][pairs["j"]]]
    found = precision_recall(real, fake, k) | density_coverage(real, fake, k)
    assert found == pytest.approx(
        {
            "precision": len(set(near_real["j"])) / 150,
            "recall": len(set(near_fake["i"])) / 200,
            "density": len(near_real) / (k * 150),
            "coverage": len(set(near_real["i"])) / 200,
        }
    )
    assert 0.1 < found["precision"] < 0.9


def test_density_and_coverage_of_extremes():
    far = density_coverage(features(0), features(1, shift=50))
    assert far == {"density": 0, "coverage": 0}
    assert density_coverage(features(0), features(0))["coverage"] == 1


def test_bad_features():
    with pytest.raises(ValueError, match="generated"):
        kernel_distance(features(0), features(1)[:, :4])
    with pytest.raises(ValueError, match="reference"):
        kernel_distance(features(0)[0], features(1))
    with pytest.raises(ValueError, match="subsets"):
        kernel_distance(features(0)[:1], features(1))


def images(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_structural_similarity_is_scikit_images():
    skimage = pytest.importorskip("skimage.metrics")
    a = images(0)
    b = (a + 0.3 * images(1)).clamp(-1, 1)
    found = structural_similarity(a, b)
    for i in range(2):
        theirs = skimage.structural_similarity(
            a[i].double().numpy(), b[i].double().numpy(), channel_axis=0, data_range=2, gaussian_weights=True,
            sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert found[i].item() == pytest.approx(theirs, rel=1e-6)
    torch.testing.assert_close(structural_similarity(a, a), torch.ones(2, dtype=torch.float64))


def test_structural_similarity_of_the_content():
    pytest.importorskip("skimage")
    a = images(0)
    b = a.clone()
    b[..., 14:] = images(1)[..., 14:]
    mask = torch.zeros(2, 1, 24, 20)
    mask[..., :8] = 1
    assert structural_similarity(a, b, mask).min() == pytest.approx(1)
    assert structural_similarity(a, b, 1 - mask).max() < 0.9
    assert structural_similarity(a, b, torch.zeros_like(mask)).isnan().all()
    with pytest.raises(ValueError, match="mask"):
        structural_similarity(a, b, mask[:, :, :4])
    with pytest.raises(ValueError, match="window"):
        structural_similarity(a[..., :8], b[..., :8])


def test_perceptual_similarity_is_per_image_and_masked():
    def distance(a, b):
        return (a - b).square().mean()

    a, b = images(0), images(1)
    mask = torch.zeros(2, 1, 24, 20)
    mask[1] = 1
    found = perceptual_similarity(a, b, distance, mask)
    assert found[0] == 0
    assert found[1].item() == pytest.approx((a[1] - b[1]).square().mean().item(), rel=1e-6)
