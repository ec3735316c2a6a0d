"""Modulated convolution in plain PyTorch, with the modulation on activations."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..arguments import HALF, Epilogue, Resampling, activation
from ..convolution import conv2d_resample, operands
from .bias_act import bias_act
from .upfirdn2d import parse_factors, parse_padding, upfirdn2d


def resample(x: torch.Tensor, resampling: Resampling) -> torch.Tensor:
    """Run the reference's upfirdn2d on a :class:`Resampling`."""
    return upfirdn2d(x, *resampling)


def layer(
    x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, demodulate: bool, modulate: bool, flip_weight: bool,
    resampling: Resampling, epilogue: Epilogue,
) -> torch.Tensor:  # fmt: skip
    """Return a modulated convolution with its epilogue, on checked arguments of the public ops.

    In half precision, the steps after the convolution are computed in float32 and rounded once.
    """
    dtype = x.dtype
    noise, bias, next_styles, act, alpha, gain, clamp = epilogue
    weight, styles, d = operands(weight, styles, dtype, demodulate, modulate)
    x = x * styles[:, :, None, None] if modulate else x
    y = conv2d_resample(x, weight, resampling, flip_weight, resample)
    y = y.float() if dtype in HALF else y
    y = y if d is None else y * d[:, :, None, None]
    y = y if noise is None else y + noise
    y = bias_act(y, bias, 1, act, alpha, gain, None if clamp < 0 else clamp)
    return (y if next_styles is None else y * next_styles[:, :, None, None]).to(dtype)


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
) -> torch.Tensor:
    """Return ``d[n, o] * conv(x * styles[n], weight)[o] + noise``; see :func:`cagc_kernels.modulated_conv2d`."""
    resampling = Resampling(resample_filter, parse_factors(up), parse_factors(down), parse_padding(padding))
    return layer(x, weight, styles, demodulate, True, flip_weight, resampling, Epilogue(noise))


def styled_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    bias: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    act: str = "lrelu",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    next_styles: torch.Tensor | None = None,
    modulate: bool = True,
) -> torch.Tensor:
    """Return the output of a generator layer; see :func:`cagc_kernels.styled_conv2d`."""
    resampling = Resampling(resample_filter, (up, up), padding=(weight.shape[-1] // 2,) * 4)
    epilogue = Epilogue(noise, bias, next_styles, *activation(act, alpha, gain, clamp))
    return layer(x, weight, styles, demodulate, modulate, up == 1, resampling, epilogue)
