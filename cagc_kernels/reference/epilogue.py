"""The epilogue of a modulated convolution (all steps after the dense convolution) in plain PyTorch."""

from __future__ import annotations

import torch

from ..arguments import Epilogue
from .bias_act import bias_act
from .upfirdn2d import upfirdn2d


def epilogue(
    x: torch.Tensor, f: torch.Tensor | None, scale: torch.Tensor | None, epilogue: Epilogue, padding: tuple[int, int],
    size: tuple[int, int],
) -> torch.Tensor:  # fmt: skip
    """Return ``clamp(gain * act(u * scale + noise + bias)) * next_styles``, where u is x or x correlated with ``f``.

    Shapes as in :func:`cagc_kernels.native.epilogue.epilogue`.
    """
    if f is not None:
        (before_x, before_y), (height, width) = padding, size
        after_x, after_y = width + 3 - x.shape[3] - before_x, height + 3 - x.shape[2] - before_y
        x = upfirdn2d(x, f, padding=(before_x, after_x, before_y, after_y), flip_filter=True)
    noise, bias, next_styles, act, alpha, gain, clamp = epilogue
    x = x if scale is None else x * scale[:, :, None, None]
    x = x if noise is None else x + noise
    y = bias_act(x, bias, 1, act, alpha, gain, None if clamp < 0 else clamp)
    return y if next_styles is None else y * next_styles[:, :, None, None]
