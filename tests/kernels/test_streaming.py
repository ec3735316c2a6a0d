"""Non-temporal stores: results larger than half a last-level cache of 32 MB equal those of their single samples."""

from __future__ import annotations

import pytest
import torch

from cagc_kernels import backend, bias_act, setup_filter, upfirdn2d

LEAST = 16 * 2**20
NATIVE = backend.unavailable("native")
pytestmark = pytest.mark.skipif(NATIVE is not None, reason=str(NATIVE))
layouts = pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last), ids=str)


def images(channels: int, side: int, dtype: torch.dtype, memory_format: torch.memory_format) -> torch.Tensor:
    """Samples of more than LEAST bytes together."""
    count = LEAST // (channels * side * side * dtype.itemsize) + 1
    return torch.randn(count, channels, side, side).to(dtype).contiguous(memory_format=memory_format)


@layouts
@pytest.mark.parametrize(
    ("dtype", "channels", "side"),
    [
        (torch.float32, 48, 64), (torch.float32, 37, 77), (torch.float64, 37, 77), (torch.bfloat16, 37, 77),
    ],
    ids=str,
)  # fmt: skip
def test_bias_act(dtype, channels, side, memory_format):
    x = images(channels, side, dtype, memory_format).requires_grad_()
    b = torch.randn(channels).to(dtype)

    def derivatives(x, g, h):
        y = bias_act(x, b, act="swish", clamp=2, backend="native")
        (dx,) = torch.autograd.grad(y, x, g, create_graph=True)
        return y, dx, *torch.autograd.grad(dx, x, h)

    g, h = torch.randn_like(x), torch.randn_like(x)
    singly = zip(*(derivatives(*sample) for sample in zip(*(t.split(1) for t in (x, g, h)), strict=True)), strict=True)
    for together, alone in zip(derivatives(x, g, h), singly, strict=True):
        assert torch.equal(together, torch.cat(alone))


@layouts
@pytest.mark.parametrize(
    ("options", "dtype", "channels", "side"),
    [
        ({"padding": [2, 1]}, torch.float32, 48, 64), ({"padding": [2, 1]}, torch.float32, 37, 77),
        ({"up": 2, "padding": [2, 1]}, torch.float32, 48, 64), ({"up": 2, "padding": [2, 1]}, torch.float16, 48, 64),
        ({"down": 2, "padding": 1}, torch.float32, 48, 64), ({"down": 2, "padding": 1}, torch.bfloat16, 37, 77),
    ],
    ids=str,
)  # fmt: skip
def test_upfirdn2d(options, dtype, channels, side, memory_format):
    down = options.get("down", 1)
    x = images(channels, side * down, dtype, memory_format).repeat(down**2, 1, 1, 1)
    x = x.contiguous(memory_format=memory_format)
    f = setup_filter([1, 3, 3, 1])
    together = upfirdn2d(x, f, **options, backend="native")
    assert together.nbytes >= LEAST
    assert torch.equal(together, torch.cat([upfirdn2d(s, f, **options, backend="native") for s in x.split(1)]))
