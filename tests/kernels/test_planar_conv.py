"""The packed convolution of images in planes against PyTorch's in float64, and the program of StyleGAN3 made of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cagc.models import StyleGAN3Config, StyleGAN3Generator
from cagc_kernels import native
from cagc_kernels.native import synthesis

pytestmark = pytest.mark.skipif(native.REASON is not None, reason=str(native.REASON))
if native.REASON is None:
    from cagc_kernels.native import stylegan3
    from cagc_kernels.native.planar_conv import PlanarConv

INSTRUCTIONS = [] if native.REASON else synthesis.instruction_sets()
# Samples, channels in and out, height, width, padding: less than a tile, ends of vectors and of runs, blocks of one
# thread, and weights that threads share.
SHAPES = [
    (1, 1, 1, 3, 3, 0), (2, 5, 7, 9, 13, 2), (1, 33, 20, 36, 18, 2), (3, 8, 3, 4, 4, 1), (2, 19, 48, 5, 300, 2),
    (1, 530, 170, 10, 21, 2),
]  # fmt: skip


def case(n: int, inputs: int, outputs: int, h: int, w: int, padding: int) -> tuple[torch.Tensor, ...]:
    """x, weight, scale, demod, and the result in float64."""
    rng = torch.Generator().manual_seed(n * inputs + w)
    x = torch.randn(n, inputs, h, w, generator=rng)
    weight = torch.randn(outputs, inputs, 3, 3, generator=rng) / (9 * inputs) ** 0.5
    scale, demod = torch.randn(n, inputs, generator=rng), torch.rand(n, outputs, generator=rng) + 0.5
    scaled = x.double() * scale.double()[:, :, None, None]
    out = F.conv2d(scaled, weight.double(), padding=padding) * demod.double()[:, :, None, None]
    return x, weight, scale, demod, out


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_float64(instructions, shape):
    x, weight, scale, demod, expected = case(*shape)
    out = PlanarConv(weight, instructions)(x, scale, demod, shape[-1])
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-5 * float(expected.abs().max() + 1))


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("shape", [*SHAPES[:4], (2, 19, 40, 5, 100, 1), (1, 300, 100, 10, 21, 1)])
def test_transposed(instructions, shape):
    x, weight, scale, demod, _ = case(*shape)
    scaled = x.double() * scale.double()[:, :, None, None]
    expected = F.conv_transpose2d(scaled, weight.double().transpose(0, 1), stride=2) * demod.double()[:, :, None, None]
    out = PlanarConv(weight, instructions, 2)(x, scale, demod)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max() + 1))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads):
    """The same numbers, bit for bit, whichever thread computes a tile, in memory that holds NaN."""
    before = torch.get_num_threads()
    for shape in SHAPES[-2:]:
        x, weight, scale, demod, _ = case(*shape)
        for up, padding in ((1, 2), (2, 1)):
            conv = PlanarConv(weight, up=up)
            torch.set_num_threads(1)
            expected = conv(x, scale, demod, padding)
            torch.set_num_threads(threads)
            try:
                memory = torch.full([conv.workspace(len(x), *x.shape[2:], padding)], torch.nan)
                out = conv(x, scale, demod, padding, torch.full_like(expected, torch.nan), memory)
            finally:
                torch.set_num_threads(before)
            assert torch.equal(out, expected)


def test_without_factors():
    x, weight, *_ = case(*SHAPES[1])
    torch.testing.assert_close(PlanarConv(weight)(x, padding=2), F.conv2d(x, weight, padding=2), rtol=0, atol=1e-5)


def test_what_it_refuses():
    x, weight, scale, demod, _ = case(*SHAPES[1])
    with pytest.raises(ValueError, match=r"weight: got \[7, 5, 1, 1\], expected \[O, I, 3, 3\]"):
        PlanarConv(weight[:, :, :1, :1])
    with pytest.raises(ValueError, match="instructions: got 'sse9'"):
        PlanarConv(weight, "sse9")
    with pytest.raises(ValueError, match="up: got 3, expected 1 or 2"):
        PlanarConv(weight, up=3)
    with pytest.raises(ValueError, match="padding: expected 1"):
        PlanarConv(weight, up=2)(x, padding=2)
    conv = PlanarConv(weight)
    for bad in ({"x": x[:, 1:]}, {"scale": scale[:1]}, {"demod": demod.double()}, {"x": x.mT}):
        name = next(iter(bad))
        with pytest.raises(ValueError, match=f"{name}: got .*, expected contiguous float32"):
            conv(**{"x": x, "scale": scale, "demod": demod, **bad})
    with pytest.raises(ValueError, match="workspace: got 1 of"):
        conv(x, workspace=torch.empty(1))
    assert conv(x[:0]).shape == (0, 7, 9, 13)


def generator(**options) -> StyleGAN3Generator:
    """Odd widths, magnitudes other than one, and biases."""
    torch.manual_seed(1)
    sizes = {"channel_base": 500, "channel_max": 37, "num_layers": 5, "style_dim": 16}
    made = StyleGAN3Generator(StyleGAN3Config.uniform(32, **{**sizes, **options}))
    for name, tensor in (*made.named_parameters(), *made.named_buffers()):
        if name.endswith(("bias", "input.affine.weight")):
            tensor.data += torch.randn_like(tensor) / 4
        elif name.endswith("magnitude_ema"):
            tensor.uniform_(0.5, 2)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize(
    "options", [{}, {"conv_kernel": 1, "use_radial_filters": True}, {"square": False, "img_channels": 2},
                {"conv_clamp": 0.7, "output_scale": 1.0}]
)  # fmt: skip
def test_the_program_draws_the_generators_images(instructions, options):
    g = generator(**options)
    program = stylegan3.Program(g.filtered_weights(), 1, instructions)
    for batch in (2, 1, 0):
        ws = g.ws(torch.randn(batch, 16))
        images, expected = program.images(ws), g.double().synthesis(ws.double())
        g.float()
        assert images.shape == expected.shape
        torch.testing.assert_close(images.double(), expected, rtol=0, atol=2e-5)


def test_a_call_leaves_nothing_behind():
    g = generator()
    program = stylegan3.Program(g.filtered_weights())
    ws, other = g.ws(torch.randn(2, 16)).split(1)
    first = program.images(ws)
    with torch.inference_mode():
        assert program.images(other * torch.nan).isnan().all()
    assert torch.equal(program.images(ws), first)
    assert len(program.profile(ws[:, 0], g.num_ws, [])) == 2 + len(program.widths)
