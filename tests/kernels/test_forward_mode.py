"""Forward-mode derivatives and torch.func: those of the reference, never silently zero."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from cagc_kernels import (
    bias_act,
    filtered_lrelu,
    modulated_conv2d,
    setup_filter,
    sparse_channel_conv2d,
    styled_conv2d,
    upfirdn2d,
)

F = setup_filter([1, 3, 3, 1]).double()
WEIGHT = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
STYLES, BIAS = torch.tensor([[0.5, 1.0, 2.0]]).double(), torch.zeros(4, dtype=torch.float64)
OPS = {
    "bias_act": partial(bias_act, b=BIAS[:3], act="swish"),
    "upfirdn2d": partial(upfirdn2d, f=F.float(), up=2),
    "filtered_lrelu": partial(filtered_lrelu, fu=F.float(), fd=F.float(), up=2, down=2, padding=3),
    "modulated_conv2d": partial(modulated_conv2d, weight=WEIGHT, styles=STYLES, padding=1),
    "styled_conv2d": partial(styled_conv2d, weight=WEIGHT, styles=STYLES, bias=BIAS, up=2, resample_filter=F.float()),
    "sparse_channel_conv2d": partial(
        sparse_channel_conv2d, weight=WEIGHT, in_channels=torch.arange(3), out_channels=torch.tensor([0, 2])
    ),
}


@pytest.mark.parametrize("op", OPS)
def test_derivative_along_a_direction(op):
    x, direction = torch.randn(2, 1, 3, 6, 6, dtype=torch.float64)
    value, derivative = torch.func.jvp(OPS[op], (x,), (direction,))
    torch.testing.assert_close(value, OPS[op](x))
    step = 1e-6
    expected = (OPS[op](x + step * direction) - OPS[op](x - step * direction)) / (2 * step)
    torch.testing.assert_close(derivative, expected, rtol=1e-6, atol=1e-7)
    assert derivative.abs().max() > 0.1


@pytest.mark.parametrize("op", OPS)
def test_a_backend_without_it_refuses(op):
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="no forward-mode derivative"):
        torch.func.jvp(partial(OPS[op], backend="native"), (x,), (x,))


@pytest.mark.parametrize("op", OPS)
def test_gradient_of_each_sample(op):
    x = torch.randn(3, 1, 3, 6, 6, dtype=torch.float64)
    found = torch.func.vmap(torch.func.grad(lambda x: OPS[op](x).square().sum()))(x)
    for sample, gradient in zip(x, found, strict=True):
        sample.requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(OPS[op](sample).square().sum(), sample)[0])
