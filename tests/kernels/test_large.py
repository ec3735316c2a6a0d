"""More than 2³¹ elements: offsets into x, by strides; outputs with CAGC_LARGE_TESTS=1 (9 GB, half a minute)."""

from __future__ import annotations

import os
from contextlib import nullcontext

import pytest
import torch

from cagc_kernels import backend, bias_act, setup_filter, upfirdn2d

from ..csrc import emulated as emulator
from ..csrc.emulated import emulated

BEYOND = 2**31 + 4096
F = setup_filter([1, 3, 3, 1])
NATIVE = backend.unavailable("native")
pytestmark = pytest.mark.skipif(NATIVE is not None, reason=str(NATIVE))
large = pytest.mark.skipif(os.environ.get("CAGC_LARGE_TESTS") != "1", reason="CAGC_LARGE_TESTS=1 runs it")


@pytest.fixture(scope="module")
def memory() -> torch.Tensor:
    """4.3 GB of addresses; a page exists once it is written."""
    return torch.empty(BEYOND + 4096, dtype=torch.bfloat16)


@pytest.mark.parametrize("where", ("cpu", "cuda on the emulator"))
@pytest.mark.parametrize("options", ({"padding": 1}, {"up": 2, "padding": [2, 1]}, {"down": 2, "padding": 1}), ids=str)
@pytest.mark.parametrize("axis", ("sample", "channel", "row"))
def test_offsets_beyond_an_int32(memory, axis, options, where):
    if where != "cpu" and emulator.missing():
        pytest.skip(emulator.missing())
    shape = {"sample": (2, 3, 8, 8), "channel": (1, 2, 8, 8), "row": (1, 1, 2, 64)}[axis]
    near = {"sample": (64, 8, 1), "channel": (BEYOND, 8, 1), "row": (BEYOND, BEYOND, 1)}[axis]
    strides = (BEYOND, *near)
    x = memory.as_strided(shape, strides)
    x.copy_(torch.randn(shape))
    f = setup_filter([1, 1]) if axis == "row" else F
    with emulated("upfirdn2d") if where != "cpu" else nullcontext():
        want = upfirdn2d(x.contiguous(), f, **options, backend="native")
        assert torch.equal(upfirdn2d(x, f, **options, backend="native"), want)


@large
def test_bias_act_of_more_elements(memory):
    memory.zero_()
    x, b = memory[: BEYOND // 64 * 64].view(-1, 64), torch.arange(64).bfloat16()
    x[-1] = -b
    x[-2] = -2 * b
    y = bias_act(x, b, act="lrelu", gain=1, alpha=0.5, backend="native")
    assert torch.equal(y[0], b) and torch.equal(y[2**25 + 1], b) and not y[-1].any() and torch.equal(y[-2], -b / 2)


@large
def test_upfirdn2d_of_more_elements():
    side = 23174  # doubled and squared: 2³¹ + 722,256
    x = torch.zeros(1, 1, side, side, dtype=torch.bfloat16)
    x[..., -9:, -9:] = torch.randn(9, 9)
    y = upfirdn2d(x, F, up=2, padding=[2, 1], gain=4, backend="native")
    want = upfirdn2d(x[..., -16:, -16:].contiguous(), F, up=2, padding=[2, 1], gain=4, backend="native")
    assert y.numel() > 2**31 and torch.equal(y[..., -24:, -24:], want[..., -24:, -24:])
    assert not y[..., : 2 * side - 24, :].any()
