"""sparse_channel_conv2d by the compiled kernels, CPU and CUDA. No autograd here: see its module in ``ops``."""

from __future__ import annotations

import torch

from .. import layout
from . import _C
from .bias_act import DTYPES, _pointer


def sparse_channel_conv2d(
    x, weight, in_channels, out_channels, styles=None, demodulate=True, padding=None, flip_weight=True, scatter=False,
    up=1,
) -> torch.Tensor:  # fmt: skip
    """[N, O' or with ``scatter`` O, H', W'] in the memory order of ``x``: a correlation without any FIR filter."""
    n, c_in, in_h, in_w = x.shape
    k = weight.shape[-1]
    padding = k // 2 if padding is None else padding
    out_h, out_w = ((size - 1) * up + 2 * padding + 2 - k for size in (in_h, in_w))
    c_out = out_channels.shape[0]
    out = layout.allocate_images(x, out_h, out_w, channels=weight.shape[0] if scatter else c_out)
    if scatter:
        out.zero_()
    if out.numel() == 0:
        return out
    if styles is not None:
        styles = styles.to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()
    demodulate = demodulate and styles is not None
    factors = styles.new_empty(n, c_out) if demodulate else None
    in_channels, out_channels = in_channels.contiguous(), out_channels.contiguous()
    arguments = (
        x.data_ptr(), weight.data_ptr(), in_channels.data_ptr(), out_channels.data_ptr(),
        _pointer(styles), _pointer(factors), out.data_ptr(), n, c_in, c_out, in_h, in_w, out_h, out_w, k,
        padding, up, *x.stride(), *weight.stride(), *out.stride(), flip_weight, demodulate,
        scatter, DTYPES[x.dtype], DTYPES[weight.dtype],
    )  # fmt: skip
    if x.is_cuda:
        with torch.cuda.device(x.device):
            _C.sparse_channel_conv2d_cuda(*arguments, torch.cuda.current_stream().cuda_stream)
    else:
        _C.sparse_channel_conv2d_cpu(*arguments, torch.get_num_threads())
    return out
