"""SN-GAN through the code paths of StyleGAN2: scores, plans, slicing, checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cagc
from cagc.checkpoints import Checkpoint, convert, load_checkpoint, save_checkpoint
from cagc.common.errors import CagcError
from cagc.metrics.macs import count_macs, count_parameters, total_macs, total_parameters
from cagc.metrics.sampling import draw
from cagc.models import (
    SNGANConfig,
    SNGANDiscriminator,
    SNGANDiscriminatorConfig,
    SNGANGenerator,
    build_generator,
    new_discriminator,
)
from cagc.pruning.scores import METRICS


def small(seed: int = 0, **widths: int) -> SNGANGenerator:
    """16 px, with statistics and affine weights of the norms that are neither 0 nor 1."""
    torch.manual_seed(seed)
    channels = {"b4": 6, "b8.conv0": 5, "b8.conv1": 7, "b16.conv0": 4, "b16.conv1": 6} | widths
    generator = SNGANGenerator(SNGANConfig(16, channels, z_dim=9))
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 2)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_()
    return generator.eval()


@pytest.mark.parametrize(("width", "macs", "parameters"), [(256, 1.681e9, 4.28e6), (128, 0.422e9, 1.20e6)])
def test_published_size(width, macs, parameters):
    config = SNGANConfig.uniform(width=width)
    assert total_macs(config) == pytest.approx(macs, rel=1e-3)
    assert total_parameters(config) == pytest.approx(parameters, rel=4e-3)


def test_costs_are_those_of_the_layers():
    generator = small()
    assert total_parameters(generator) == sum(p.numel() for p in generator.parameters())
    blocks = [f"b{r}.{name}" for r in (8, 16) for name in ("conv0", "conv1", "skip")]
    assert list(count_macs(generator)) == ["fc", *blocks, "to_rgb"]
    assert count_parameters(generator)["b8.skip"] == sum(p.numel() for p in generator.synthesis.b8.skip.parameters())


def test_image():
    generator = small()
    z = torch.randn(3, 9)
    images = generator(z)
    assert images.shape == (3, 3, 16, 16)
    assert images.abs().max() <= 1
    torch.testing.assert_close(generator(z[1:2]), images[1:2])
    torch.testing.assert_close(generator(z, truncation_psi=0.5), generator(z / 2))
    features: dict[str, torch.Tensor] = {}
    rgbs = generator.synthesis(generator.ws(z), "random", return_rgbs=True, features=features)
    torch.testing.assert_close(rgbs[-1], images)
    assert {name: f.shape[1] for name, f in features.items()} == generator.config.channels


@pytest.mark.parametrize("widths", [{}, {"b4": 1, "b8.conv0": 1, "b16.conv1": 1}])
def test_folded_for_inference(widths):
    generator = small(**widths).double()
    z = torch.randn(3, 9, dtype=torch.float64)
    folded = generator.synthesis.folded()
    torch.testing.assert_close(folded(generator.ws(z)), generator(z).detach())
    with pytest.raises(ValueError, match="ws: got shape"):
        folded(z)


def test_same_seed_same_image_in_any_batch():
    generator = small()
    for noise in ("random", "const", "none"):
        torch.testing.assert_close(draw(generator, [5], noise), draw(generator, range(4, 7), noise)[1:2])


@pytest.mark.parametrize("metric", METRICS)
def test_every_score_applies(metric):
    generator = small()
    scores = cagc.score_channels(generator, metric, "everything", samples=4)
    assert {name: len(s) for name, s in scores.scores.items()} == generator.config.channels
    assert all(torch.isfinite(s).all() for s in scores.scores.values())


def test_channel_groups_cover_every_axis():
    generator = small()
    widths = {group.name: group.width for group in generator.channel_groups()}
    assert widths == generator.config.channels
    state = generator.state_dict()
    axes = [(axis, group.width) for group in generator.channel_groups() for axis in group.axes]
    assert all(state[axis.tensor].shape[axis.dim] == width for axis, width in axes)
    assert len({axis for axis, _ in axes}) == len(axes)
    tied = {axis.tensor for group in generator.channel_groups() if group.name == "b8.conv1" for axis in group.axes}
    assert {"synthesis.b8.conv1.weight", "synthesis.b8.skip.weight", "synthesis.b16.skip.weight"} <= tied


def test_pruned_generator_is_the_full_one_without_the_removed_channels():
    generator = small().double()
    scores = cagc.score_channels(generator, "content-aware", "everything", samples=4)
    plan = cagc.plan_channels(generator, scores, keep=0.6, round_to=1)
    student = cagc.prune(generator, plan)
    assert student.config.channels == plan.channels()
    assert total_parameters(student) == sum(p.numel() for p in student.parameters())
    state = generator.state_dict()
    for group in generator.channel_groups():
        removed = sorted(set(range(group.width)) - set(plan.kept[group.name]))
        assert removed
        for consumer in group.consumers:
            state[f"{consumer}.weight"][:, removed] = 0
    generator.load_state_dict(state)
    z = torch.randn(4, 9, dtype=torch.float64)
    torch.testing.assert_close(student(z), generator(z))


def test_checkpoint_round_trip(tmp_path):
    generator, discriminator = small(), new_discriminator(SNGANConfig.uniform(16, 8)).eval()
    path = tmp_path / "sngan.safetensors"
    save_checkpoint(path, Checkpoint(generator, d=discriminator))
    loaded = load_checkpoint(path)
    z = torch.randn(2, 9)
    torch.testing.assert_close(loaded.g_ema(z), generator(z))
    torch.testing.assert_close(loaded.d(generator(z)), discriminator(generator(z)))
    with pytest.raises(CagcError, match="rosinality"):
        convert(path, tmp_path / "sngan.pt")


def test_discriminator():
    torch.manual_seed(0)
    discriminator = SNGANDiscriminator(SNGANDiscriminatorConfig(width=16))
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    for _ in range(30):
        discriminator(images)
    discriminator.eval()
    assert discriminator(images).shape == (3, 1)
    for layer in discriminator.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)
    assert [block.down for block in discriminator.blocks] == [True, True, False, False]


def test_bad_input():
    with pytest.raises(ValueError, match="resolution"):
        SNGANConfig.uniform(24)
    with pytest.raises(ValueError, match="channels"):
        SNGANConfig(16, {"b4": 3})
    with pytest.raises(ValueError, match="architecture"):
        build_generator({"architecture": "biggan"})
    generator = small()
    with pytest.raises(ValueError, match="ws: got shape"):
        generator.synthesis(torch.zeros(2, 3, 9))
    with pytest.raises(ValueError, match="z_mix"):
        generator.ws(torch.zeros(1, 9), torch.zeros(1, 9), 1)
    with pytest.raises(ValueError, match="images: got shape"):
        SNGANDiscriminator(SNGANDiscriminatorConfig())(torch.zeros(1, 3, 16, 16))
