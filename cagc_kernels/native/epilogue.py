"""The epilogue of a modulated convolution (all steps after the dense convolution) by the compiled kernels.

The convolution itself is PyTorch's. No autograd here: see :mod:`cagc_kernels.ops.epilogue`.
"""

from __future__ import annotations

import torch

from .. import layout
from ..arguments import Epilogue, accumulator
from . import _C, launch
from .bias_act import ACTS, DTYPES

# Values of a sample per partial sum of the gradients; independent of the number of threads, for reproducible results.
_CHUNK = {"cpu": 65536, "cuda": 16384}


def epilogue(
    x: torch.Tensor, f: torch.Tensor | None, scale: torch.Tensor | None, epilogue: Epilogue, padding: tuple[int, int],
    size: tuple[int, int], inplace: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Return ``clamp(gain * act(u * scale + noise + bias)) * next_styles``, where u is x or x correlated with ``f``.

    ``f`` [4, 4], ``scale`` [N, C] and the tensors of ``epilogue`` are float32 (float64 beside float64) or None, noise
    is [N or 1, 1, H', W']; the activation is linear, relu or lrelu. ``padding`` is (x, y) before the first pixel,
    ``size`` (H', W'). The result has the layout of ``x``, contiguous or channels_last. ``inplace`` overwrites
    ``x``, unless ``f`` is given.
    """
    x, last = layout.packed(x)
    out = x if inplace and f is None else layout.allocate_images(x, *size)
    _launch(x, None, f, scale, epilogue, out, None, None, last, padding, 1)
    return out


def epilogue_gradient(
    g: torch.Tensor, x: torch.Tensor, scale: torch.Tensor | None, epilogue: Epilogue
) -> tuple[torch.Tensor, ...]:
    """Return gradients of the epilogue without ``f``.

    They are those of x, scale [N, C], noise [N, 1, H, W], bias [C] and next_styles [N, C]."""
    x, last = layout.packed(x)
    g = layout.dense_like(g, x)
    n, c, height, width = x.shape
    wide = accumulator(x.dtype)
    chunk = max(1, _CHUNK[x.device.type] // max(1, c))
    sums = x.new_zeros(3, n, -(-height * width // chunk), c, dtype=wide)
    dnoise = x.new_zeros(n, 1, height, width, dtype=wide)
    out = layout.allocate_images(x, height, width)
    _launch(x, g, None, scale, epilogue, out, sums, dnoise, last, (0, 0), chunk)
    return out, sums[0].sum(1), dnoise, sums[1].sum((0, 1)), sums[2].sum(1)


def _launch(x, g, f, scale, epilogue, out, sums, dnoise, last, padding, chunk) -> None:
    if out.numel() == 0:
        return
    noise, bias, next_styles, act, alpha, gain, clamp = epilogue
    f, scale, noise, bias, next_styles = (
        None if t is None else t.contiguous() for t in (f, scale, noise, bias, next_styles)
    )
    (n, c, height, width), (_, _, in_h, in_w) = out.shape, x.shape
    launch("epilogue", x, _C.Epilogue(
        x=x, g=g, f=f, d=scale, noise=noise, b=bias, s=next_styles, out=out, sums=sums, dnoise=dnoise, n=n, c=c,
        in_h=in_h, in_w=in_w, out_h=height, out_w=width, pad_x=padding[0], pad_y=padding[1],
        noise_step=0 if noise is None or noise.shape[0] == 1 else height * width, chunk=chunk, channels_last=last,
        alpha=alpha, gain=gain, clamp=clamp, act=ACTS[act], dtype=DTYPES[x.dtype],
    ))  # fmt: skip
