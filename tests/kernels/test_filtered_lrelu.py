"""filtered_lrelu of every backend against its definition: values, gradients, layouts, registration, bad input."""

from __future__ import annotations

import pytest
import torch

from cagc_kernels import filtered_lrelu
from cagc_kernels.native import REASON
from cagc_kernels.tolerances import TOLERANCES, assert_close

from .test_upfirdn2d import LAYOUTS, definition, images

RANDOM = torch.Generator().manual_seed(0)


def taps(*size: int) -> torch.Tensor:
    return torch.rand(size, generator=RANDOM) - 0.3


UP, UNEVEN, RADIAL = taps(12), taps(6, 6), taps(12, 12)
RADIAL[6:] = RADIAL[:6].flip(0)
# (fu, fd, up, down, padding): layers of config T and R, factors that share no phase, crops, absent filters.
CASES = {
    "config T": (UP, taps(12), 2, 2, (9, 8, 7, 10)),
    "config T, up 4": (taps(24), taps(12), 4, 2, (11, 12, 13, 9)),
    "config R": (UP, RADIAL, 2, 2, (8, 9, 10, 7)),
    "toRGB": (None, None, 1, 1, (0, 0, 0, 0)),
    "crop": (UNEVEN, UP[:5], 2, 1, (-3, 9, 8, -2)),
    "down alone": (None, UNEVEN[:3], 1, 3, (2, 3, 1, 0)),
    "up alone": (UP[:7], None, 3, 1, (4, 2, 3, 3)),
    "3 and 2": (UP[:8], UNEVEN[:, :4], 3, 2, (5, 6, 4, 3)),
    "gaps": (UP[:2], UP[:1], 3, 4, (3, 1, 2, 0)),
}
SCALARS = {"gain": 1.3, "slope": 0.3, "clamp": 0.9}


def oracle(x, fu, fd, b, up, down, pad, gain, slope, clamp, flip=False):
    """In loops and float64; see :func:`tests.kernels.test_upfirdn2d.definition`."""
    x = x.double().cpu() + (0 if b is None else b.double().cpu()[:, None, None])
    v = definition(x, fu, (up, up), (1, 1), pad, flip, up**2) * gain
    v = torch.where(v > 0, v, v * slope)
    v = v if clamp is None else v.clamp(-clamp, clamp)
    return definition(v, fd, (1, 1), (down, down), (0, 0, 0, 0), flip)


def on(device, case):
    fu, fd, *numbers = CASES[case]
    return (None if fu is None else fu.to(device)), (None if fd is None else fd.to(device)), numbers


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_definition(target, case, dtype):
    backend, device = target
    fu, fd, numbers = on(device, case)
    x, b = torch.randn(2, 3, 9, 11).to(device, dtype), torch.randn(3).to(device, dtype)
    for flip, bias, clamp in ((False, b, 0.9), (True, None, None)):
        scalars = {"gain": 1.3, "slope": 0.3, "clamp": clamp, "flip_filter": flip}
        got = filtered_lrelu(x, fu, fd, bias, *numbers, **scalars, backend=backend)
        want = oracle(x, fu, fd, bias, *numbers, 1.3, 0.3, clamp, flip)
        assert got.dtype == dtype
        assert_close(got, want, dtype, factor=4)


@pytest.mark.parametrize("case", CASES)
def test_reference_is_the_definition(case):
    fu, fd, *numbers = CASES[case]
    x, b = torch.randn(2, 3, 9, 11, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    for flip in (False, True):
        got = filtered_lrelu(x, fu, fd, b, *numbers, **SCALARS, flip_filter=flip, backend="reference")
        assert_close(got, oracle(x, fu, fd, b, *numbers, *SCALARS.values(), flip), torch.float64, factor=3)


@pytest.mark.parametrize("case", CASES)
def test_first_and_second_gradient(target, case):
    backend, device = target
    fu, fd, numbers = on(device, case)
    x, b = torch.randn(2, 3, 8, 9, dtype=torch.float64).to(device), torch.randn(3, dtype=torch.float64).to(device)

    def gradients(backend):
        leaves = [t.clone().requires_grad_() for t in (x, b)]
        y = filtered_lrelu(leaves[0], fu, fd, leaves[1], *numbers, **SCALARS, backend=backend)
        g = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).to(y.device).reshape(y.shape).requires_grad_()
        first = torch.autograd.grad(y.square(), leaves, g, create_graph=True)
        return *first, *torch.autograd.grad(sum(t.square().sum() for t in first), (*leaves, g))

    for a, e in zip(gradients(backend), gradients("reference"), strict=True):
        assert_close(a, e, torch.float64, factor=20)


