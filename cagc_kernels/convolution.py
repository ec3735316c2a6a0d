"""Modulated convolution by PyTorch's dense convolution: its operands, and the resampling around it.

Shared by the reference and by :mod:`cagc_kernels.ops.composed`; each passes its own upfirdn2d.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from . import layout
from .arguments import HALF, Resampling, cast

DEMODULATION_EPS = 1e-8


def operands(
    weight: torch.Tensor, styles: torch.Tensor, dtype: torch.dtype, demodulate: bool, modulate: bool = True,
    energy: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Return weight and styles [N, I] in ``dtype`` for a modulated convolution, and the factor [N, O] of its result.

    With ``demodulate`` the factor is ``d[n, o] = rsqrt(sum_i styles[n, i]^2 * sum_k weight[o, i, k]^2 + 1e-8)``
    (StyleGAN2, eq. 3), otherwise None. For half precision it is computed and returned in float32. ``energy`` [O, I] is
    the sum over k where it is known.

    For float16, each filter is divided by its largest absolute value and the square root of its fan-in, and each
    sample's styles by their largest absolute value, so that no sum overflows; the factor, then never None, multiplies
    both scales back. Without ``modulate`` the activations already contain the styles, which are not scaled. The scales
    cancel in the result, so autograd treats them as constants.
    """
    if dtype in HALF:
        weight, styles = weight.float(), styles.float()
    scale, eps = None, DEMODULATION_EPS
    if dtype == torch.float16 and weight.shape[1]:
        tiny = torch.finfo(weight.dtype).tiny
        peak = weight.detach().abs().amax(dim=(1, 2, 3)).clamp_min(tiny) * weight.shape[1:].numel() ** 0.5
        largest = styles.detach().abs().amax(dim=1).clamp_min(tiny) if modulate else torch.ones_like(styles[:, 0])
        weight, styles = weight / peak[:, None, None, None], styles / largest[:, None]
        scale = largest[:, None] * peak
        eps = eps / scale.square()
    d = scale
    if demodulate:
        energy = weight.square().sum(dim=(2, 3)) if energy is None else energy
        d = F.linear(styles.square(), energy).add_(eps).rsqrt_()
    return cast(weight, dtype), cast(styles, dtype), d


def conv2d(x: torch.Tensor, weight: torch.Tensor, flip_weight: bool, **options) -> torch.Tensor:
    """Convolve with PyTorch; ``flip_weight=True`` correlates, False mirrors the kernel first."""
    return F.conv2d(x, weight if flip_weight else weight.flip(2, 3), **options)


def conv_transpose2d(x: torch.Tensor, weight: torch.Tensor, flip_weight: bool, stride: tuple[int, int]) -> torch.Tensor:
    """Apply :func:`conv2d` with ``weight`` [O, I, kh, kw] to ``x`` with stride - 1 zeros between its pixels."""
    transposed = weight.transpose(0, 1)
    return F.conv_transpose2d(x, transposed.flip(2, 3) if flip_weight else transposed, stride=stride)


def transposed_margins(weight: torch.Tensor, resampling: Resampling) -> tuple[int, int, int, int] | None:
    """Return the margins (x0, x1, y0, y1) with which the epilogue filters a transposed convolution of stride 2.

    None if the epilogue cannot do this: other resampling factors, a filter of other than 4 x 4 taps, or padding so
    small that outputs of the transposed convolution would be cropped.
    """
    if resampling.up != (2, 2) or resampling.down != (1, 1) or resampling.filter_size != (4, 4):
        return None
    (kh, kw), (x0, x1, y0, y1) = weight.shape[2:], resampling.padding
    margins = x0 + 3 - kw, x1 + 3 - kw, y0 + 3 - kh, y1 + 3 - kh
    return None if min(margins) < 0 else margins


