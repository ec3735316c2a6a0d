"""Convolution over chosen channels in Triton: the implicit GEMM reads the full weight in place through the indices.

Forward only; for autograd see :mod:`cagc_kernels.ops.sparse_channel_conv2d`. A weight in channels_last memory is read
fastest: the inputs of a tap are then adjacent, and indices in aligned blocks of 8 allow 16-byte loads. Fused are k = 1,
3 and 5 without up-sampling, and 3 x 3 with up-sampling by 2 at padding 2; otherwise the zeros are first written into x.
"""

from __future__ import annotations

import torch
from torch.utils.weak import WeakIdKeyDictionary

from .. import layout
from ..arguments import Epilogue, Resampling
from ..convolution import sparse_output
from .gemm.configs import PLAIN, TRANSPOSED, Config, Problem
from .gemm.launch import device_name, factors, gemm, kind, milliseconds
from .gemm.packing import PackedWeight, energies
from .gemm.winners import choose
from .upfirdn2d import upfirdn2d

# Caches per index tensor: (version, blocks or None).
_blocks = WeakIdKeyDictionary()


def aligned_blocks(index: torch.Tensor) -> torch.Tensor | None:
    """Return the numbers [I' / 8] of the aligned blocks of 8 channels that form ``index``; None if it has others.

    Cached until ``index`` changes; on a GPU the first call synchronises.
    """
    version = None if index.is_inference() else index._version
    known = _blocks.get(index)
    if known is not None and version is not None and known[0] == version:
        return known[1]
    found = None
    if index.numel() % 8 == 0:
        rows = index.detach().cpu().reshape(-1, 8)
        if bool((rows[:, :1] % 8 == 0).all() and (rows == rows[:, :1] + torch.arange(8)).all()):
            found = index[::8] // 8
    _blocks[index] = version, found
    return found


def composed_because(weight: torch.Tensor) -> str | None:
    """Return why the kernel cannot use a weight [O, I, k, k], or None if it can."""
    return None if weight.shape[-1] in (1, 3, 5) else f"a {weight.shape[-1]} x {weight.shape[-1]} kernel"


def sparse_channel_conv2d(
    x, weight, in_channels, out_channels, styles=None, demodulate=True, padding=None, flip_weight=True, scatter=False,
    up=1,
) -> torch.Tensor:  # fmt: skip
    """Correlate x, with up - 1 zeros between its pixels and ``padding`` (k // 2) around, with the chosen block.

    See :func:`cagc_kernels.sparse_channel_conv2d`; forward only, on checked arguments.
    """
    k = weight.shape[-1]
    padding = k // 2 if padding is None else padding
    if up > 1 and (up, k, padding) != (2, 3, 2):
        x = _zeros_between(x, up, padding)
        up, padding = 1, 0
    channels, height, width = sparse_output(x, weight, out_channels, padding, up, scatter)
    y = layout.allocate_images(x, height, width, channels=channels)
    y = y.zero_() if scatter else y
    packed = _in_place(weight, in_channels, out_channels, styles is not None and demodulate, flip_weight, up)
    dtype, arch = kind(x)
    grid = (height, width) if up == 1 else x.shape[2:]
    problem = Problem(dtype, x.shape[0], *grid, *packed.channels, k, (packed.mode,), True, arch)
    normalise = styles is not None and x.dtype == torch.float16
    s, scale = (None, None) if styles is None else factors(styles, packed.energy, None, packed.channels[1], normalise)
    blocks = aligned_blocks(in_channels)

    def run(config: Config) -> torch.Tensor:
        margin = (padding, padding) if up == 1 else (0, 0)
        index = in_channels if blocks is None else blocks
        gemm(x, packed, y, s, scale, Epilogue(), config, margin, index, out_channels, blocks is not None, scatter)
        return y

    return run(choose(problem, device_name(x.device), lambda config: milliseconds(lambda: run(config)), run))


def _in_place(weight, in_channels, out_channels, demodulate, flip_weight, up) -> PackedWeight:
    """Return the full weight as strides; a mirrored one starts at its last tap with negative strides."""
    k = weight.shape[-1]
    if weight.stride(2) != k * weight.stride(3):
        weight = weight.contiguous()
    energy = energies(weight, in_channels, out_channels) if demodulate else None
    mode = PLAIN if up == 1 else TRANSPOSED
    o, i, _, tap = weight.stride()
    first = weight
    if flip_weight != (mode == PLAIN):
        first, tap = weight[:, :, k - 1 :, k - 1 :], -tap
    return PackedWeight(first, (0, o, tap, i), (in_channels.shape[0], out_channels.shape[0]), k, mode, energy, None)


def _zeros_between(x: torch.Tensor, up: int, padding: int) -> torch.Tensor:
    """Return x with up - 1 zeros between its pixels, none after the last, and ``padding`` zeros around the image."""
    height, width = ((size - 1) * up + 1 + 2 * padding for size in x.shape[2:])
    margins = padding, width - x.shape[3] * up - padding, padding, height - x.shape[2] * up - padding
    return upfirdn2d(x, Resampling(None, (up, up), padding=margins))
