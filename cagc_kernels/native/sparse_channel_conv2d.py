"""sparse_channel_conv2d by the compiled kernels, CPU and CUDA. No autograd here; see ``cagc_kernels/ops``."""

from __future__ import annotations

import torch

from .. import layout
from ..convolution import sparse_output
from . import _C, direct, launch, wide_operand
from .bias_act import DTYPES

_direct = direct("sparse_channel_conv2d")


def composed_because(weight: torch.Tensor) -> str | None:
    """Return None: unlike Triton's, this kernel takes every weight [O, I, k, k]."""
    return None


def at_once(x, weight, in_channels, out_channels, styles, demodulate, padding, flip_weight) -> torch.Tensor | None:
    """Return the op on the usual arguments by one call of the compiled module, else None.

    Without ``scatter`` and up-sampling; the values of the index tensors are checked.
    """
    return _direct(
        x=x, weight=weight, in_channels=in_channels, out_channels=out_channels, styles=styles, demodulate=demodulate,
        padding=padding, flip_weight=flip_weight, graph=torch.is_grad_enabled(), allocate=layout.allocate_images,
        threads=torch.get_num_threads(),
    )  # fmt: skip


def sparse_channel_conv2d(
    x, weight, in_channels, out_channels, styles=None, demodulate=True, padding=None, flip_weight=True, scatter=False,
    up=1,
) -> torch.Tensor:  # fmt: skip
    """Return [N, O', H', W'] (with ``scatter`` [N, O, H', W']) in the memory order of ``x``, without any FIR filter."""
    padding = weight.shape[-1] // 2 if padding is None else padding
    n, c_in, in_h, in_w = x.shape
    k, c_out = weight.shape[-1], out_channels.shape[0]
    channels, out_h, out_w = sparse_output(x, weight, out_channels, padding, up, scatter)
    out = layout.allocate_images(x, out_h, out_w, channels=channels)
    if scatter:
        out.zero_()
    if out.numel() == 0:
        return out
    demodulate = demodulate and styles is not None
    styles = wide_operand(styles, x)
    factors = styles.new_empty(n, c_out) if demodulate else None
    in_channels, out_channels = in_channels.contiguous(), out_channels.contiguous()
    launch("sparse_channel_conv2d", x, _C.SparseChannelConv2d(
        x=x, weight=weight, in_channels=in_channels, out_channels=out_channels, styles=styles, factors=factors, out=out,
        n=n, c_in=c_in, c_out=c_out, in_h=in_h, in_w=in_w, out_h=out_h, out_w=out_w, k=k, pad=padding, up=up,
        x_stride=x.stride(), weight_stride=weight.stride(), out_stride=out.stride(), flip=flip_weight,
        demodulate=demodulate, scatter=scatter, dtype=DTYPES[x.dtype], weight_dtype=DTYPES[weight.dtype],
    ))  # fmt: skip
    return out
