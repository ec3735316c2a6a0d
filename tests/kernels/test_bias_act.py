"""bias_act of every backend against the reference in float64: values, gradients, layouts, widths, registration."""

from __future__ import annotations

import sys

import pytest
import torch

from cagc_kernels import bias_act, fused_leaky_relu
from cagc_kernels.reference import bias_act as reference
from cagc_kernels.reference.bias_act import ACTIVATIONS
from cagc_kernels.tolerances import TOLERANCES, assert_close

ODD_WIDTHS = (1, 3, 37, 77, 154)
SMOOTH = [name for name in ACTIVATIONS if name not in ("linear", "relu", "lrelu")]


def tensors(shape, channels, dtype=torch.float32, device="cpu"):
    x = torch.randn(shape, dtype=torch.float64)
    b = torch.randn(channels, dtype=torch.float64)
    return x.to(dtype).to(device), b.to(dtype).to(device)


def oracle(x, b, **options):
    return reference.bias_act(x.double().cpu(), None if b is None else b.double().cpu(), **options)


def gradients(function, x, b, g, v):
    """Return the gradients of sum(y·g), then those of sum(v·dx) with respect to x, b and g."""
    x, b, g = (t.detach().clone().requires_grad_() for t in (x, b, g))
    dx, db = torch.autograd.grad(function(x, b), (x, b), g, create_graph=True)
    second = torch.autograd.grad(dx, (x, b, g), v, allow_unused=True, materialize_grads=True)
    return dx, db, *second


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("clamp", (None, 0.75))
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_value_and_gradients(target, act, clamp, dtype):
    backend, device = target
    x, b = tensors((2, 5, 6, 7), 5, dtype, device)
    g, v = torch.randn_like(x), torch.randn_like(x)
    options = {"act": act, "gain": 1.3, "clamp": clamp}
    assert_close(bias_act(x, b, **options, backend=backend), oracle(x, b, **options), dtype)
    if clamp is not None and dtype in (torch.float16, torch.bfloat16):
        return  # rounding moves elements over the bound, where the derivative jumps
    got = gradients(lambda x, b: bias_act(x, b, **options, backend=backend), x, b, g, v)
    want = gradients(lambda x, b: oracle(x, b, **options), *(t.double().cpu() for t in (x, b, g, v)))
    for a, e in zip(got, want, strict=True):
        assert_close(a, e, dtype, factor=4)


@pytest.mark.parametrize("width", ODD_WIDTHS)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "slice", "transposed", "2d", "1d"))
def test_layouts_and_odd_widths(target, layout, width):
    backend, device = target
    shape = {"2d": (9, width), "1d": (width,)}.get(layout, (2, width, 5, 3))
    x, b = tensors(shape, width, device=device)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "slice":
        x = torch.randn(3, width + 5, 7, 4, device=device)[1:, 2 : 2 + width, 1:6, ::2][..., :2]
    elif layout == "transposed":
        x = x.transpose(0, 3)
    dim = x.ndim - 3 if x.ndim == 4 else x.ndim - 1
    x.requires_grad_()
    y = bias_act(x, b, dim, "lrelu", backend=backend)
    assert_close(y, oracle(x, b, dim=dim, act="lrelu"), x.dtype)
    if layout != "slice":
        assert y.stride() == x.stride()
    g = torch.randn(y.shape[::-1], device=device).permute(*reversed(range(y.ndim)))
    (dx,) = torch.autograd.grad(y, x, g)
    wide = x.detach().double().cpu().requires_grad_()
    (want,) = torch.autograd.grad(oracle(wide, b, dim=dim, act="lrelu"), wide, g.double().cpu())
    assert_close(dx, want, x.dtype)


@pytest.mark.parametrize("dim", (-4, -3, -2, -1, 0, 1, 2, 3))
def test_bias_along_any_axis(target, dim):
    backend, device = target
    x = torch.randn(3, 4, 5, 6, device=device)
    b = torch.randn(x.shape[dim], device=device)
    assert_close(bias_act(x, b, dim, "lrelu", backend=backend), oracle(x, b, dim=dim, act="lrelu"), x.dtype)


