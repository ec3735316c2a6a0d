"""filtered_lrelu by the compiled kernels, CPU and CUDA. For autograd see :mod:`cagc_kernels.ops.filtered_lrelu`.

The kernels take and return contiguous planes; images in channels_last are copied before and after.
"""

from __future__ import annotations

import torch

from .. import layout
from ..arguments import Filtering
from . import _C, launch, wide_operand
from .bias_act import DTYPES

# Codes of Route in csrc/include/cagc/filtered_lrelu.h
VALUE, TANGENT, GRADIENT = 0, 1, 2


def _planes(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous() if layout.is_channels_last(x) else layout.images(x)


def _run(
    route: int, lead: torch.Tensor, g, x, b, filtering: Filtering, size: tuple[int, int], out=None
) -> torch.Tensor:
    """Launch the kernel; the result of ``size`` has the memory order of ``lead``, which is ``g`` or ``x``.

    ``out``: contiguous memory for the result of a contiguous ``lead``.
    """
    last = layout.is_channels_last(lead)
    lead = _planes(lead)
    out = layout.allocate_images(lead, *size) if out is None else out
    if out.numel() > 0:
        x, g = _planes(x), None if g is None else g.contiguous()
        fu, fd, b = (wide_operand(t, x) for t in (filtering.up_filter, filtering.down_filter, b))
        (fu_h, fu_w), (fd_h, fd_w) = filtering.upsampling.filter_size, filtering.downsampling.filter_size
        (mid_h, mid_w), (out_h, out_w) = filtering.upsampling.output_size(x), filtering.output_size(x)
        pad_x, _, pad_y, _ = filtering.padding
        n, c, in_h, in_w = x.shape
        stride_n, stride_c, stride_h, _ = x.stride()
        launch("filtered_lrelu", x, _C.FilteredLrelu(
            x=x, b=b, g=g, fu=fu, fd=fd, out=out, n=n, c=c, in_h=in_h, in_w=in_w, mid_h=mid_h, mid_w=mid_w,
            out_h=out_h, out_w=out_w, stride_n=stride_n, stride_c=stride_c, stride_h=stride_h, up=filtering.up,
            down=filtering.down, pad_x=pad_x, pad_y=pad_y, fu_h=fu_h, fu_w=fu_w, fd_h=fd_h, fd_w=fd_w,
            fu_separable=fu is not None and fu.ndim == 1, fd_separable=fd is not None and fd.ndim == 1,
            flip=filtering.flip_filter, gain=filtering.gain, slope=filtering.slope, clamp=filtering.clamp, route=route,
            dtype=DTYPES[x.dtype],
        ))  # fmt: skip
    return out.contiguous(memory_format=torch.channels_last) if last else out


def value(
    x: torch.Tensor, b: torch.Tensor | None, filtering: Filtering, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the op on ``x`` [N, C, H, W]; see :func:`cagc_kernels.filtered_lrelu`.

    ``out``: contiguous [N, C, H', W'] of the dtype of ``x``, which must be contiguous too; filled and returned.
    """
    return _run(VALUE, x, None, x, b, filtering, filtering.output_size(x), out)


def tangent(h: torch.Tensor, x: torch.Tensor, b: torch.Tensor | None, filtering: Filtering) -> torch.Tensor:
    """Return the change of the op's result at ``x`` in the direction ``h`` of the same shape."""
    return _run(TANGENT, h, h, x, b, filtering, filtering.output_size(x))


def gradient(g: torch.Tensor, x: torch.Tensor, b: torch.Tensor | None, filtering: Filtering) -> torch.Tensor:
    """Return the gradient in ``x`` for the gradient ``g`` of the op's result."""
    return _run(GRADIENT, g, g, x, b, filtering, tuple(x.shape[2:]))
