"""upfirdn2d by the compiled kernels, CPU and CUDA. No autograd here: see :mod:`cagc_kernels.ops.upfirdn2d`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import layout
from . import _C
from .bias_act import DTYPES


def taps(f: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """``f`` in the type that kernels for ``x`` compute in, dense."""
    if f is None:
        return None
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (f if f.dtype == wide else f.to(wide)).contiguous()


def _geometry(x, f, up, down, padding, flip, gain, height, width) -> tuple:
    """The arguments of the kernel after its pointers; ``x`` as of :func:`layout.images`."""
    n, c, in_h, in_w = x.shape
    stride_n, stride_c, stride_h, _ = x.stride()
    inner = 1
    if layout.is_channels_last(x):
        c, inner, stride_c = 1, c, 0
    f_h, f_w = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    return (
        n, c, inner, in_h, in_w, height, width, stride_n, stride_c, stride_h, *up, *down, *padding, f_h, f_w,
        f is not None and f.ndim == 1, flip, gain, DTYPES[x.dtype],
    )  # fmt: skip


def launcher(x, f, up, down, padding, flip, gain, height, width) -> Callable | None:
    """:func:`upfirdn2d` of CPU tensors that are like these in all but their elements; None if one would be copied."""
    if layout.images(x) is not x or taps(f, x) is not f or x.shape[0] * x.shape[1] * height * width == 0:
        return None
    geometry = _geometry(x, f, up, down, padding, flip, gain, height, width)

    def launch(x, f):
        out = layout.allocate_images(x, height, width)
        taps = 0 if f is None else f.data_ptr()
        _C.upfirdn2d_cpu(x.data_ptr(), taps, out.data_ptr(), *geometry, torch.get_num_threads())
        return out

    return launch


def upfirdn2d(x, f, up, down, padding, flip, gain, height, width) -> torch.Tensor:
    """[N, C, height, width] in the memory order of ``x``; ``up``, ``down`` are (x, y), ``padding`` (x0, y0)."""
    x = layout.images(x)
    out = layout.allocate_images(x, height, width)
    if out.numel() == 0:
        return out
    f = taps(f, x)
    pointers = x.data_ptr(), 0 if f is None else f.data_ptr(), out.data_ptr()
    geometry = _geometry(x, f, up, down, padding, flip, gain, height, width)
    if x.is_cuda:
        with torch.cuda.device(x.device):
            _C.upfirdn2d_cuda(*pointers, *geometry, torch.cuda.current_stream().cuda_stream)
    else:
        _C.upfirdn2d_cpu(*pointers, *geometry, torch.get_num_threads())
    return out
