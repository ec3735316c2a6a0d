"""Perceptual path length, separability and leakage on generators where they are known."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from cagc.common.errors import CagcError
from cagc.common.seeds import derived_seed, z_batch
from cagc.editing.directions import Directions, mapping_hash
from cagc.metrics.disentanglement import ATTRIBUTES, edit_leakage, linear_separability, measure_attributes
from cagc.metrics.ppl import authors_path_length, perceptual_path_length, slerp
from cagc.models.base import BaseGenerator, BaseMapping

from .oracles import oracle


@dataclass(frozen=True)
class Config:
    z_dim: int = 6
    c_dim: int = 0
    w_dim: int = 6
    num_ws: int = 2
    img_resolution: int = 8

    def layers(self):
        return ()


class Same(BaseMapping):
    """w is z."""

    def w(self, z, c=None):
        return z


class Painter(BaseGenerator):
    """Image from w by a function of (w, noise); w is z."""

    def __init__(self, paint, noisy: bool = False) -> None:
        super().__init__()
        self.config, self.paint, self.noisy = Config(), paint, noisy
        self.mapping = Same(self.config).double()

    def make_noise(self, batch, seed=None, device=None):
        return [torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))] if self.noisy else []

    def synthesis(self, ws, noise=()):
        noise = noise[0] if isinstance(noise, list) and noise else 0
        return self.paint(ws[:, 0]) + noise


def squared(a, b):
    return (a - b).square().sum(dim=(1, 2, 3))


MATRIX = torch.randn(192, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def linear(w):
    return (w @ MATRIX.T).view(-1, 3, 8, 8)


@pytest.mark.parametrize("sampling", ["full", "end"])
def test_linear_generator_in_w(sampling):
    """d/ε² = |A (w2 - w1)|², whose mean is 2 tr(AᵀA)."""
    network = Painter(linear, noisy=True)
    found = perceptual_path_length(network, squared, 3000, batch=500, sampling=sampling, percentiles=(0, 100))
    assert found == pytest.approx(2 * MATRIX.square().sum().item(), rel=0.05)


def test_torchmetrics_has_the_same_path_length(monkeypatch):
    """Its paths begin at the first latent, like ours with ``sampling="end"``; it needs torchvision."""
    module = oracle("torchmetrics.functional.image.perceptual_path_length")
    monkeypatch.setattr(module, "_TORCHVISION_AVAILABLE", True)
    network = Painter(lambda w: linear(w).sin())
    ends = [z_batch([derived_seed(f"path {what}", s) for s in range(30)], 6).double() for what in ("start", "end")]

    class Theirs(nn.Module):
        def sample(self, count):
            return ends.pop(0)[:count]

        def forward(self, z):
            return (network.synthesis(network.ws(z)) + 1) * 127.5

    class Squared(nn.Module):
        def forward(self, a, b):
            return squared(a, b)

    ours = perceptual_path_length(network, squared, 30, sampling="end", percentiles=(0, 100))
    theirs = module.perceptual_path_length(Theirs(), 30, lower_discard=None, upper_discard=None, sim_net=Squared())[0]
    assert ours == pytest.approx(theirs.item(), rel=1e-6)


def test_isometry_in_z():
    """On the sphere of radius √D, the speed of a great circle is the angle times √D, whatever the end points."""
    isometry = torch.linalg.qr(MATRIX)[0]
    network = Painter(lambda w: (w @ isometry.T).view(-1, 3, 8, 8))
    found = perceptual_path_length(network, squared, 3000, batch=500, space="z", percentiles=(0, 100))
    z = torch.nn.functional.normalize(torch.randn(2, 200_000, 6, dtype=torch.float64), dim=2)
    angle = (z[0] * z[1]).sum(dim=1).acos()
    assert found == pytest.approx(6 * angle.square().mean().item(), rel=0.04)


def test_authors_variant_is_neither_scaled_nor_of_the_same_noise():
    whole = perceptual_path_length(Painter(linear), squared, 40, percentiles=(0, 100))
    assert authors_path_length(Painter(linear), squared, 40) == pytest.approx(whole * 1e-8, rel=1e-4)
    # Three channels share each of the 64 noise values, and the two images differ by twice its variance.
    assert authors_path_length(Painter(linear, noisy=True), squared, 200) == pytest.approx(2 * 192, rel=0.05)


def test_percentiles_leave_out_the_extremes():
    everything, middle = (
        perceptual_path_length(Painter(linear), squared, 100, percentiles=p) for p in ((0, 100), (10, 90))
    )
    assert middle < everything


def test_slerp():
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    torch.testing.assert_close(slerp(a, b, torch.tensor([[0.5]])), torch.tensor([[1.0, 1.0]]) / 2**0.5)


@pytest.mark.parametrize("options", [{"space": "w+"}, {"sampling": "middle"}, {"epsilon": 0}], ids=str)
def test_path_length_arguments(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        perceptual_path_length(Painter(linear), squared, 2, **options)


def half(images, seeds=None):
    mask = torch.zeros_like(images[:, :1])
    mask[..., :4] = 1
    return mask


def test_attributes():
    images = torch.zeros(1, 3, 8, 8)
    images[:, 0] = 0.5
    area, brightness, red, down, across = measure_attributes(images, half(images))[0].tolist()
    assert (area, red, down) == (0.5, 0.5, pytest.approx(0, abs=1e-6))
    assert brightness == pytest.approx(1 / 6)
    assert across == pytest.approx(torch.linspace(-1, 1, 8)[:4].mean().item())


def test_separability_tells_a_plane_from_a_sphere():
    """Brightness along one coordinate of w can be read off a plane; brightness by its square cannot."""

    def disc(images, seeds=None):
        return half(images)

    plane = Painter(lambda w: w[:, :1, None, None].expand(-1, 3, 8, 8) / 4)
    ring = Painter(lambda w: (w[:, :1, None, None].square() - 1).expand(-1, 3, 8, 8) / 4)
    easy, hard = (linear_separability(network, disc, 400)["content brightness"] for network in (plane, ring))
    assert easy < 1.1
    assert hard > 1.7
    # Nobody can tell which of 60 is bright here; a classifier asked about the samples it was fitted on would seem to.
    chance = Painter(lambda w: (1e4 * w[:, :1, None, None]).sin().expand(-1, 3, 8, 8) / 4)
    assert linear_separability(chance, disc, 60)["content brightness"] > 1.7
    assert set(ATTRIBUTES) <= set(linear_separability(plane, disc, 40))


def test_leakage():
    def paint(w):
        image = torch.zeros(len(w), 3, 8, 8, dtype=w.dtype)
        image[..., :4] += 0.02 * w[:, :1, None, None]
        image[..., 4:] += 0.01 * w[:, :1, None, None]
        return image

    network = Painter(paint)
    directions = Directions(torch.eye(6)[:1], torch.ones(1), "w", mapping_hash(network))
    found = edit_leakage(network, directions, half, samples=5, batch=2)
    assert found["inside"] == pytest.approx(0.04)
    assert found["leakage"] == pytest.approx(0.5)
    with pytest.raises(CagcError, match="content and surroundings"):
        edit_leakage(network, directions, lambda images, seeds=None: torch.ones_like(images[:, :1]), samples=2)
