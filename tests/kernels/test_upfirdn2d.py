"""upfirdn2d of every backend against a definition written out in loops: values, gradients, layouts, registration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cagc_kernels import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from cagc_kernels.reference import upfirdn2d as reference
from cagc_kernels.tolerances import TOLERANCES, assert_close


def definition(x, f, up, down, pad, flip=False, gain=1.0):
    """Zeros inserted, padded or cropped, correlated, decimated: one image [H, W] at a time, in float64."""
    f = np.ones((1, 1)) if f is None else f.double().cpu().numpy()
    f = np.outer(f, f) if f.ndim == 1 else f
    f = f if flip else f[::-1, ::-1]
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = up, down, pad
    n, c, h, w = x.shape
    out = np.zeros((n, c, h * uy, w * ux))
    out[:, :, ::uy, ::ux] = x.detach().double().cpu().numpy()
    out = np.pad(out, [(0, 0), (0, 0), (max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))])
    out = out[:, :, max(-y0, 0) : out.shape[2] - max(-y1, 0), max(-x0, 0) : out.shape[3] - max(-x1, 0)]
    windows = np.lib.stride_tricks.sliding_window_view(out, f.shape, axis=(2, 3))
    return torch.from_numpy((windows * f).sum((4, 5))[:, :, ::dy, ::dx] * gain)


CASES = (
    ((1, 1), (1, 1), (0, 0, 0, 0)),
    ((1, 1), (1, 1), (2, 1, 2, 1)),
    ((2, 2), (1, 1), (2, 1, 2, 1)),
    ((2, 2), (1, 1), (1, 2, 3, 0)),
    ((1, 1), (2, 2), (1, 1, 1, 1)),
    ((2, 3), (3, 2), (5, 4, -1, 6)),
    ((3, 1), (1, 2), (2, -2, 3, 0)),
    ((1, 2), (1, 1), (-3, 9, 15, -8)),
)
TAPS = (None, [1, 3, 3, 1], [[1, 2, 0], [0, 1, 4]], list(range(1, 10)))
LAYOUTS = ("contiguous", "channels_last", "slice", "channels_last slice", "every other column")
# One case per branch of the 4 x 4 kernels; the last mirrors no axis, so a transposed or mirrored filter shows.
SQUARES = (CASES[1], CASES[2], CASES[3], CASES[4])
UNEVEN = torch.arange(16.0).reshape(4, 4).square() / 99
FILTERS = {"product": setup_filter([1, 3, 3, 1]), "rank 2": UNEVEN, "vector": setup_filter(list(range(1, 10)))}


def images(layout, n, c, h, w, dtype=torch.float32, device="cpu"):
    """Random [n, c, h, w] in a memory order."""
    if layout == "channels_last":
        return torch.randn(n, h, w, c).to(device, dtype).permute(0, 3, 1, 2)
    if layout == "slice":
        return torch.randn(n + 1, c + 2, h + 3, w + 1).to(device, dtype)[1:, 1 : 1 + c, 2 : 2 + h, 1:]
    if layout == "channels_last slice":
        return torch.randn(n, h + 2, w, c + 3).to(device, dtype).permute(0, 3, 1, 2)[:, 2 : 2 + c, 1 : 1 + h]
    if layout == "every other column":
        return torch.randn(n, c, h, 2 * w).to(device, dtype)[..., ::2]
    return torch.randn(n, c, h, w).to(device, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("taps", TAPS, ids=str)
@pytest.mark.parametrize("up,down,pad", CASES)
def test_definition(target, up, down, pad, taps, dtype):
    backend, device = target
    f = None if taps is None else setup_filter(taps, device)
    x = images("contiguous", 2, 3, 9, 11, dtype, device)
    for flip in (False, True):
        got = upfirdn2d(x, f, up, down, pad, flip, gain=2.0, backend=backend)
        assert got.dtype == dtype
        assert_close(got, definition(x, f, up, down, pad, flip, 2.0), dtype, factor=3)


@pytest.mark.parametrize("taps", TAPS, ids=str)
@pytest.mark.parametrize("up,down,pad", CASES)
def test_reference_is_the_definition(up, down, pad, taps):
    f, x = None if taps is None else setup_filter(taps), torch.randn(2, 3, 9, 11, dtype=torch.float64)
    for flip in (False, True):
        got = reference.upfirdn2d(x, f, up, down, pad, flip, 2.0)
        assert_close(got, definition(x, f, up, down, pad, flip, 2.0), torch.float64, factor=3)


@pytest.mark.parametrize("channels", (1, 3, 8, 37, 77))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("up,down,pad", SQUARES)
def test_layouts_and_odd_widths(target, up, down, pad, layout, channels):
    backend, device = target
    x, f = images(layout, 2, channels, 8, 7, device=device), UNEVEN.to(device)
    y = upfirdn2d(x, f, up, down, pad, backend=backend)
    assert_close(y, definition(x, f, up, down, pad), x.dtype, factor=3)
    last = layout.startswith("channels_last") and channels > 1
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("f", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("up,down,pad", SQUARES)
def test_larger_than_a_tile(target, up, down, pad, layout, f):
    backend, device = target
    if (backend, device) == ("triton", "cpu"):
        pytest.skip("the interpreter takes minutes for tensors of this size")
    x, f = images(layout, 1, 35, 37, 139, device=device), f.to(device)
    want = reference.upfirdn2d(x.double().cpu(), f.cpu(), up, down, pad)
    assert_close(upfirdn2d(x, f, up, down, pad, backend=backend), want, x.dtype, factor=3)


@pytest.mark.parametrize("f", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("up,down,pad", CASES)
def test_first_and_second_gradient(target, up, down, pad, f):
    backend, device = target
    x, f = torch.randn(2, 2, 9, 10, dtype=torch.float64).to(device), f.to(device)

    def gradients(function):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        g = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).to(y.device).reshape(y.shape).requires_grad_()
        (dx,) = torch.autograd.grad(y.square(), leaf, g, create_graph=True)
        return dx, *torch.autograd.grad(dx.square().sum(), (leaf, g))

    got = gradients(lambda x: upfirdn2d(x, f, up, down, pad, gain=3.0, backend=backend))
    want = gradients(lambda x: reference.upfirdn2d(x, f, up, down, pad, False, 3.0))
    for a, e in zip(got, want, strict=True):
        assert_close(a, e, torch.float64, factor=10)


@pytest.mark.parametrize("up,down,pad", (CASES[1], CASES[3], CASES[4], CASES[5]))
def test_gradcheck(target, up, down, pad):
    backend, device = target
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64).to(device).requires_grad_()
    f = UNEVEN.to(device)
    function = lambda x: upfirdn2d(x, f, up, down, pad, backend=backend)  # noqa: E731
    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_gradient_of_a_sum(target):
    """The gradient then has stride 0 everywhere."""
    backend, device = target
    x, f = torch.randn(1, 2, 6, 6).to(device).requires_grad_(), setup_filter([1, 3, 3, 1], device)
    upsample2d(x, f, backend=backend).sum().backward()
    wide = x.detach().double().cpu().requires_grad_()
    upsample2d(wide, f.cpu(), backend="reference").sum().backward()
    assert_close(x.grad, wide.grad, x.dtype)


def test_a_filter_that_wants_a_gradient(target):
    backend, device = target
    x, f = torch.randn(1, 2, 6, 6).to(device), setup_filter([1, 3, 3, 1], device).requires_grad_()
    with pytest.raises(ValueError, match="f: requires a gradient"):
        upfirdn2d(x, f, backend=backend)
    (df,) = torch.autograd.grad(upfirdn2d(x, f).square().sum(), f)
    assert df.shape == f.shape and df.abs().sum() > 0
    with torch.no_grad():
        assert not upfirdn2d(x, f, backend=backend).requires_grad


@pytest.mark.parametrize("shape", ((0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)))
def test_empty(target, shape):
    backend, device = target
    x, f = torch.zeros(shape, device=device, requires_grad=True), setup_filter([1, 3, 3, 1], device)
    y = upfirdn2d(x, f, 2, padding=4, backend=backend)
    y.sum().backward()
    assert y.shape == (*shape[:2], *(2 * size + 5 for size in shape[2:])) and not y.any() and x.grad.shape == shape


@pytest.mark.parametrize("down", (1, 2, 3))
def test_reference_takes_no_channels(down):
    x, f = torch.zeros(2, 0, 8, 9, requires_grad=True), setup_filter([1, 3, 3, 1])
    y = upfirdn2d(x, f, 2, down, padding=1, backend="reference")
    y.sum().backward()
    assert y.shape == upfirdn2d(torch.zeros(2, 1, 8, 9), f, 2, down, padding=1)[:, :0].shape


def test_infinity_and_nan_stay_where_they_reach(target):
    backend, device = target
    x, f = torch.zeros(1, 2, 9, 20).to(device), setup_filter([1, 3, 3, 1], device)
    x[0, 0, 4, 5], x[0, 1, 4, 5] = float("inf"), float("nan")
    for up, down, pad in SQUARES:
        got, want = upfirdn2d(x, f, up, down, pad, backend=backend), reference.upfirdn2d(x, f, up, down, pad)
        # The reference multiplies the zeros too; where it has no NaN, neither may we.
        assert torch.equal(got[:, 0].isinf(), want[:, 0].isinf()) and torch.equal(got[:, 1].isnan(), want[:, 1].isnan())


def test_more_threads_than_rows_and_determinism(target):
    backend, device = target
    if (backend, device) == ("triton", "cpu"):
        pytest.skip("the interpreter takes minutes for tensors of this size")
    x, f = torch.randn(1, 3, 150, 149).to(device), setup_filter([1, 3, 3, 1], device)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results += [upsample2d(x, f, backend=backend) for _ in range(2)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], r) for r in results)
    assert_close(results[0], upsample2d(x.double().cpu(), f.cpu(), backend="reference"), x.dtype)


def test_opcheck(target):
    backend, device = target
    f = setup_filter([1, 3, 3, 1], device)
    for layout in LAYOUTS:
        x = images(layout, 2, 3, 4, 5, device=device).requires_grad_()
        torch.library.opcheck(torch.ops.cagc.upfirdn2d.default, (x, f, 2, 2, 1, 1, 2, 1, 2, 1, False, 4.0, backend))
        torch.library.opcheck(torch.ops.cagc.upfirdn2d.default, (x, None, 1, 2, 2, 1, 0, 0, 1, -1, True, 1.0, backend))


def test_dispatcher_and_eager_road_agree(target):
    backend, device = target
    x, f = torch.randn(2, 3, 4, 5).to(device), setup_filter([1, 3, 3, 1], device)
    through = torch.ops.cagc.upfirdn2d(x, f, 1, 1, 2, 2, 1, 1, 1, 1, False, 1.0, backend)
    assert torch.equal(downsample2d(x, f, backend=backend), through)


def test_autocast(target):
    backend, device = target
    x, f = torch.randn(1, 3, 8, 8).to(device).requires_grad_(), setup_filter([1, 3, 3, 1], device)
    with torch.autocast(device, dtype=torch.bfloat16):
        y = upsample2d(torch.nn.functional.conv2d(x, torch.ones(2, 3, 1, 1, device=device)), f, backend=backend)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32 and x.grad.isfinite().all()


def test_resampling_keeps_a_constant(target):
    backend, device = target
    f = setup_filter([1, 3, 3, 1], device)
    x = torch.full((1, 2, 16, 16), 3.0, device=device)
    for run in (filter2d, upsample2d, downsample2d):
        y = run(x, f, backend=backend)[:, :, 4:-4, 4:-4]
        torch.testing.assert_close(y, torch.full_like(y, 3.0))


def test_taps_as_a_tensor_are_left_alone():
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    setup_filter(taps)
    assert taps.tolist() == [1.0, 3.0, 3.0, 1.0]


@pytest.mark.parametrize("target_backend", ("reference", "native"))
def test_negative_gain_of_separable_taps(target_backend):
    x, taps = torch.randn(1, 2, 5, 6), setup_filter([1, 2, 1], separable=True)
    got = upfirdn2d(x, taps, padding=1, gain=-2.0, backend=target_backend)
    torch.testing.assert_close(got, upfirdn2d(x, taps.outer(taps), padding=1, backend="reference") * -2)
