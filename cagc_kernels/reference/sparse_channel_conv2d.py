"""Convolution over chosen channels in plain PyTorch: the block of the weight is gathered, then convolved densely."""

from __future__ import annotations

import torch

from ..arguments import Epilogue, Resampling
from ..convolution import conv2d_resample, gather, scattered
from . import modulated_conv2d as modulated
from .modulated_conv2d import resample


def layer(
    x: torch.Tensor, weight: torch.Tensor, in_channels: torch.Tensor, out_channels: torch.Tensor,
    styles: torch.Tensor | None, demodulate: bool, flip_weight: bool, scatter: bool, resampling: Resampling,
) -> torch.Tensor:  # fmt: skip
    """Convolve with the gathered block of ``weight``, on checked arguments of the public op."""
    kept = gather(weight, in_channels, out_channels)
    if styles is None:
        y = conv2d_resample(x, kept.to(x.dtype), resampling, flip_weight, resample)
    else:
        y = modulated.layer(x, kept, styles, demodulate, True, flip_weight, resampling, Epilogue())
    return scattered(y, out_channels, weight.shape[0]) if scatter else y


def sparse_channel_conv2d(
    x, weight, in_channels, out_channels, styles=None, demodulate=True, padding=None, flip_weight=True, scatter=False,
    up=1, resample_filter=None,
) -> torch.Tensor:  # fmt: skip
    """Convolve with the gathered block of ``weight``; see :func:`cagc_kernels.sparse_channel_conv2d`."""
    padding = weight.shape[-1] // 2 if padding is None else padding
    resampling = Resampling(resample_filter, (up, up), padding=(padding,) * 4)
    return layer(x, weight, in_channels, out_channels, styles, demodulate, flip_weight, scatter, resampling)
