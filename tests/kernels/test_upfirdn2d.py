"""The resampling ops: against a definition written out in loops, gradients, layouts, properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cagc_kernels import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

from .tolerances import TOLERANCES, assert_close


def definition(x, f, up, down, pad, flip, gain):
    """Zeros inserted, padded or cropped, correlated, decimated: one image [H, W] at a time, in float64."""
    f = np.ones((1, 1)) if f is None else f.double().numpy()
    f = np.outer(f, f) if f.ndim == 1 else f
    f = f if flip else f[::-1, ::-1]
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = up, down, pad
    n, c, h, w = x.shape
    out = np.zeros((n, c, h * uy, w * ux))
    out[:, :, ::uy, ::ux] = x.double().numpy()
    out = np.pad(out, [(0, 0), (0, 0), (max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))])
    out = out[:, :, max(-y0, 0) : out.shape[2] - max(-y1, 0), max(-x0, 0) : out.shape[3] - max(-x1, 0)]
    windows = np.lib.stride_tricks.sliding_window_view(out, f.shape, axis=(2, 3))
    return torch.from_numpy((windows * f).sum((4, 5))[:, :, ::dy, ::dx] * gain)


CASES = (
    ((1, 1), (1, 1), (0, 0, 0, 0)),
    ((2, 2), (1, 1), (2, 1, 2, 1)),
    ((1, 1), (2, 2), (1, 1, 1, 1)),
    ((2, 3), (3, 2), (5, 4, -1, 6)),
    ((3, 1), (1, 2), (2, -2, 3, 0)),
)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("taps", (None, [1, 3, 3, 1], [[1, 2, 0], [0, 1, 4]], list(range(1, 10))), ids=str)
@pytest.mark.parametrize("up,down,pad", CASES)
def test_definition(up, down, pad, taps, dtype):
    f = None if taps is None else setup_filter(taps)
    x = torch.randn(2, 3, 9, 11).to(dtype)
    for flip in (False, True):
        got = upfirdn2d(x, f, up, down, pad, flip, gain=2.0)
        # The taps are rounded to the dtype of x; separable ones are summed in two rounds.
        assert_close(got, definition(x, f, up, down, pad, flip, 2.0), dtype, factor=3)


@pytest.mark.parametrize("channels", (1, 3, 37, 77))
def test_strided_inputs(channels):
    x = torch.randn(2, 12, 10, channels + 3).permute(0, 3, 1, 2)[:, 1 : 1 + channels, ::2]
    f = setup_filter([1, 3, 3, 1])
    torch.testing.assert_close(upsample2d(x, f), upsample2d(x.contiguous(), f))


def test_empty_batch():
    x, f = torch.zeros(0, 3, 4, 4), setup_filter([1, 3, 3, 1])
    assert upsample2d(x, f).shape == (0, 3, 8, 8) and downsample2d(x, f).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("up,down,pad", CASES)
def test_gradcheck(up, down, pad):
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    f = setup_filter([[1, 2, 0], [0, 1, 4]])
    function = lambda x: upfirdn2d(x, f, up, down, pad)  # noqa: E731
    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_resampling_keeps_a_constant():
    f = setup_filter([1, 3, 3, 1])
    x = torch.full((1, 2, 16, 16), 3.0)
    for y in (filter2d(x, f), upsample2d(x, f), downsample2d(x, f)):
        torch.testing.assert_close(y[:, :, 4:-4, 4:-4], torch.full_like(y[:, :, 4:-4, 4:-4], 3.0))


def test_taps_as_a_tensor_are_left_alone():
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    setup_filter(taps)
    assert taps.tolist() == [1.0, 3.0, 3.0, 1.0]
