"""sparse_channel_conv2d by the compiled kernels, CPU and CUDA. No autograd here: see its module in ``ops``."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import layout
from . import _C
from .bias_act import DTYPES, _pointer


def _accumulate_dtype(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def sparse_channel_conv2d(
    x, weight, in_channels, out_channels, styles=None, demodulate=True, padding=None, flip_weight=True, scatter=False,
    up=1,
) -> torch.Tensor:  # fmt: skip
    """[N, O' or with ``scatter`` O, H', W'] in the memory order of ``x``: a correlation without any FIR filter."""
    padding = weight.shape[-1] // 2 if padding is None else padding
    if styles is not None:
        styles = styles.to(_accumulate_dtype(x)).contiguous()
    tensors = x, weight, in_channels.contiguous(), out_channels.contiguous(), styles
    return _prepared(*tensors, demodulate and styles is not None, padding, flip_weight, scatter, up)(*tensors)


def launcher(
    x, weight, in_channels, out_channels, styles, demodulate, padding, flip_weight, scatter
) -> Callable | None:
    """:func:`sparse_channel_conv2d` of CPU tensors that are like these in all but their elements; None if a copy of
    one would be needed."""
    if not (in_channels.is_contiguous() and out_channels.is_contiguous()):
        return None
    if styles is not None and not (styles.is_contiguous() and styles.dtype == _accumulate_dtype(x)):
        return None
    return _prepared(x, weight, in_channels, out_channels, styles, demodulate, padding, flip_weight, scatter, 1)


def _prepared(x, weight, in_channels, out_channels, styles, demodulate, padding, flip_weight, scatter, up) -> Callable:
    """All that does not depend on where the tensors are."""
    n, c_in, in_h, in_w = x.shape
    k, c_out = weight.shape[-1], out_channels.shape[0]
    out_h, out_w = ((size - 1) * up + 2 * padding + 2 - k for size in (in_h, in_w))
    channels = weight.shape[0] if scatter else c_out
    sizes = n, c_in, c_out, in_h, in_w, out_h, out_w, k, padding, up, *x.stride(), *weight.stride()
    options = flip_weight, demodulate, scatter, DTYPES[x.dtype], DTYPES[weight.dtype]

    def launch(x, weight, in_channels, out_channels, styles):
        out = layout.allocate_images(x, out_h, out_w, channels=channels)
        if scatter:
            out.zero_()
        if out.numel() == 0:
            return out
        factors = styles.new_empty(n, c_out) if demodulate else None
        tensors = map(_pointer, (x, weight, in_channels, out_channels, styles, factors, out))
        if x.is_cuda:
            with torch.cuda.device(x.device):
                stream = torch.cuda.current_stream().cuda_stream
                _C.sparse_channel_conv2d_cuda(*tensors, *sizes, *out.stride(), *options, stream)
        else:
            _C.sparse_channel_conv2d_cpu(*tensors, *sizes, *out.stride(), *options, torch.get_num_threads())
        return out

    return launch
