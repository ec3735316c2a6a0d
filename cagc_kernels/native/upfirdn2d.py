"""upfirdn2d by the compiled kernels, CPU and CUDA. No autograd here: see :mod:`cagc_kernels.ops.upfirdn2d`."""

from __future__ import annotations

import torch

from .. import layout
from ..arguments import Resampling
from . import _C, direct, launch, wide_operand
from .bias_act import DTYPES

_direct = direct("upfirdn2d")


def at_once(x, f, up, down, padding, flip_filter, gain) -> torch.Tensor | None:
    """Return :func:`cagc_kernels.upfirdn2d` of the usual arguments by one call of the compiled module, else None."""
    return _direct(
        x=x, f=f, up=up, down=down, padding=padding, flip_filter=flip_filter, gain=gain,
        graph=torch.is_grad_enabled(), allocate=layout.allocate_images, threads=torch.get_num_threads(),
    )  # fmt: skip


def upfirdn2d(x: torch.Tensor, resampling: Resampling) -> torch.Tensor:
    """Resample ``x`` [N, C, H, W] to [N, C, H', W'] in its memory order; see :func:`cagc_kernels.upfirdn2d`."""
    out = at_once(x, *resampling)
    if out is not None:
        return out
    x = layout.images(x)
    height, width = resampling.output_size(x)
    out = layout.allocate_images(x, height, width)
    if out.numel() == 0:
        return out
    f, (up_x, up_y), (down_x, down_y), (pad_x, _, pad_y, _), flip, gain = resampling
    f_h, f_w = resampling.filter_size
    f = wide_operand(f, x)
    n, c, in_h, in_w = x.shape
    stride_n, stride_c, stride_h, _ = x.stride()
    inner = 1
    if layout.is_channels_last(x):
        c, inner, stride_c = 1, c, 0
    launch("upfirdn2d", x, _C.Upfirdn2d(
        x=x, f=f, out=out, n=n, c=c, inner=inner, in_h=in_h, in_w=in_w, out_h=height, out_w=width, stride_n=stride_n,
        stride_c=stride_c, stride_h=stride_h, up_x=up_x, up_y=up_y, down_x=down_x, down_y=down_y, pad_x=pad_x,
        pad_y=pad_y, f_h=f_h, f_w=f_w, separable=f is not None and f.ndim == 1, flip=flip, gain=gain,
        dtype=DTYPES[x.dtype],
    ))  # fmt: skip
    return out
