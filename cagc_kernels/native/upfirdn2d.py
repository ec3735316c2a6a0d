"""upfirdn2d by the compiled kernels, CPU and CUDA. No autograd here: see :mod:`cagc_kernels.ops.upfirdn2d`."""

from __future__ import annotations

import torch

from .. import layout
from ..arguments import Resampling, accumulator
from . import _C
from .bias_act import DTYPES


def upfirdn2d(x: torch.Tensor, resampling: Resampling) -> torch.Tensor:
    """[N, C, H', W'] in the memory order of ``x``."""
    x = layout.images(x)
    height, width = resampling.output_size(x)
    out = layout.allocate_images(x, height, width)
    if out.numel() == 0:
        return out
    f, up, down, (x0, _, y0, _), flip, gain = resampling
    f = None if f is None else f.to(accumulator(x.dtype)).contiguous()
    n, c, in_h, in_w = x.shape
    stride_n, stride_c, stride_h, _ = x.stride()
    inner = 1
    if layout.is_channels_last(x):
        c, inner, stride_c = 1, c, 0
    arguments = (
        x.data_ptr(), 0 if f is None else f.data_ptr(), out.data_ptr(), n, c, inner, in_h, in_w, height, width,
        stride_n, stride_c, stride_h, *up, *down, x0, y0, *resampling.filter_size, f is not None and f.ndim == 1, flip,
        gain, DTYPES[x.dtype],
    )  # fmt: skip
    if x.is_cuda:
        with torch.cuda.device(x.device):
            _C.upfirdn2d_cuda(*arguments, torch.cuda.current_stream().cuda_stream)
    else:
        _C.upfirdn2d_cpu(*arguments, torch.get_num_threads())
    return out
