"""Modulated convolution against the definition that scales the weights of each sample; the layer against its parts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cagc_kernels import bias_act, modulated_conv2d, setup_filter, styled_conv2d, upfirdn2d
from cagc_kernels.tolerances import TOLERANCES, assert_close


def definition(x, weight, styles, demodulate=True, padding=1):
    """StyleGAN2, equations 1 and 3, one sample at a time in float64."""
    images = []
    for image, style in zip(x.double(), styles.double(), strict=True):
        w = weight.double() * style[None, :, None, None]
        if demodulate:
            w = w * (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        images.append(F.conv2d(image[None], w, padding=padding))
    return torch.cat(images)


def tensors(n=2, i=6, o=5, k=3, size=8, dtype=torch.float32):
    shapes = (n, i, size, size), (o, i, k, k), (n, i), (o,)
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("i,o", ((1, 1), (3, 37), (77, 39), (154, 3)))
@pytest.mark.parametrize("demodulate", (True, False))
def test_definition(demodulate, i, o, dtype):
    x, weight, styles, _ = tensors(i=i, o=o, dtype=dtype)
    got = modulated_conv2d(x, weight, styles, padding=1, demodulate=demodulate)
    # x·s, the weights and the demodulated sum are each rounded once.
    assert_close(got, definition(x, weight, styles, demodulate), dtype, factor=3)


def test_layouts_agree():
    x, weight, styles, bias = tensors()
    f = setup_filter([1, 3, 3, 1])
    last = x.contiguous(memory_format=torch.channels_last)
    for up in (1, 2):
        want = styled_conv2d(x, weight, styles, bias, up=up, resample_filter=f)
        torch.testing.assert_close(styled_conv2d(last, weight, styles, bias, up=up, resample_filter=f), want)
        wide = torch.randn(2, 6, 8, 16)[..., ::2].copy_(x)
        torch.testing.assert_close(styled_conv2d(wide, weight, styles, bias, up=up, resample_filter=f), want)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
@pytest.mark.parametrize("n, inputs, outputs, height", ((0, 3, 5, 4), (2, 0, 5, 4), (2, 3, 0, 4), (2, 3, 5, 0)))
@pytest.mark.parametrize("up, down, act", ((1, 1, "lrelu"), (2, 1, "swish"), (1, 2, None)))
def test_empty_sizes(up, down, act, n, inputs, outputs, height, dtype):
    """Nothing to multiply: zeros, then noise, bias and activation, with gradients and second gradients."""
    if height == 0 and act is not None:
        return  # the padding of styled_conv2d leaves fewer pixels than the kernel has
    x, weight = torch.randn(n, inputs, height, 4, dtype=dtype), torch.randn(outputs, inputs, 3, 3)
    f, bias, noise = setup_filter([1, 3, 3, 1]), torch.randn(outputs), torch.randn(1, 1, height * up, 4 * up)
    leaves = [t.requires_grad_() for t in (x, weight, torch.randn(n, inputs))]
    if act is None:
        noise = torch.randn(1, 1, (height + 2) // 2, 3)
        y = modulated_conv2d(*leaves, noise, down=down, padding=2, resample_filter=f)
    else:
        y = styled_conv2d(*leaves, bias, noise, up, f, act=act)
    want = noise if act is None else bias_act(noise + bias[:, None, None], act=act, backend="reference")
    torch.testing.assert_close(y, want.to(dtype).expand(n, outputs, -1, -1))
    gradients = torch.autograd.grad(y, leaves, torch.ones_like(y).requires_grad_(), create_graph=True)
    second = torch.autograd.grad(sum(t.sum() for t in gradients), leaves, materialize_grads=True, allow_unused=True)
    assert all(t.shape == leaf.shape and not t.any() for t, leaf in zip((*gradients, *second), leaves * 2))


@pytest.mark.parametrize("up", (1, 2))
def test_layer_is_its_parts(up):
    x, weight, styles, bias = tensors()
    noise, following = torch.randn(1, 1, 8 * up, 8 * up), torch.randn(2, 5)
    f = setup_filter([1, 3, 3, 1])
    got = styled_conv2d(x, weight, styles, bias, noise, up, f, act="swish", gain=1.1, clamp=1.0, next_styles=following)
    zeros = torch.zeros(2, 6, 2 * 8, 2 * 8)
    zeros[:, :, ::2, ::2] = x
    upsampled = upfirdn2d(zeros, f, padding=[2, 1, 2, 1], gain=4) if up == 2 else x
    y = definition(upsampled, weight.flip(2, 3) if up == 2 else weight, styles).float() + noise
    y = bias_act(y, bias, act="swish", gain=1.1, clamp=1.0, backend="reference") * following[:, :, None, None]
    # The layer convolves, then filters: at the borders the order shows, inside it does not.
    inside = (..., slice(3, -3), slice(3, -3)) if up == 2 else (...,)
    torch.testing.assert_close(got[inside], y[inside], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("up,down,demodulate", ((1, 1, True), (2, 1, True), (1, 2, False)))
def test_gradcheck(up, down, demodulate):
    x, weight, styles, _ = (t.requires_grad_() for t in tensors(1, 2, 2, size=4, dtype=torch.float64))
    noise = torch.randn(1, 1, 4 * up // down, 4 * up // down, dtype=torch.float64, requires_grad=True)
    f = setup_filter([1, 3, 3, 1])

    def function(x, weight, styles, noise):
        return modulated_conv2d(x, weight, styles, noise, up, down, 1, f, demodulate, flip_weight=up == 1)

    assert torch.autograd.gradcheck(function, (x, weight, styles, noise))
    assert torch.autograd.gradgradcheck(function, (x, weight, styles, noise))


def test_float16_does_not_overflow():
    x, weight, styles, _ = tensors(i=64, size=4)
    want = definition(x, weight * 200, styles * 300)
    got = modulated_conv2d(x.half(), (weight * 200).half(), (styles * 300).half(), padding=1)
    assert_close(got, want, torch.float16, factor=3)


def test_r1_and_path_length_steps_run():
    """Second derivatives through the whole layer, native epilogue included."""
    x, weight, styles, bias = (t.requires_grad_() for t in tensors())
    y = styled_conv2d(x, weight, styles, bias)
    (g,) = torch.autograd.grad(y.square().sum(), styles, create_graph=True)
    g.square().sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in (x, weight, styles, bias))
