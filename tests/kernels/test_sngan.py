"""The compiled program of SN-GAN against the generator in float64, on every instruction set that runs here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cagc.models import SNGANConfig, SNGANGenerator
from cagc.models.sngan import layer_names
from cagc_kernels import native
from cagc_kernels.native import sngan, synthesis

pytestmark = pytest.mark.skipif(native.REASON is not None, reason=str(native.REASON))

INSTRUCTIONS = [] if native.REASON else synthesis.instruction_sets()
WIDTHS = (13, 20, 8, 77, 3, 31, 16)


def make(resolution: int, shift: int = 0, z_dim: int = 19) -> SNGANGenerator:
    """Odd widths that differ from layer to layer, and statistics of batch normalisation that are not 0 and 1."""
    torch.manual_seed(shift)
    channels = {name: WIDTHS[(i + shift) % len(WIDTHS)] for i, name in enumerate(layer_names(resolution))}
    generator = SNGANGenerator(SNGANConfig(resolution, channels, z_dim=z_dim)).eval().requires_grad_(False)
    for name, tensor in (*generator.named_parameters(), *generator.named_buffers()):
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("bias", "running_mean")):
            tensor.normal_(std=0.3)
    return generator


def expect_equal(generator: SNGANGenerator, program: sngan.Program, batch: int, psi: float = 1.0) -> None:
    z = torch.randn(batch, generator.z_dim)
    images = program.generate(z, psi=psi)
    expected = generator.double()(z.double(), truncation_psi=psi)
    generator.float()
    assert images.shape == expected.shape and images.dtype == torch.float32
    if batch:
        assert expected.abs().max() < 1 and expected.std() > 0.05  # where tanh would hide errors
        torch.testing.assert_close(images.double(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("resolution, shift", [(8, 0), (8, 3), (16, 1), (32, 2), (64, 5)])
def test_odd_widths(instructions, resolution, shift):
    generator = make(resolution, shift)
    program = sngan.Program(generator.residual_weights(), 2, instructions)
    for batch in (1, 5):
        expect_equal(generator, program, batch)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch", [0, 1, 40])
def test_threads_and_batches(threads, batch):
    """40 images: each thread has blocks of its own, while one image's layers are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator = make(16, 4)
        expect_equal(generator, sngan.Program(generator.residual_weights(), batch or 1), batch, psi=0.5)
    finally:
        torch.set_num_threads(before)


def test_a_call_leaves_nothing_behind():
    program = sngan.Program(make(16).residual_weights())
    z, other = torch.randn(2, 1, 19)
    first = program.generate(z)
    program.generate(other * torch.nan)
    assert torch.equal(program.generate(z), first)


def test_nan_stays_nan():
    program = sngan.Program(make(8).residual_weights())
    assert program.generate(torch.full((1, 19), torch.nan)).isnan().all()


def test_costs_and_kernels():
    generator = make(16)
    program = sngan.Program(generator.residual_weights(), 1)
    rows = program.profile(torch.randn(2, 19), 1, [])
    assert len(rows) == 2 + len(program.widths) == 2 + len(program.describe(1)) == 2 + len(program.layouts)
    inputs, out = program.widths[0]
    assert rows[2].multiplications == 2 * 25 * 4 * inputs * out and program.memory > rows[2].bytes
    assert sngan.NEAREST in rows[2].kernel


def test_bad_weights_are_refused():
    weights = make(16).residual_weights()
    with pytest.raises(ValueError, match="instructions.*sse9.*generic"):
        sngan.Program(weights, instructions="sse9")
    for wrong, message in (
        ([*weights.convs[:-1]], "convolutions"),
        ([replace(weights.convs[0], resolution=16), *weights.convs[1:]], "resolution"),
        ([weights.convs[0], replace(weights.convs[1], shortcut=None), *weights.convs[2:]], "shortcut"),
        ([weights.convs[0], replace(weights.convs[1], weight=torch.zeros(8, 7, 3, 3)), *weights.convs[2:]], "channels"),
        ([*weights.convs[:-1], replace(weights.convs[-1], weight=torch.zeros(4, 3, 3, 3))], "convolution|channels"),
    ):
        with pytest.raises(ValueError, match=message):
            sngan.Program(replace(weights, convs=wrong))