def test_strided_bias(target):
    backend, device = target
    x, b = tensors((2, 6, 4, 4), 12, device=device)
    assert_close(bias_act(x, b[::2], act="lrelu", backend=backend), oracle(x, b[::2], act="lrelu"), x.dtype)


@pytest.mark.parametrize("shape", ((0, 4, 5, 5), (2, 0, 5, 5), (2, 4, 0, 5)))
def test_empty(target, shape):
    backend, device = target
    x = torch.empty(shape, device=device, requires_grad=True)
    b = torch.zeros(shape[1], device=device, requires_grad=True)
    y = bias_act(x, b, act="lrelu", backend=backend)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape and torch.equal(b.grad, torch.zeros_like(b))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_nan_and_infinity_as_the_reference(target, act):
    backend, device = target
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[nan, inf, -inf, 0.0, -0.0, 1e30, -1e30, 100.0, -100.0]], device=device)
    got, want = bias_act(x, act=act, backend=backend), reference.bias_act(x, act=act)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name,value", (("alpha", -0.3), ("alpha", 0.0), ("gain", -1.5), ("gain", 0.0), ("clamp", 0.0)))
def test_unusual_scalars(target, name, value):
    backend, device = target
    x, b = tensors((2, 3, 4, 4), 3, torch.float64, device)
    g, v = torch.randn_like(x), torch.randn_like(x)
    options = {"act": "lrelu", name: value}
    if (
        value < 0 or name == "gain"
    ):  # kernels cannot derive the gradient from the output: the reference runs unless a kernel is named
        with pytest.raises(ValueError, match=f"{name}: got {value}, which '{backend}' does not compute; expected"):
            bias_act(x, b, **options, backend=backend)
        backend = None
    got = gradients(lambda x, b: bias_act(x, b, **options, backend=backend), x, b, g, v)
    want = gradients(lambda x, b: oracle(x, b, **options), *(t.cpu() for t in (x, b, g, v)))
    for a, e in zip(got, want, strict=True):
        assert_close(a, e, torch.float64)


@pytest.mark.parametrize("clamp", (None, 0.6))  # a number that float32 does not hold
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_gradcheck(target, act, clamp):
    backend, device = target
    x, b = tensors((1, 2, 1, 3), 2, torch.float64, device)
    x.requires_grad_(), b.requires_grad_()
    function = lambda x, b: bias_act(x, b, act=act, clamp=clamp, backend=backend)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, b))
    assert torch.autograd.gradgradcheck(function, (x, b))


@pytest.mark.parametrize("act", SMOOTH)
def test_third_derivative(target, act):
    backend, device = target
    x, b = tensors((2, 3, 2), 3, torch.float64, device)

    def third(function):
        u, c = x.clone().requires_grad_(), b.clone().requires_grad_()
        (g,) = torch.autograd.grad(function(u, c).square().sum(), u, create_graph=True)
        (h,) = torch.autograd.grad(g.pow(3).sum(), u, create_graph=True)
        return torch.autograd.grad(h.square().sum(), (u, c))

    got = third(lambda u, c: bias_act(u, c, act=act, backend=backend))
    want = third(lambda u, c: reference.bias_act(u, c, act=act))
    for a, e in zip(got, want, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("act", ("linear", "relu", "lrelu"))
def test_keeps_nothing_but_the_output(target, act):
    backend, device = target
    kept = []
    x, b = (t.requires_grad_() for t in tensors((2, 3, 4, 4), 3, device=device))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        y = bias_act(x, b, act=act, clamp=1.0, backend=backend)
    assert kept == [y.data_ptr()]


def test_more_threads_than_rows_and_determinism(target):
    backend, device = target
    if (backend, device) == ("triton", "cpu"):
        pytest.skip("the interpreter takes minutes for tensors of this size")
    x, b = tensors((1, 3, 301, 299), 3, device=device)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results += [bias_act(x, b, act="lrelu", backend=backend) for _ in range(2)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], r) for r in results)
    assert_close(results[0], oracle(x, b, act="lrelu"), x.dtype)


