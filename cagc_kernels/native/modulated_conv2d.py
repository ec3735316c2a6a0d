"""Modulated convolution by the compiled kernels: a convolution, then one kernel for the epilogue.

The convolution is PyTorch's or, where the weight stays as it is, :class:`~.planar_conv.PlanarConv`.
"""

from __future__ import annotations

import torch

from ..arguments import Epilogue, Resampling
from ..convolution import transposed_margins
from ..reference.bias_act import PIECEWISE_LINEAR
from . import packed_weights

# No single kernel computes the whole layer.
layer = None

# From as many tiles of 4 x 4 pixels and as many products of an input and an output channel on, a packed convolution is
# faster than PyTorch's: below, reading 36 matrices instead of 9 taps takes longer than their products save.
FEWEST_TILES, FEWEST_PRODUCTS = 4, 256


def composed_because(x: torch.Tensor, weight: torch.Tensor, resampling: Resampling, epilogue: Epilogue) -> str | None:
    """Return why a layer needs more than PyTorch's convolution and one kernel; None if it does not."""
    (up_x, up_y), (down_x, down_y) = resampling.up, resampling.down
    if (down_x, down_y) != (1, 1) or up_x != up_y or up_x > 2:
        return f"up={up_x}, down={down_x}"
    if up_x == 2 and transposed_margins(weight, resampling) is None:
        if resampling.filter_size != (4, 4):
            return "a filter that is not of 4 taps"
        kh, kw = weight.shape[2:]
        return f"padding {list(resampling.padding)} crops the transposed convolution of a {kh} x {kw} kernel"
    if epilogue.noise is not None and epilogue.noise.ndim == 4 and epilogue.noise.shape[1] != 1:
        return "noise per channel"
    return None if epilogue.act in PIECEWISE_LINEAR else f"{epilogue.act} is not fused"


def packed(
    x: torch.Tensor, weight: torch.Tensor, resampling: Resampling, flip_weight: bool
) -> packed_weights.Pack | None:
    """Return the pack of a 3x3 weight by which plain CPU tensors are convolved faster than by PyTorch; None without.

    It is made at a later call with the same unchanged weight: see :mod:`.packed_weights`.
    """
    if (x.dtype, weight.dtype) != (torch.float32, torch.float32):
        return None
    if weight.shape[0] * weight.shape[1] < FEWEST_PRODUCTS or not weight.is_contiguous():
        return None
    n, _, height, width = x.shape
    if (
        resampling.up == (1, 1)
        and resampling.down == (1, 1)
        and min(resampling.padding) == max(resampling.padding) >= 0
    ):
        up, height, width = 1, height + 2 * resampling.padding[0] - 2, width + 2 * resampling.padding[0] - 2
    elif transposed_margins(weight, resampling) is not None:
        up, height, width = 2, height + 1, width + 1
    else:
        return None
    if n * -(-height // 4) * -(-width // 4) < FEWEST_TILES:
        return None
    return packed_weights.find(weight, up, flip_weight == (up == 2))
