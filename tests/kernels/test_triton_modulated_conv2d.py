"""The fused convolution of Triton against the float64 reference: every variant, width, layout and part of it.

Small, because the interpreter takes milliseconds per block; tests/kernels/test_triton_interpreter.py runs it.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from cagc_kernels import ops, setup_filter
from cagc_kernels.reference import modulated_conv2d as reference
from cagc_kernels.tolerances import assert_close

from .triton_device import DEVICE, MARKS

# isort: split
from cagc_kernels.triton import modulated_conv2d as kernels
from cagc_kernels.triton.gemm.configs import PLAIN, POLYPHASE, TRANSPOSED, Config

pytestmark = MARKS
FILTER = setup_filter([1, 3, 3, 1])
styled_conv2d = partial(ops.styled_conv2d, backend="triton")


def force(monkeypatch, config: Config) -> None:
    monkeypatch.setattr(kernels, "choose", lambda *_: config)


def tensors(n=2, i=6, o=5, k=3, h=4, w=5, up=1, dtype=torch.float32) -> dict[str, torch.Tensor]:
    make = torch.Generator().manual_seed(i * 100 + o)
    shapes = {
        "x": (n, i, h, w), "weight": (o, i, k, k), "styles": (n, i), "bias": (o,),
        "noise": (n, 1, h * up, w * up), "next_styles": (n, o),
    }  # fmt: skip
    found = {name: torch.randn(shape, generator=make, dtype=torch.float64) for name, shape in shapes.items()}
    found["weight"] /= max(1, i) ** 0.5 * k
    found["x"] = found["x"].contiguous(memory_format=torch.channels_last)
    return {name: t.to(dtype) for name, t in found.items()}


def check(arguments: dict[str, torch.Tensor], factor=1.0, **options) -> torch.Tensor:
    """``styled_conv2d`` in Triton against the reference on the same numbers in float64."""
    oracle = reference.styled_conv2d(**{name: t.double() for name, t in arguments.items()}, **options)
    on_device = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    got = styled_conv2d(**{name: t.to(DEVICE) for name, t in arguments.items()}, **on_device)
    assert_close(got, oracle, arguments["x"].dtype, factor)
    return got


@pytest.mark.parametrize("i,o,dtype", (
    (1, 3, torch.float32), (3, 1, torch.float64), (37, 77, torch.float16), (77, 37, torch.bfloat16),
    (154, 16, torch.float32),
))  # fmt: skip
def test_odd_widths(i, o, dtype):
    check(tensors(1, i, o, dtype=dtype), factor=3)


@pytest.mark.parametrize("variant,up", ((PLAIN, 1), (POLYPHASE, 2), (TRANSPOSED, 2)))
@pytest.mark.parametrize("tile", (
    Config(0, 16, 32, 16, 32, 4, 2), Config(0, 16, 32, 0, 16, 4, 2, split=3),
    Config(0, 32, 16, 0, 32, 4, 2, packed=True),
), ids=("two accumulators", "split", "packed"))  # fmt: skip
def test_variants_and_tiles(monkeypatch, variant, up, tile):
    """Several tiles in each direction, the last ones partly filled."""
    force(monkeypatch, tile._replace(mode=variant, packed=tile.packed and variant != TRANSPOSED))
    check(tensors(2, 18, 20, h=3, up=up), up=up, resample_filter=FILTER if up == 2 else None, clamp=0.8)


@pytest.mark.parametrize("variant,up", ((PLAIN, 1), (POLYPHASE, 2), (TRANSPOSED, 2)))
def test_parts_are_optional(monkeypatch, variant, up):
    if up == 2:
        force(monkeypatch, Config(variant, 64, 64, 0, 128, 4, 2))
    arguments = tensors(1, 8, 8, up=up, dtype=torch.float16)
    del arguments["noise"], arguments["next_styles"]
    f = FILTER if up == 2 else None
    check(arguments, 3, up=up, resample_filter=f, demodulate=False, act="swish", gain=1.3)
    check(arguments, 3, up=up, resample_filter=f, act="linear")


@pytest.mark.parametrize("n", (0, 1, 5))
def test_batches(n):
    check(tensors(n, 3, 4, up=2), up=2, resample_filter=FILTER)


def test_layouts():
    """Contiguous, channels_last, permuted, strided, and a slice of channels; the output's order is that of x."""
    arguments = tensors(2, 6, 5)
    x = arguments["x"]
    wide = torch.randn(2, 9, 4, 5).contiguous(memory_format=torch.channels_last)
    wide[:, 2:8] = x
    views = {
        "contiguous": x.contiguous(), "permuted": x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
        "strided": torch.randn(2, 6, 4, 10)[..., ::2].copy_(x), "channels": wide[:, 2:8],
    }  # fmt: skip
    for name, view in views.items():
        got = check({**arguments, "x": view})
        last = name == "channels"
        assert got.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format), name


@pytest.mark.parametrize("options", (
    {"padding": 0}, {"padding": [2, 1], "flip_weight": False}, {"padding": [1, 0, 0, 1]}, {"down": 2, "padding": 1},
    {"up": 2, "padding": 1, "flip_weight": False}, {"up": 2, "padding": 1}, {"up": 2, "padding": 0}, {"up": 3},
), ids=str)  # fmt: skip
def test_modulated_conv2d_takes_every_option(options):
    """Fused or composed, and 16 taps that are no product of a row and a column."""
    a = tensors(2, 4, 3, h=6, w=5)
    f = torch.rand(4, 4) if "up" in options or "down" in options else None
    oracle = reference.modulated_conv2d(
        a["x"].double(), a["weight"].double(), a["styles"].double(), resample_filter=f, **options
    )
    x, weight, styles = (a[name].to(DEVICE) for name in ("x", "weight", "styles"))
    f = None if f is None else f.to(DEVICE)
    got = ops.modulated_conv2d(x, weight, styles, resample_filter=f, **options, backend="triton")
    assert_close(got, oracle, torch.float32, factor=4)


def test_noise_per_channel_is_composed():
    arguments = tensors()
    arguments["noise"] = torch.randn(2, 5, 4, 5)
    check(arguments)


def test_float16_does_not_overflow():
    arguments = tensors(1, 32, 5, dtype=torch.float64)
    arguments["weight"], arguments["styles"] = arguments["weight"] * 1000, arguments["styles"] * 1000
    check({name: t.half() for name, t in arguments.items()}, factor=3)


def test_without_modulation_the_styles_still_demodulate():
    a = {name: t.to(DEVICE) for name, t in tensors().items()}
    want = styled_conv2d(**a)
    styled = a["x"] * a["styles"][:, :, None, None]
    torch.testing.assert_close(styled_conv2d(**{**a, "x": styled}, modulate=False), want)


def test_float32_factors_beside_half_precision():
    """As under mixed precision: only x is float16."""
    arguments = {name: t if name != "x" else t.half() for name, t in tensors(1, 9, 6).items()}
    check(arguments, factor=3)