def test_opcheck(target):
    backend, device = target
    x, b = tensors((2, 3, 4, 5), 3, device=device)
    y = torch.randn_like(x)
    for layout in (x, x.permute(0, 3, 1, 2), x[:, :, ::2]):
        options = (1, "lrelu", 0.2, 2**0.5, -1.0, backend)
        bias = torch.randn(layout.shape[1], device=device, requires_grad=True)
        like = torch.randn_like(layout).requires_grad_()
        layout = layout.detach().requires_grad_()
        torch.library.opcheck(torch.ops.cagc.bias_act.default, (layout, bias, *options))
        torch.library.opcheck(torch.ops.cagc.bias_act_gradient.default, (like, None, None, layout.detach(), *options))
        options = (1, "swish", 0.0, 1.0, 0.8, backend)
        torch.library.opcheck(torch.ops.cagc.bias_act_gradient.default, (like, layout, bias, None, *options))
        second = (like.detach(), like, layout, bias, *options)
        torch.library.opcheck(torch.ops.cagc.bias_act_second_gradient.default, second)
    assert y.isfinite().all()


def test_dispatcher_and_eager_road_agree(target):
    backend, device = target
    x, b = tensors((2, 3, 4, 5), 3, device=device)
    through = torch.ops.cagc.bias_act(x, b, 1, "lrelu", 0.2, 2**0.5, -1.0, backend)
    assert torch.equal(bias_act(x, b, act="lrelu", backend=backend), through)


def test_fused_leaky_relu(target):
    backend, device = target
    x, b = tensors((2, 3, 4, 5), 3, device=device)
    want = torch.nn.functional.leaky_relu(x + b[:, None, None], 0.1) * 1.7
    torch.testing.assert_close(fused_leaky_relu(x, b, 0.1, 1.7, backend=backend), want)
    torch.testing.assert_close(fused_leaky_relu(x, backend=backend), torch.nn.functional.leaky_relu(x, 0.2) * 2**0.5)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape,last", (((3, 5, 7, 9), False), ((2, 37, 33, 35), True), ((1, 2, 190, 191), False)))
def test_last_gradients(target, dtype, shape, last, monkeypatch):
    """If no second gradient is needed, the bias gradient comes from the same pass, for any number of threads."""
    monkeypatch.setattr(sys.modules["cagc_kernels.ops.bias_act"], "_bias_gradient", None)
    backend, device = target
    x, b = tensors(shape, shape[1], dtype, device)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    g = torch.rand_like(x)

    def first(function, *leaves):
        x, b, g = (t.detach().requires_grad_() for t in leaves)
        return torch.autograd.grad(function(x, b), (x, b), g)

    options = {"act": "lrelu", "gain": 1.3}
    got = first(lambda x, b: bias_act(x, b, **options, backend=backend), x, b, g)
    for a, e in zip(
        got, first(lambda x, b: oracle(x, b, **options), *(t.double().cpu() for t in (x, b, g))), strict=True
    ):
        assert_close(a, e, dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = first(lambda x, b: bias_act(x, b, **options, backend=backend), x, b, g)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got[1], again[1])


@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last), ids=str)
def test_bias_gradient_of_large_planes(target, memory_format):
    """The rounding error of a large plane's sum is not larger than that of PyTorch's sum."""
    backend, device = target
    if backend == "triton" and device == "cpu":
        pytest.skip("a million elements take the interpreter minutes")
    x = torch.randn(1, 16, 256, 256, device=device).contiguous(memory_format=memory_format)
    b = torch.zeros(16, device=device, requires_grad=True)
    g = torch.randn_like(x)
    (got,) = torch.autograd.grad(bias_act(x, b, backend=backend), b, g)
    want = g.double().sum((0, 2, 3))

    def error(total):
        return (total.double() - want).square().mean().sqrt()

    assert error(got) <= 3 * error(g.sum((0, 2, 3)))
