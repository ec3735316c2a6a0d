"""The convolution of an eager call whose weight is packed, with the derivatives of PyTorch's convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .. import layout
from ..backend import packing
from .dispatch import is_plain, kernels

if TYPE_CHECKING:
    from ..arguments import Resampling
    from ..native.packed_weights import Pack


# From this many pixels on, oneDNN convolves faster in channels_last, forward and backward.
CHANNELS_LAST_PIXELS = 256


def arrange(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` in the memory format that PyTorch convolves fastest on the CPU; on a GPU it stays as it is."""
    if not x.is_cpu:
        return x
    last = x.shape[2] * x.shape[3] >= CHANNELS_LAST_PIXELS
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def find(
    x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, flip_weight: bool, resampling: Resampling, backend: str
) -> Pack | None:
    """Return the pack by which ``backend`` convolves these tensors faster than PyTorch; None without one."""
    packed = kernels("modulated_conv2d", backend).packed
    if packed is None or not x.is_cpu or weight.shape[2:] != (3, 3) or not is_plain((x, weight, styles)):
        return None
    if not packing() or torch.are_deterministic_algorithms_enabled():
        return None
    return packed(x, weight, resampling, flip_weight)


def convolve(
    x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor | None, scale: torch.Tensor | None, pack: Pack,
    padding: int, mirrored: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Return the convolution of ``x`` times ``styles`` [N, I], and the part of ``scale`` [N, O] that it does not have.

    Where autograd needs nothing, both factors are multiplied within the convolution.
    """
    needed = (t for t in (x, weight, styles, scale) if t is not None)
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in needed)):
        return _run(x, styles, scale, pack, padding), None
    x = x if styles is None else x * styles[:, :, None, None]
    return _Convolution.apply(x, weight, pack, padding, mirrored), scale


def _run(x: torch.Tensor, styles: torch.Tensor | None, scale: torch.Tensor | None, pack: Pack, padding: int):
    last, conv = layout.is_channels_last(x), pack.conv
    x = x.contiguous()
    styles, scale = (None if t is None else t.contiguous() for t in (styles, scale))
    size = conv.output_size(*x.shape[2:], padding)
    y = conv(x, styles, scale, padding, layout.allocate_images(x, *size, channels=conv.out_channels))
    return y.contiguous(memory_format=torch.channels_last) if last else y


class _Convolution(torch.autograd.Function):
    """The packed convolution, and the gradient of the same convolution by PyTorch, of which autograd knows more."""

    @staticmethod
    def forward(ctx, x, weight, pack, padding, mirrored):
        ctx.save_for_backward(x, weight)
        ctx.up, ctx.padding, ctx.mirrored = pack.conv.up, padding, mirrored
        return _run(x, None, None, pack, padding)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        transposed = ctx.up == 2
        w = weight.flip(2, 3) if ctx.mirrored else weight
        w = w.transpose(0, 1) if transposed else w
        stride, padding = [ctx.up] * 2, [0 if transposed else ctx.padding] * 2
        wanted = [*ctx.needs_input_grad[:2], False]
        dx, dw, _ = torch.ops.aten.convolution_backward(
            arrange(g), arrange(x), w, None, stride, padding, [1, 1], transposed, [0, 0], 1, wanted
        )
        if dw is not None:
            dw = dw.transpose(0, 1) if transposed else dw
            dw = dw.flip(2, 3) if ctx.mirrored else dw
        return dx, dw, None, None, None
