"""The kernels around the convolution, of every backend that has them, against their formula in float64."""

from __future__ import annotations

import pytest
import torch

from cagc_kernels import native, setup_filter, styled_conv2d
from cagc_kernels.arguments import Epilogue, activation
from cagc_kernels.ops import epilogue as ops
from cagc_kernels.reference import epilogue as reference
from cagc_kernels.tolerances import TOLERANCES, assert_close

WIDTHS = (1, 3, 37, 77, 154)
LAYOUTS = ("contiguous", "channels_last", "slice", "permuted")
LRELU = ("lrelu", None, None, None)
OP = "epilogue"  # Triton has no kernel of its own for it, so it is no target here


def run(function, x, f, scale, noise, bias, next_styles, padding, size, act, alpha, gain, clamp, *backend):
    given = Epilogue(noise, bias, next_styles, *activation(act, alpha, gain, clamp))
    return function(x, f, scale, given, padding, size, *backend)


def epilogue(*arguments):
    return run(ops.epilogue, *arguments)


def formula(*arguments):
    return run(reference.epilogue, *arguments)


def tensors(n=2, c=5, height=6, width=7, dtype=torch.float32, device="cpu", noise=None):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    shapes = (n, c), (noise or n, 1, height, width), (c,), (n, c)
    return [torch.randn(shape, dtype=torch.float64).to(device, wide) for shape in shapes]


def maybe(t, function):
    return None if t is None else function(t)


def inputs(n, c, height, width, filtered, dtype, device, layout="contiguous"):
    """x and f of an output of this size."""
    f = torch.randn(4, 4, dtype=torch.float64).to(device, torch.float64 if dtype == torch.float64 else torch.float32)
    h, w = (height + 1, width + 1) if filtered else (height, width)
    x = torch.randn(n, c, h, w, dtype=torch.float64).to(device, dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "slice":
        x = torch.stack([x, x], -1).flatten(-2)[..., ::2]
    elif layout == "permuted":
        x = x.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    return x, f if filtered else None


def gradients(function, leaves, g, vectors):
    """First gradients of sum(y·g), then those of sum(v·first gradient of x) + Σ of the others."""
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    g = g.detach().clone().requires_grad_()
    first = torch.autograd.grad(function(*leaves), leaves, g, create_graph=True)
    total = sum((t * v).sum() for t, v in zip(first, vectors))
    return *first, *torch.autograd.grad(total, (*leaves, g), allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("clamp", (None, 1.5))
@pytest.mark.parametrize("act", ("linear", "relu", "lrelu"))
@pytest.mark.parametrize("filtered", (False, True), ids=("plain", "filtered"))
def test_value_and_gradients(target, filtered, act, clamp, dtype):
    name, device = target
    x, f = inputs(2, 5, 6, 7, filtered, dtype, device)
    small = tensors(dtype=dtype, device=device)
    rest = ((1, 1), (6, 7), act, None, 1.3, clamp)

    want = formula(x.double(), maybe(f, torch.Tensor.double), *(t.double() for t in small), *rest)
    assert_close(epilogue(x.clone(), f, *small, *rest, name), want, dtype, factor=3)
    if dtype in (torch.float16, torch.bfloat16):
        return  # the gradients are summed in float32 from the same values; rounding would move some over a kink
    g, vectors = torch.randn_like(want), [torch.randn_like(t, dtype=torch.float64) for t in (x, *small)]
    leaves, wide = (x, *small), [t.double() for t in (x, *small)]
    vectors_in_dtype = [v.to(dtype) for v in vectors]
    got = gradients(lambda x, *s: epilogue(x, f, *s, *rest, name), leaves, g.to(dtype), vectors_in_dtype)
    oracle = gradients(lambda x, *s: formula(x, maybe(f, torch.Tensor.double), *s, *rest), wide, g, vectors)
    for a, e in zip(got, oracle, strict=True):
        assert_close(a, e, dtype, factor=20)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("filtered", (False, True), ids=("plain", "filtered"))
def test_layouts_and_odd_widths(target, filtered, layout, width):
    name, device = target
    for batch, size in ((1, (4, 5)), (5, (5, 3))):
        x, f = inputs(batch, width, *size, filtered, torch.float32, device, layout)
        small = tensors(batch, width, *size, device=device, noise=1)
        rest = ((1, 1), size, *LRELU)
        x.requires_grad_()
        y = epilogue(x, f, *small, *rest, name)
        want = formula(x.double(), maybe(f, torch.Tensor.double), *(t.double() for t in small), *rest)
        assert_close(y, want, x.dtype, factor=3)
        g = torch.randn(y.shape[::-1], device=device).permute(3, 2, 1, 0)
        got, oracle = (torch.autograd.grad(t, x, g.to(t.dtype))[0] for t in (y, want))
        assert_close(got, oracle, x.dtype, factor=6)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("channels", (27, 8, 4, 2))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_gradients_of_every_instruction_set(target, layout, channels, dtype):
    """Of adjacent values, 27 channels or 35 pixels are vectors and a rest, and 8, 4 or 2 channels half of a vector."""
    name, device = target
    x, _ = inputs(2, channels, 5, 7, False, dtype, device, layout)
    small, g = tensors(2, channels, 5, 7, dtype, device), torch.randn(2, channels, 5, 7, device=device).to(dtype)
    wide = [t.double().requires_grad_() for t in (x, *small)]
    rest = ((1, 1), (5, 7), "lrelu", None, 1.3, 1.5)
    oracle = torch.autograd.grad(formula(wide[0], None, *wide[1:], *rest), wide, g.double())
    leaves = [t.requires_grad_() for t in (x, *small)]
    sets = native._C.instruction_sets() if target == ("native", "cpu") else [None]
    try:
        for instructions in sets:
            if instructions:
                native._C.use_instructions(instructions)
            got = torch.autograd.grad(epilogue(x, None, *small, *rest, name), leaves, g)
            for a, e in zip(got, oracle, strict=True):
                assert_close(a, e, a.dtype, factor=20)
    finally:
        if sets[0]:
            native._C.use_instructions(sets[0])


@pytest.mark.parametrize("present", range(5))
@pytest.mark.parametrize("filtered", (False, True), ids=("plain", "filtered"))
def test_each_operand_is_optional(target, filtered, present):
    name, device = target
    x, f = inputs(2, 3, 4, 5, filtered, torch.float32, device)
    small = [t if i == present else None for i, t in enumerate(tensors(2, 3, 4, 5, device=device))]
    rest = ((1, 1), (4, 5), *LRELU)
    want = formula(x.double(), maybe(f, torch.Tensor.double), *(maybe(t, torch.Tensor.double) for t in small), *rest)
    leaves = [t for t in (x, *small) if t is not None]
    y = epilogue(x.requires_grad_(), f, *(maybe(t, torch.Tensor.requires_grad_) for t in small), *rest, name)
    assert_close(y, want, x.dtype, factor=3)
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), leaves))


