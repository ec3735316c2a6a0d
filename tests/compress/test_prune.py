from __future__ import annotations

import math

import pytest
import torch

from cagc.common.errors import CagcError
from cagc.metrics.macs import total_macs
from cagc.models.stylegan2 import Generator, GeneratorConfig
from cagc.pruning.budget import plan_channels
from cagc.pruning.prune import prune
from cagc.pruning.scores import score_channels


@pytest.fixture
def z() -> torch.Tensor:
    return torch.randn(3, 16, dtype=torch.float64)


def random_plan(generator: Generator, **options):
    return plan_channels(generator, score_channels(generator, "random", samples=1), round_to=1, **options)


def silence_removed(generator: Generator, kept: dict[str, list[int]]) -> Generator:
    """The full generator with zeros for every weight that reads a removed channel."""
    masked = Generator(generator.config).double()
    masked.load_state_dict(generator.state_dict())
    for group in masked.channel_groups():
        removed = torch.ones(group.width, dtype=torch.bool)
        removed[kept[group.name]] = False
        for consumer in group.consumers:
            masked.get_submodule(consumer).weight.data[:, removed] = 0
    return masked


def test_keeping_everything_is_the_identity(generator: Generator, z: torch.Tensor):
    student = prune(generator, random_plan(generator, keep=1.0))
    assert student.config == generator.config
    assert torch.equal(student(z, noise="const"), generator(z, noise="const"))


@pytest.mark.parametrize("options", [{"keep": 0.3}, {"keep": 0.8}, {"macs": 0.2, "min_width": 2}])
def test_equal_to_the_full_generator_with_removed_channels_silenced(generator, z, options: dict):
    plan = random_plan(generator, **options)
    student, masked = prune(generator, plan), silence_removed(generator, plan.kept)
    noise = generator.make_noise(3, seed=1)
    for ours, expected in zip(student(z, noise=noise, return_rgbs=True), masked(z, noise=noise, return_rgbs=True)):
        # Demodulation sees weights of another scale beside its fixed 1e-8.
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    assert total_macs(student) == plan.cost["macs"][1] < total_macs(generator)


def test_rgb_scale_is_the_full_generators(generator: Generator, z: torch.Tensor):
    plan = random_plan(generator, keep=0.3)
    kept, unscaled = prune(generator, plan), prune(generator, plan, rescale="none")
    for name, layer in (("b4", 24), ("b8", 24), ("b16", 16)):
        width, module = plan.channels()[f"{name}.conv1"], f"synthesis.{name}.to_rgb"
        ratio = unscaled.get_submodule(module).weight / kept.get_submodule(module).weight
        torch.testing.assert_close(ratio, torch.full_like(ratio, math.sqrt(layer / width)))
    ws = generator.ws(z)
    sizes = {}
    for which, g in (("full", generator), ("kept", kept), ("unscaled", unscaled)):
        features: dict[str, torch.Tensor] = {}
        g.synthesis(ws, "const", features=features)
        sizes[which] = g.synthesis.b16.to_rgb(features["b16.conv1"], ws[:, -1]).square().mean().sqrt().item()
    assert sizes["unscaled"] / sizes["kept"] > 1.4
    assert sizes["kept"] < 1.2 * sizes["full"]


def test_what_carries_over(generator: Generator):
    plan = random_plan(generator, keep=0.5)
    state = torch.random.get_rng_state()
    student = prune(generator, plan)
    assert torch.equal(torch.random.get_rng_state(), state)
    before, after = generator.state_dict(), student.state_dict()
    for name, tensor in before.items():
        if name.startswith(("mapping.", "w_avg")) or name.endswith(("noise_const", "noise_strength", "to_rgb.bias")):
            assert torch.equal(after[name], tensor), name
        assert after[name].data_ptr() != tensor.data_ptr(), f"{name} is shared with the teacher"
        assert after[name].dtype == tensor.dtype
    assert all(p.requires_grad for p in student.parameters())
    assert not student.training and prune(generator.train(), plan).training
    generator.eval()


def test_gradients_reach_every_parameter(generator: Generator, z: torch.Tensor):
    student = prune(generator, random_plan(generator, keep=0.5))
    student(z, noise="const").square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_plan_for_another_teacher(generator: Generator):
    plan = random_plan(generator, keep=0.5)
    other = Generator(generator.config)
    with pytest.raises(CagcError, match=plan.teacher):
        prune(other, plan)
    with pytest.raises(CagcError, match="b32"):
        prune(Generator(GeneratorConfig.uniform(32, channel_base=256, channel_max=24, style_dim=16)), plan)
    with pytest.raises(CagcError, match="b8.conv0"):
        widths = dict(generator.config.channels) | {"b8.conv0": 9}
        prune(Generator(GeneratorConfig(16, widths, style_dim=16, mapping_layers=2)), plan)


def test_plan_altered_by_hand(generator: Generator):
    plan = random_plan(generator, keep=0.5)
    plan.kept["b8.conv0"] = [3, 1]
    with pytest.raises(CagcError, match="b8.conv0"):
        prune(generator, plan)
