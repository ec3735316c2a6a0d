"""Modulated convolution in plain PyTorch, with the modulation on activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from .bias_act import bias_act
from .upfirdn2d import parse_factors, parse_padding, upfirdn2d

DEMODULATION_EPS = 1e-8
HALF = (torch.float16, torch.bfloat16)


def demodulation(weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """``d[n, o] = rsqrt(sum_i styles[n, i]^2 * sum_k weight[o, i, k]^2 + 1e-8)``, shape [N, O].

    Half precision is squared and summed in float32, and rounded once.
    """
    dtype = torch.float32 if weight.dtype in HALF else weight.dtype
    energy = weight.to(dtype).square().sum(dim=(2, 3))
    return (styles.to(dtype).square() @ energy.t() + DEMODULATION_EPS).rsqrt().to(weight.dtype)


def normalise(weight: torch.Tensor, styles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale each filter and each sample's styles to a largest value of 1 (filters: over the root of the fan-in).

    Demodulation takes both scales out again, so the result stays; the sums of a float16 convolution stay finite.
    """
    tiny = torch.finfo(weight.dtype).tiny
    peak = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(tiny)
    weight = weight / peak / weight[0].numel() ** 0.5
    return weight, styles / styles.abs().amax(dim=1, keepdim=True).clamp_min(tiny)


def _conv2d(x: torch.Tensor, weight: torch.Tensor, flip_weight: bool, **options) -> torch.Tensor:
    return F.conv2d(x, weight if flip_weight else weight.flip(2, 3), **options)


def conv2d_resample(
    x: torch.Tensor,
    weight: torch.Tensor,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    flip_weight: bool = True,
    resample: Callable[..., torch.Tensor] = upfirdn2d,
) -> torch.Tensor:
    """Convolution [O, I, kh, kw] joined with up- or down-sampling by the FIR ``f``.

    ``padding`` is that of the convolution at the up-sampled resolution; the support of ``f`` is added to it.
    ``resample`` is the upfirdn2d that runs.
    """
    kh, kw = weight.shape[2:]
    x0, x1, y0, y1 = parse_padding(padding)
    fw, fh = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    up_x, up_y = parse_factors(up)
    down_x, down_y = parse_factors(down)
    x0, x1 = x0 + (fw + up_x - 1) // 2 * (up_x > 1), x1 + (fw - up_x) // 2 * (up_x > 1)
    y0, y1 = y0 + (fh + up_y - 1) // 2 * (up_y > 1), y1 + (fh - up_y) // 2 * (up_y > 1)
    x0, x1 = x0 + (fw - down_x + 1) // 2 * (down_x > 1), x1 + (fw - down_x) // 2 * (down_x > 1)
    y0, y1 = y0 + (fh - down_y + 1) // 2 * (down_y > 1), y1 + (fh - down_y) // 2 * (down_y > 1)

    if up == 1 and down == 1 and x0 == x1 >= 0 and y0 == y1 >= 0:
        return _conv2d(x, weight, flip_weight, padding=(y0, x0))
    if up == 1 and down > 1:
        x = resample(x, f, padding=[x0, x1, y0, y1])
        return _conv2d(x, weight, flip_weight, stride=down)
    if up > 1 and min(x0 - kw + 1, x1 - kw + up, y0 - kh + 1, y1 - kh + up) >= 0:
        # Zeros are never multiplied: the transposed convolution runs at the input's resolution.
        transposed = weight.transpose(0, 1)
        x = F.conv_transpose2d(x, transposed.flip(2, 3) if flip_weight else transposed, stride=up)
        padding = [x0 - kw + 1, x1 - kw + up, y0 - kh + 1, y1 - kh + up]
        return resample(x, f, down=down, padding=padding, gain=up**2)
    x = resample(x, f if up > 1 else None, up=up, padding=[x0, x1, y0, y1], gain=up**2)
    x = _conv2d(x, weight, flip_weight)
    return resample(x, f, down=down) if down > 1 else x


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
    resample: Callable[..., torch.Tensor] = upfirdn2d,
) -> torch.Tensor:
    """``d[n, o] * conv(x * styles[n], weight)[o] + noise``; see :func:`cagc_kernels.modulated_conv2d`."""
    if demodulate and x.dtype == torch.float16:
        weight, styles = normalise(weight, styles)
    d = demodulation(weight, styles) if demodulate else None
    x = x * styles[:, :, None, None]
    x = conv2d_resample(x, weight, resample_filter, up, down, padding, flip_weight, resample)
    if d is not None:
        x = x * d[:, :, None, None]
    if noise is not None:
        x = x + noise
    return x


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
) -> torch.Tensor:
    """One generator layer; see :func:`cagc_kernels.styled_conv2d`."""
    padding = weight.shape[-1] // 2
    x = modulated_conv2d(
        x, weight, styles, noise, up, 1, padding, resample_filter, demodulate, flip_weight=up == 1
    )  # fmt: skip
    x = bias_act(x, bias, 1, act, alpha, gain, clamp)
    return x if next_styles is None else x * next_styles[:, :, None, None]
