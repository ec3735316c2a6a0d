"""Convolution over chosen channels in plain PyTorch: the block of the weight is gathered, then convolved densely."""

from __future__ import annotations

import torch

from .. import layout
from .modulated_conv2d import conv2d_resample, modulated_conv2d


def gather(weight: torch.Tensor, in_channels: torch.Tensor, out_channels: torch.Tensor) -> torch.Tensor:
    """``weight[out_channels][:, in_channels]`` as a tensor of its own; its gradient is zero outside of the block."""
    return weight.index_select(0, out_channels).index_select(1, in_channels)


def scattered(y: torch.Tensor, out_channels: torch.Tensor, width: int) -> torch.Tensor:
    """[N, width, H, W] with ``y`` at ``out_channels`` and zeros elsewhere."""
    return layout.empty_images(y, *y.shape[2:], channels=width).zero_().index_copy_(1, out_channels, y)


def sparse_channel_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    in_channels: torch.Tensor,
    out_channels: torch.Tensor,
    styles: torch.Tensor | None = None,
    demodulate: bool = True,
    padding: int | None = None,
    flip_weight: bool = True,
    scatter: bool = False,
    up: int = 1,
    resample_filter: torch.Tensor | None = None,
) -> torch.Tensor:
    """The gathered block through :func:`modulated_conv2d`; see :func:`cagc_kernels.sparse_channel_conv2d`."""
    kept = gather(weight, in_channels, out_channels)
    padding = weight.shape[-1] // 2 if padding is None else padding
    if styles is None:
        y = conv2d_resample(x, kept.to(x.dtype), resample_filter, up, 1, padding, flip_weight)
    else:
        y = modulated_conv2d(x, kept, styles, None, up, 1, padding, resample_filter, demodulate, flip_weight)
    return scattered(y, out_channels, weight.shape[0]) if scatter else y
