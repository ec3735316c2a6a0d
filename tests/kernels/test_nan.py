"""NaN stays NaN: where the generator's pixels in PyTorch are NaN, those of the compiled program are NaN."""

from __future__ import annotations

import pytest
import torch

import cagc_kernels as ops
from cagc.models import Generator, GeneratorConfig
from cagc.runtime.program import program
from cagc_kernels import native
from cagc_kernels.native import synthesis
from cagc_kernels.reference.bias_act import ACTIVATIONS
from cagc_kernels.tolerances import TOLERANCES

pytestmark = pytest.mark.skipif(native.REASON is not None, reason=str(native.REASON))

INSTRUCTIONS = [] if native.REASON else synthesis.instruction_sets()


def hidden(generator: Generator, bad: float, instructions: str, place: str) -> tuple[int, int]:
    """Return the number of NaN pixels in the generator's image, and how many of them are finite in the program's."""
    torch.manual_seed(0)
    noise = generator.make_noise(1, seed=1)
    ws = torch.randn(1, generator.config.num_ws, generator.config.style_dim)
    if place in ("noise", "w"):
        (noise[-1] if place == "noise" else ws[0, -2]).view(-1)[-1] = bad
    else:
        generator.get_parameter(place).data.view(-1)[0] = bad
    right = generator.synthesis(ws, noise=noise).isfinite()
    found = program(generator, 1, instructions).images(ws, noise).isfinite()
    return int((~right).sum()), int((~right & found).sum())


def small(resolution: int, width: int, clamp: float | None) -> Generator:
    torch.manual_seed(0)
    config = GeneratorConfig.uniform(
        resolution, channel_base=width * resolution, channel_max=width, style_dim=8, mapping_layers=1, conv_clamp=clamp
    )
    generator = Generator(config).requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.5)
    return generator


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("bad", (float("nan"), float("inf")), ids=str)
@pytest.mark.parametrize("clamp", (None, 256.0))
def test_program_hides_no_nan(instructions, bad, clamp):
    layers = ("b8.conv0", "b8.conv1", "b8.to_rgb")
    parts = ("weight", "bias", "affine.weight", "affine.bias")
    places = ["b4.const", "b8.conv1.noise_strength", *(f"{layer}.{part}" for layer in layers for part in parts)]
    for place in ("w", "noise", *(f"synthesis.{name}" for name in places)):
        wrong, kept = hidden(small(8, 9, clamp), bad, instructions, place)
        assert kept == 0, f"{place}: {kept} of {wrong} pixels"
        assert wrong or (bad == float("inf") and clamp), f"{place}: no pixel of the generator is wrong"


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("clamp", (None, 256.0))
def test_program_in_strips_hides_no_nan(instructions, clamp):
    for place in ("b128.conv0.weight", "b128.conv1.bias", "b128.to_rgb.bias"):
        wrong, kept = hidden(small(128, 4, clamp), float("nan"), instructions, f"synthesis.{place}")
        assert wrong and kept == 0, f"{place}: {kept} of {wrong} pixels"


@pytest.fixture(params=INSTRUCTIONS)
def instructions(request):
    native._C.use_instructions(request.param)
    yield request.param
    native._C.use_instructions(INSTRUCTIONS[0])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("clamp", (None, 256.0))
def test_ops_hide_no_nan(instructions, dtype, clamp):
    """The result is NaN wherever the reference's is, in whole vectors and in the rest of a row."""
    torch.manual_seed(0)
    x, b, f = torch.randn(1, 3, 9, 37).to(dtype), torch.randn(3).to(dtype), ops.setup_filter([1, 3, 3, 1])
    x[0, 0, 3, 5] = x[0, 1, 8, 36] = float("nan")
    weight, styles = torch.randn(4, 3, 3, 3).to(dtype), torch.randn(1, 3).to(dtype)
    every, noise = torch.arange(4), torch.zeros(1, 1, 9, 37)
    noise[0, 0, 0, 0], bias = float("nan"), torch.randn(4).to(dtype)
    calls = {act: lambda how, act=act: ops.bias_act(x, b, act=act, clamp=clamp, **how) for act in ACTIVATIONS}
    for up, down in ((1, 1), (2, 1), (1, 2)):
        calls[f"up {up}, down {down}"] = lambda how, up=up, down=down: ops.upfirdn2d(x, f, up, down, 2, **how)
    fu, fd = torch.rand(12), torch.rand(4, 4)
    calls["filtered"] = lambda how: ops.filtered_lrelu(x, fu, fd, b, 2, 2, 9, clamp=clamp, **how)
    calls["sparse"] = lambda how: ops.sparse_channel_conv2d(x, weight, every[:3], every, styles, **how)
    calls["styled"] = lambda how: ops.styled_conv2d(x, weight, styles, bias, noise=noise.to(dtype), clamp=clamp, **how)
    for name, call in calls.items():
        found, right = (call({"backend": backend}).isnan() for backend in ("native", "reference"))
        assert right.any() and not (right & ~found).any(), name