@pytest.mark.parametrize("padding,size", (((1, 1), (6, 6)), ((3, 0), (9, 8)), ((0, 2), (5, 3)), ((-1, 5), (3, 2))))
def test_filters_and_borders(target, padding, size):
    """Any padding, separable or not."""
    name, device = target
    x = torch.randn(1, 3, 7, 6, device=device)
    separable = torch.randn(4).outer(torch.randn(4)).to(device)
    for f in (separable, torch.randn(4, 4, device=device)):
        got = epilogue(x, f, None, None, None, None, padding, size, *LRELU, name)
        want = formula(x.double(), f.double(), None, None, None, None, padding, size, *LRELU)
        assert_close(got, want, x.dtype, factor=4)


@pytest.mark.parametrize("shape", ((0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)))
def test_empty(target, shape):
    name, device = target
    x = torch.zeros(shape, device=device, requires_grad=True)
    d = torch.ones(shape[:2], device=device, requires_grad=True)
    y = epilogue(x, None, d, None, None, None, (0, 0), shape[2:], *LRELU, name)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape and torch.equal(d.grad, torch.zeros_like(d))


def test_more_threads_and_determinism(target):
    name, device = target
    x, f = inputs(1, 40, 90, 91, True, torch.float32, device, "channels_last")
    small = tensors(1, 40, 90, 91, device=device)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            leaves = [t.detach().clone().requires_grad_() for t in (x, *small)]
            y = epilogue(leaves[0], f, *leaves[1:], (1, 1), (90, 91), *LRELU, name)
            results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_opcheck(target):
    name, device = target
    activation = ("lrelu", 0.2, 2**0.5, 0.8)
    small = [t.requires_grad_() for t in tensors(2, 3, 4, 5, device=device)]
    x, f = inputs(2, 3, 4, 5, True, torch.float32, device, "slice")
    value = (x.requires_grad_(), f, *small, *activation, 1, 1, 4, 5, name)
    torch.library.opcheck(torch.ops.cagc.epilogue.default, value)
    x, _ = inputs(2, 3, 4, 5, False, torch.float32, device, "permuted")
    gradient = (torch.randn(2, 3, 4, 5, device=device).requires_grad_(), x.requires_grad_(), *small, *activation, name)
    torch.library.opcheck(torch.ops.cagc.epilogue_gradient.default, gradient)


def test_keeps_only_the_convolution_s_output(target):
    name, device = target
    kept = []
    x, f = inputs(1, 8, 32, 32, True, torch.float32, device)
    small = [t.requires_grad_() for t in tensors(1, 8, 32, 32, device=device, noise=1)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        epilogue(x.requires_grad_(), f, *small, (1, 1), (32, 32), *LRELU, name)
    assert [t.data_ptr() for t in kept if t.numel() > 1024] == [x.data_ptr()]


@pytest.mark.parametrize("act", ("lrelu", "swish"))
@pytest.mark.parametrize("up", (1, 2))
def test_gradcheck_of_the_layer(target, up, act):
    name, device = target
    shapes = (1, 2, 3, 3), (2, 2, 3, 3), (1, 2), (2,), (1, 1, 3 * up, 3 * up), (1, 2)
    leaves = [torch.randn(s, dtype=torch.float64, device=device, requires_grad=True) for s in shapes]
    f = setup_filter([1, 3, 3, 1], device)

    def layer(x, weight, styles, bias, noise, following):
        return styled_conv2d(
            x, weight, styles, bias, noise, up, f, act=act, next_styles=following, modulate=up == 2, backend=name
        )

    assert torch.autograd.gradcheck(layer, leaves)
    assert torch.autograd.gradgradcheck(layer, leaves)


def test_the_layer_with_noise_per_channel(target):
    name, device = target
    x, weight, styles, bias = (torch.randn(s, device=device) for s in ((2, 3, 4, 4), (5, 3, 3, 3), (2, 3), (5,)))
    noise, f = torch.randn(5, 8, 8, device=device), setup_filter([1, 3, 3, 1], device)
    arguments = (x, weight, styles, bias, noise, 2, f)
    got = styled_conv2d(*arguments, act="tanh", backend=name)
    torch.testing.assert_close(got, styled_conv2d(*arguments, act="tanh", backend="reference"), rtol=1e-4, atol=1e-5)