def is_empty(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a convolution has nothing to compute: no samples, channels, pixels or outputs."""
    return x.numel() == 0 or weight.numel() == 0


def conv2d_resample(
    x: torch.Tensor,
    weight: torch.Tensor,
    resampling: Resampling,
    flip_weight: bool,
    resample: Callable[[torch.Tensor, Resampling], torch.Tensor],
) -> torch.Tensor:
    """Convolve ``x`` [N, I, H, W] with ``weight`` [O, I, kh, kw], up- or down-sampling in the cheapest order.

    ``resampling.padding`` is the convolution's padding at the up-sampled resolution; the margins of the filter are
    added here. ``resample(x, resampling)`` is the upfirdn2d to use.
    """
    if is_empty(x, weight):  # PyTorch refuses to convolve these; the empty sums keep zeros differentiable
        zero = x[:0].sum() + weight[:0].sum()
        return zero.expand(len(x), len(weight), *resampling.output_size(x, weight.shape[2:])).clone()
    f, (up_x, up_y), (down_x, down_y), (x0, x1, y0, y1), *_ = resampling
    if up_x == up_y == down_x == down_y == 1 and x0 == x1 >= 0 and y0 == y1 >= 0:
        return conv2d(x, weight, flip_weight, padding=(y0, x0))
    (kh, kw), (fh, fw) = weight.shape[2:], resampling.filter_size
    x0, x1 = x0 + (fw + up_x - 1) // 2 * (up_x > 1), x1 + (fw - up_x) // 2 * (up_x > 1)
    y0, y1 = y0 + (fh + up_y - 1) // 2 * (up_y > 1), y1 + (fh - up_y) // 2 * (up_y > 1)
    x0, x1 = x0 + (fw - down_x + 1) // 2 * (down_x > 1), x1 + (fw - down_x) // 2 * (down_x > 1)
    y0, y1 = y0 + (fh - down_y + 1) // 2 * (down_y > 1), y1 + (fh - down_y) // 2 * (down_y > 1)
    up, down, gain = max(up_x, up_y), max(down_x, down_y), float(up_x * up_y)

    if up == 1 and down > 1:
        x = resample(x, Resampling(f, padding=(x0, x1, y0, y1)))
        return conv2d(x, weight, flip_weight, stride=(down_y, down_x))
    if up > 1 and min(x0 - kw + 1, x1 - kw + up_x, y0 - kh + 1, y1 - kh + up_y) >= 0:
        # The transposed convolution does not multiply the inserted zeros: its cost is that of the input's resolution.
        x = conv_transpose2d(x, weight, flip_weight, (up_y, up_x))
        padding = x0 - kw + 1, x1 - kw + up_x, y0 - kh + 1, y1 - kh + up_y
        return resample(x, Resampling(f, down=(down_x, down_y), padding=padding, gain=gain))
    x = resample(x, Resampling(f if up > 1 else None, (up_x, up_y), padding=(x0, x1, y0, y1), gain=gain))
    x = conv2d(x, weight, flip_weight)
    return resample(x, Resampling(f, down=(down_x, down_y))) if down > 1 else x


def sparse_output(
    x: torch.Tensor, weight: torch.Tensor, out_channels: torch.Tensor, padding: int, up: int, scatter: bool
) -> tuple[int, int, int]:
    """Return (channels, height, width) of a correlation over chosen channels of ``x`` with up - 1 zeros in between."""
    height, width = ((size - 1) * up + 2 * padding + 2 - weight.shape[-1] for size in x.shape[2:])
    return weight.shape[0] if scatter else out_channels.shape[0], height, width


def gather(weight: torch.Tensor, in_channels: torch.Tensor, out_channels: torch.Tensor) -> torch.Tensor:
    """Return ``weight[out_channels][:, in_channels]`` as a new tensor; the gradient is zero outside the block."""
    return weight.index_select(0, out_channels).index_select(1, in_channels)


def scattered(y: torch.Tensor, out_channels: torch.Tensor, width: int) -> torch.Tensor:
    """Return [N, width, H, W] with the channels of ``y`` at ``out_channels`` and zeros elsewhere."""
    return layout.empty_images(y, *y.shape[2:], channels=width).zero_().index_copy_(1, out_channels, y)
