"""Convolution over chosen channels and toRGB in Triton against the float64 reference of the gathered weight.

tests/kernels/test_triton_interpreter.py runs it.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from cagc_kernels import setup_filter, sparse_channel_conv2d, upsample2d
from cagc_kernels.reference import modulated_conv2d as reference
from cagc_kernels.tolerances import assert_close

from .triton_device import DEVICE, MARKS

# isort: split
from cagc_kernels.triton import sparse_channel_conv2d as sparse
from cagc_kernels.triton.to_rgb import to_rgb

pytestmark = MARKS
RANDOM = torch.tensor([0, 2, 3, 7, 11, 12, 22]), torch.tensor([1, 4, 5, 6, 18])
BLOCKED = torch.cat([torch.arange(8, 16), torch.arange(16, 24)]), torch.arange(16, 24)


def definition(x, weight, in_channels, out_channels, styles, demodulate, padding, flip_weight, scatter, up):
    """Float64; zeros between the pixels, the block gathered, then a convolution."""
    n, c, h, w = x.shape
    zeros = torch.zeros(n, c, (h - 1) * up + 1, (w - 1) * up + 1, dtype=torch.float64)
    zeros[:, :, ::up, ::up] = x
    kept = weight.double()[out_channels][:, in_channels]
    styles = torch.ones(n, c) if styles is None else styles
    y = reference.modulated_conv2d(
        zeros, kept, styles.double(), padding=padding, demodulate=demodulate, flip_weight=flip_weight
    )
    return y if not scatter else y.new_zeros(n, weight.shape[0], *y.shape[2:]).index_copy(1, out_channels, y)


def check(index, k=3, dtype=torch.float32, last=True, styled=True, **options):
    options = {"demodulate": styled, "padding": k // 2, "flip_weight": True, "scatter": False, "up": 1, **options}
    torch.manual_seed(0)
    x, styles = torch.randn(2, len(index[0]), 3, 5), torch.randn(2, len(index[0]))
    weight = torch.randn(24, 24, k, k) / (k * len(index[0]) ** 0.5)
    weight = weight.contiguous(memory_format=torch.channels_last) if last else weight
    x, weight, styles = x.to(dtype), weight.to(dtype), styles.to(dtype) if styled else None
    want = definition(x, weight, *index, styles, **options)
    tensors = (x, weight, *index, styles)
    # The public op filters what it up-samples; the kernel alone does not.
    public = partial(sparse_channel_conv2d, backend="triton")
    function = public if options["up"] == 1 else sparse.sparse_channel_conv2d
    got = function(*(None if t is None else t.to(DEVICE) for t in tensors), **options)
    assert_close(got, want, dtype, factor=3)


@pytest.mark.parametrize("index", (RANDOM, BLOCKED), ids=("random", "blocked"))
@pytest.mark.parametrize("last", (False, True))
def test_indices_and_memory_orders(index, last):
    check(index, last=last)
    check(index, last=last, flip_weight=False, scatter=True, dtype=torch.float16)


@pytest.mark.parametrize("options", (
    {"styled": False}, {"demodulate": False, "k": 1}, {"padding": 0}, {"up": 2, "padding": 2},
    {"up": 2, "padding": 2, "flip_weight": False, "dtype": torch.float16}, {"up": 2, "padding": 1}, {"k": 7},
    {"k": 2, "padding": 1, "scatter": True}, {"dtype": torch.float64},
), ids=str)  # fmt: skip
def test_options(options):
    check(RANDOM, **options)


def test_blocks_are_found_once_for_each_version():
    index = BLOCKED[0].clone()
    assert sparse.aligned_blocks(index).tolist() == [1, 2]
    assert sparse.aligned_blocks(index) is sparse.aligned_blocks(index)
    index[0] = 7
    assert sparse.aligned_blocks(index) is None
    assert sparse.aligned_blocks(torch.arange(4, 12)) is None and sparse.aligned_blocks(torch.arange(7)) is None


@pytest.mark.parametrize("dtype,i,skip", (
    (torch.float32, 37, True), (torch.float16, 80, True), (torch.float64, 5, True), (torch.float32, 3, False),
))  # fmt: skip
def test_to_rgb_adds_the_upsampled_image(dtype, i, skip):
    torch.manual_seed(0)
    shapes = (2, i, 6, 4), (3, i, 1, 1), (2, i), (3,), (2, 3, 3, 2)
    tensors = [torch.randn(shape).to(dtype) for shape in shapes]
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last if skip else torch.contiguous_format)
    x, weight, styles, bias, before = (t.double() for t in tensors)
    f = setup_filter([1, 3, 3, 1]) if dtype != torch.float32 else torch.rand(4, 4)
    y = reference.modulated_conv2d(x, weight, styles, demodulate=False) + bias[:, None, None]
    want = y.clamp(-2, 2) + (upsample2d(before, f, backend="reference") if skip else 0)
    *tensors, before = (t.to(DEVICE) for t in tensors)
    got = to_rgb(*tensors, before if skip else None, f.to(DEVICE), clamp=2.0)
    assert_close(got, want, dtype, factor=3)
    assert got.is_contiguous(memory_format=torch.channels_last if skip else torch.contiguous_format)


def test_to_rgb_refuses_other_shapes():
    x, weight, styles = torch.zeros(1, 4, 4, 4), torch.zeros(3, 4, 1, 1), torch.zeros(1, 4)
    for bad, arguments in (
        ("weight", (x, torch.zeros(3, 5, 1, 1), styles)), ("styles", (x, weight, torch.zeros(2, 4))),
        ("skip", (x, weight, styles, None, torch.zeros(1, 3, 4, 4))),
        ("resample_filter", (x, weight, styles, None, torch.zeros(1, 3, 2, 2))),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=bad):
            to_rgb(*arguments)
