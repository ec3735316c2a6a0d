"""Replacements for ``mmcv.ops``, for the generators of mmediting and mmgeneration.

:func:`cagc_kernels.compat.install` installs them even if mmcv's compiled extension is missing: its other ops can then
be imported, and raise when they are called.
"""

from __future__ import annotations

import torch

from . import nvlabs
from .families import Layer, op, serve
from .rosinality import FusedLeakyReLU, forward_of_copy, leaky_relu_along


def bias_act(input, bias=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, use_custom_op=True):
    """Call :func:`cagc_kernels.bias_act`, on the reference backend unless ``use_custom_op``."""
    return nvlabs.bias_act(input, bias, dim, act, alpha, gain, clamp, "cuda" if use_custom_op else "ref")


def upfirdn2d(input, filter, up=1, down=1, padding=0, flip_filter=False, gain=1, use_custom_op=True) -> torch.Tensor:
    """Call :func:`cagc_kernels.upfirdn2d`, on the reference backend unless ``use_custom_op``."""
    impl = "cuda" if use_custom_op else "ref"
    return nvlabs.upfirdn2d(input, filter, up, down, padding, flip_filter, gain, impl)


def filtered_lrelu(
    input, filter_up=None, filter_down=None, bias=None, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None,
    flip_filter=False, use_custom_op=True,
) -> torch.Tensor:  # fmt: skip
    """Call :func:`cagc_kernels.filtered_lrelu`; without ``use_custom_op`` on the reference."""
    filters, impl = (filter_up, filter_down), "cuda" if use_custom_op else "ref"
    return nvlabs.filtered_lrelu(input, *filters, bias, up, down, padding, gain, slope, clamp, flip_filter, impl)


class FusedBiasLeakyReLU(FusedLeakyReLU):
    """A :class:`rosinality.FusedLeakyReLU` that always has a bias [num_channels]."""

    def __init__(self, num_channels: int, negative_slope: float = 0.2, scale: float = 2**0.5) -> None:
        super().__init__(num_channels, True, negative_slope, scale)


serve(
    "fused_bias_leakyrelu",
    {
        "bias_act": {"bias_act": op(bias_act)},
        "upfirdn2d": {"upfirdn2d": op(upfirdn2d)},
        "filtered_lrelu": {"filtered_lrelu": op(filtered_lrelu)},
        "fused_bias_leakyrelu": {
            "fused_bias_leakyrelu": op(leaky_relu_along, has_bias_axis=True),
            "FusedBiasLeakyReLU": Layer(forward_of_copy, ("bias", "negative_slope", "scale"), FusedBiasLeakyReLU),
        },
    },
)
