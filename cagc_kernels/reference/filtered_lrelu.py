"""Up-sampling by a FIR filter, leaky ReLU, down-sampling by a FIR filter, in plain PyTorch (StyleGAN3, section 3.1)."""

from __future__ import annotations

import torch

from ..arguments import Filtering
from .bias_act import bias_act
from .upfirdn2d import upfirdn2d


def filtered_lrelu(x: torch.Tensor, b: torch.Tensor | None, filtering: Filtering) -> torch.Tensor:
    """Return the op on ``x`` [N, C, H, W]; see :func:`cagc_kernels.filtered_lrelu`."""
    clamp = None if filtering.clamp < 0 else filtering.clamp
    x = upfirdn2d(bias_act(x, b), *filtering.upsampling)
    x = bias_act(x, None, 1, "lrelu", filtering.slope, filtering.gain, clamp)
    return upfirdn2d(x, *filtering.downsampling)
