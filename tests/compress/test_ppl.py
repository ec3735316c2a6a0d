from __future__ import annotations

import pytest
import torch

from cagc.common.seeds import derived_seed, z_batch
from cagc.metrics.ppl import perceptual_path_length

from .test_trainer import generator


def mean_square(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().mean()


def test_equal_to_the_derivative_along_the_path():
    """For a squared distance, the limit for small steps is the mean squared derivative of the image by t."""
    g = generator().double()
    expected = []
    for seed in range(5, 9):
        a, b = (g.mapping.w(z_batch([derived_seed(f"path {end}", seed)], 12).double()) for end in ("start", "end"))
        t = torch.rand(1, generator=torch.Generator().manual_seed(derived_seed("path place", seed))).double()
        noise = g.make_noise(1, seed=derived_seed("noise", seed))

        def image(at: torch.Tensor) -> torch.Tensor:
            return g.synthesis(torch.lerp(a, b, at)[:, None].expand(-1, g.num_ws, -1), noise)

        derivative = (image(t + 1e-6) - image(t - 1e-6)) / 2e-6
        expected.append(derivative.square().mean().item())
    found = perceptual_path_length(g, mean_square, samples=4, seed=5)
    assert found == pytest.approx(sum(expected) / 4, rel=1e-3) and found > 0.01


def test_batches_do_not_matter_and_seeds_do():
    g = generator().double()
    whole = perceptual_path_length(g, mean_square, samples=5, batch=5)
    assert perceptual_path_length(g, mean_square, samples=5, batch=2) == pytest.approx(whole, rel=1e-9)
    assert perceptual_path_length(g, mean_square, samples=5, seed=1) != pytest.approx(whole, rel=1e-3)


def test_a_generator_that_ignores_w_has_no_path():
    g = generator().double()
    for name, parameter in g.synthesis.named_parameters():
        if name.endswith("affine.weight"):
            parameter.zero_()
    assert perceptual_path_length(g, mean_square, samples=2) < 1e-12
