"""Modulated convolution by the compiled kernels: PyTorch's convolution, then one kernel for the epilogue."""

from __future__ import annotations

import torch

from ..arguments import Epilogue, Resampling
from ..convolution import transposed_margins
from ..reference.bias_act import PIECEWISE_LINEAR

# No single kernel computes the whole layer: the convolution is PyTorch's.
layer = None


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