@pytest.mark.parametrize("case", ("config T", "config R", "3 and 2", "crop"))
def test_gradcheck(target, case):
    backend, device = target
    fu, fd, numbers = on(device, case)
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64).to(device).requires_grad_()
    b = torch.randn(2, dtype=torch.float64).to(device).requires_grad_()

    def function(x, b):
        return filtered_lrelu(x, fu, fd, b, *numbers, gain=0.8, clamp=3.0, backend=backend)

    assert torch.autograd.gradcheck(function, (x, b))
    assert torch.autograd.gradgradcheck(function, (x, b))


@pytest.mark.parametrize("channels", (1, 5, 37))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_odd_widths(target, layout, channels):
    backend, device = target
    fu, fd, numbers = on(device, "config T")
    x = images(layout, 2, channels, 8, 7, device=device)
    y = filtered_lrelu(x, fu, fd, None, *numbers, **SCALARS, backend=backend)
    assert_close(y, oracle(x, fu, fd, None, *numbers, *SCALARS.values()), x.dtype, factor=4)
    last = layout.startswith("channels_last") and channels > 1
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.parametrize("case", ("config T, up 4", "config R"))
def test_larger_than_a_stripe_on_any_number_of_threads(case):
    fu, fd, *numbers = CASES[case]
    x, threads = torch.randn(1, 1, 70, 530, requires_grad=True), torch.get_num_threads()
    wide = x.detach().double().requires_grad_()
    want = filtered_lrelu(wide, fu, fd, None, *numbers, **SCALARS, backend="reference")
    (dwide,) = torch.autograd.grad(want.sum(), wide)
    found = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            y = filtered_lrelu(x, fu, fd, None, *numbers, **SCALARS, backend="native")
            found.append((y, *torch.autograd.grad(y.sum(), x)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for pair in zip(*found, strict=True) for a, b in zip(pair, pair[1:], strict=False))
    assert_close(found[0][0], want, x.dtype, factor=4)
    # Where a value lies beside the clamp, rounding decides whether its gradient is zero.
    assert (found[0][1] - dwide).abs().gt(1e-4).double().mean() < 1e-3


@pytest.mark.parametrize("shape", ((0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)))
def test_empty(target, shape):
    backend, device = target
    x, b = torch.zeros(shape, device=device, requires_grad=True), torch.ones(shape[1], device=device)
    fu, fd, _ = on(device, "config T")
    y = filtered_lrelu(x, fu, fd, b, 2, 2, 20, backend=backend)
    y.sum().backward()
    assert y.shape == (*shape[:2], *(size + 9 for size in shape[2:])) and not y.any() and x.grad.shape == shape


def test_infinity_and_nan_stay_where_they_reach(target):
    backend, device = target
    x = torch.zeros(1, 2, 19, 40).to(device)
    x[0, 0, 9, 15], x[0, 1, 9, 15] = float("inf"), float("nan")
    for case in ("config T", "config R", "crop"):
        fu, fd, numbers = on(device, case)
        got, want = (filtered_lrelu(x, fu, fd, None, *numbers, backend=name) for name in (backend, "reference"))
        finite = want.isfinite()
        assert torch.equal(got[finite], want[finite]) and got[0, 1].isnan().any()
        assert torch.equal(got[:, 1].isnan(), want[:, 1].isnan())


def test_opcheck(target):
    backend, device = target
    fu, fd, numbers = on(device, "config T")
    up, down, padding = numbers
    rest = (up, down, *padding, 1.4, 0.2, 0.9, False, backend)
    for layout in LAYOUTS:
        x = images(layout, 2, 3, 6, 5, device=device).requires_grad_()
        b = torch.randn(3, device=device).requires_grad_()
        y = torch.ops.cagc.filtered_lrelu(x, fu, fd, b, *rest).detach()
        torch.library.opcheck(torch.ops.cagc.filtered_lrelu.default, (x, fu, fd, b, *rest))
        x = x.detach()
        g = torch.randn_like(y).requires_grad_()
        torch.library.opcheck(torch.ops.cagc.filtered_lrelu_gradient.default, (g, x, fu, fd, None, *rest))
        h = torch.randn_like(x).requires_grad_()
        torch.library.opcheck(torch.ops.cagc.filtered_lrelu_tangent.default, (h, x, fu, None, b.detach(), *rest))


@pytest.mark.parametrize("dynamic", (False, True))
def test_compile(target, dynamic):
    backend, device = target
    fu, fd, numbers = on(device, "config T")
    torch._dynamo.reset()
    compiled = torch.compile(filtered_lrelu, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n in (2, 3):
        x = torch.randn(n, 3, 8, 9, device=device).requires_grad_()
        got, want = (f(x, fu, fd, None, *numbers, backend=backend) for f in (compiled, filtered_lrelu))
        assert torch.equal(got, want)
        assert torch.equal(*(torch.autograd.grad(y.sum(), x)[0] for y in (got, want)))


def test_autocast(target):
    backend, device = target
    fu, fd, numbers = on(device, "config T")
    x, b = torch.randn(1, 3, 8, 8, device=device, requires_grad=True), torch.randn(2, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        y = torch.nn.functional.conv2d(x, torch.ones(2, 3, 1, 1, device=device))
        y = filtered_lrelu(y, fu, fd, b, *numbers, backend=backend)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32 and x.grad.isfinite().all()


def test_a_filter_that_wants_a_gradient():
    x, fu = torch.randn(1, 2, 9, 9), UP.clone().requires_grad_()
    with pytest.raises(ValueError, match="fu: requires a gradient"):
        filtered_lrelu(x, fu, UP, None, 2, 2, 9, backend="native")
    (df,) = torch.autograd.grad(filtered_lrelu(x, fu, UP, None, 2, 2, 9).square().sum(), fu)
    assert df.shape == fu.shape and df.abs().sum() > 0


X = torch.zeros(1, 2, 4, 4)


@pytest.mark.parametrize(
    "arguments,error,message",
    [
        ({"x": None}, TypeError, "x: got NoneType, expected a torch.Tensor"),
        ({"x": X[0]}, ValueError, r"x: got shape \[2, 4, 4\], expected 4 dimensions"),
        ({"fu": X}, ValueError, r"fu: got shape \[1, 2, 4, 4\], expected \[k\] or \[kh, kw\]"),
        ({"fd": [1, 3, 3, 1]}, TypeError, "fd: got list, expected a torch.Tensor"),
        ({"fd": UP}, ValueError, "padding: leaves 4 x 4 pixels of the up-sampled x, expected at least 12 x 12"),
        ({"b": torch.zeros(3)}, ValueError, r"b: got shape \[3\], expected \[2\]"),
        ({"b": torch.zeros(2).half()}, TypeError, "b: got dtype torch.float16, expected torch.float32 as x"),
        ({"up": 0}, ValueError, "up: got 0, expected at least 1"),
        ({"up": [2, 2]}, ValueError, "up: got 2 integers, expected one without a sequence"),
        ({"down": 1.5}, TypeError, "down: got 1.5, expected an integer"),
        ({"padding": [1, 2, 3]}, ValueError, "padding: got 3 integers, expected 2 or 4"),
        ({"gain": 0}, ValueError, "gain: got 0.0, expected a finite number above 0"),
        ({"slope": -0.1}, ValueError, "slope: got -0.1, expected at least 0"),
        ({"clamp": -1}, ValueError, "clamp: got -1, expected at least 0"),
        ({"flip_filter": 1}, TypeError, "flip_filter: got int, expected True or False"),
        ({"backend": "cuda"}, ValueError, "backend: got 'cuda', expected one of"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        filtered_lrelu(**{"x": X, **arguments})
