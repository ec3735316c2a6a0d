"""Modulated convolution in plain PyTorch, with the modulation on activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from .bias_act import bias_act
from .upfirdn2d import parse_factors, parse_padding, upfirdn2d

DEMODULATION_EPS = 1e-8
HALF = (torch.float16, torch.bfloat16)


def operands(
    weight: torch.Tensor, styles: torch.Tensor, dtype: torch.dtype, demodulate: bool, modulate: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What a convolution of activations of ``dtype`` takes: weight, styles, and the factor [N, O] of its result.

    With ``demodulate`` the factor is ``d[n, o] = rsqrt(sum_i styles[n, i]^2 * sum_k weight[o, i, k]^2 + 1e-8)``, and
    None without. For half precision all of it is computed in float32, and the factor stays there. For float16 each
    filter is divided by its largest value and the root of its fan-in, each sample's styles by their largest value
    (without ``modulate``, where the activations carry them, they stay), so that no sum overflows; the factor gives
    both scales back. They count as constants: the result does not depend on them, nor do its derivatives.
    """
    if dtype in HALF:
        weight, styles = weight.float(), styles.float()
    scale, eps = None, DEMODULATION_EPS
    if dtype == torch.float16 and weight.shape[1]:
        tiny = torch.finfo(weight.dtype).tiny
        peak = weight.detach().abs().amax(dim=(1, 2, 3)).clamp_min(tiny) * weight[0].numel() ** 0.5
        largest = styles.detach().abs().amax(dim=1).clamp_min(tiny) if modulate else torch.ones_like(styles[:, 0])
        weight, styles = weight / peak[:, None, None, None], styles / largest[:, None]
        scale = largest[:, None] * peak
        eps = eps / scale.square()
    d = scale
    if demodulate:
        d = (styles.square() @ weight.square().sum(dim=(2, 3)).t() + eps).rsqrt()
    return weight.to(dtype), styles.to(dtype), d


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


def convolve(x, weight, styles, noise, demodulate: bool, modulate: bool, *conv) -> torch.Tensor:
    """Modulated convolution and noise, not yet rounded to half precision; ``conv``: see :func:`conv2d_resample`."""
    weight, styles, d = operands(weight, styles, x.dtype, demodulate, modulate)
    y = conv2d_resample(x * styles[:, :, None, None] if modulate else x, weight, *conv)
    y = y.float() if y.dtype in HALF else y
    y = y if d is None else y * d[:, :, None, None]
    return y if noise is None else y + noise


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
    """``d[n, o] * conv(x * styles[n], weight)[o] + noise``; see :func:`cagc_kernels.modulated_conv2d`."""
    y = convolve(x, weight, styles, noise, demodulate, True, resample_filter, up, down, padding, flip_weight)
    return y.to(x.dtype)


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
    """One generator layer; see :func:`cagc_kernels.styled_conv2d`."""
    padding = weight.shape[-1] // 2
    y = convolve(x, weight, styles, noise, demodulate, modulate, resample_filter, up, 1, padding, up == 1)
    y = bias_act(y, bias, 1, act, alpha, gain, clamp)
    return (y if next_styles is None else y * next_styles[:, :, None, None]).to(x.dtype)
