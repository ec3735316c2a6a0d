"""Modulated convolution as PyTorch's dense convolution with fused kernels around it, each part differentiable."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from ..reference import modulated_conv2d as reference
from ..reference.bias_act import PIECEWISE_LINEAR
from ..reference.upfirdn2d import parse_padding
from .bias_act import bias_act
from .epilogue import epilogue
from .upfirdn2d import upfirdn2d

# Pixels of x from which on oneDNN convolves faster in channels_last, forward and backward.
CHANNELS_LAST_PIXELS = 256
# Outputs up to which a 1x1 convolution modulates its weight: N·O·I products instead of N·I·H·W.
FEW_OUTPUTS = 16


def composed(x, weight, styles, noise, demodulate, modulate, conv, finish, backend) -> torch.Tensor:
    """The layer of :func:`cagc_kernels.styled_conv2d`.

    ``conv`` is (resample_filter, up, down, padding, flip_weight), ``finish`` (bias, next_styles, act, alpha, gain,
    clamp); of ``backend`` are the kernels around the convolution.
    """
    bias, next_styles, act, alpha, gain, clamp = finish
    f, up, down, padding, flip_weight = conv
    dtype = x.dtype
    weight, styles, d = reference.operands(weight, styles, dtype, demodulate, modulate)
    if weight.shape[2:] == (1, 1) and up == down == 1 and padding == 0 and modulate and weight.shape[0] <= FEW_OUTPUTS:
        return _finish(_pointwise(x, weight, styles), d, noise, *finish, backend)
    x = arrange(x * styles[:, :, None, None] if modulate else x)
    fir = _transposed(x, weight, *conv) if up == 2 else None
    if fir is not None:
        return _finish(fir[0], d, noise, *finish, backend, *fir[1:])
    y = reference.conv2d_resample(x, weight, *conv, partial(upfirdn2d, backend=backend))
    return _finish(y, d, noise, *finish, backend)


def unfused_because(weight: torch.Tensor, noise: torch.Tensor | None, conv: tuple, act: str) -> str | None:
    """Why :func:`composed` takes more than PyTorch's convolution and one kernel; None if it does not.

    ``conv`` as there.
    """
    f, up, down, padding, _ = conv
    if down != 1 or up not in (1, 2):
        return f"up={up}, down={down}"
    if up == 2 and (f is None or f.shape[0] != 4 or f.shape[-1] != 4):
        return "a filter that is not of 4 taps"
    if up == 2 and _margins(weight, padding) is None:
        return f"padding {padding} crops the transposed convolution of a {weight.shape[2]} x {weight.shape[3]} kernel"
    if noise is not None and noise.ndim == 4 and noise.shape[1] != 1:
        return "noise per channel"
    return None if act in PIECEWISE_LINEAR else f"{act} is not fused"


def arrange(x: torch.Tensor) -> torch.Tensor:
    """``x`` in the memory format in which PyTorch convolves it fastest; on the GPU that is the caller's choice."""
    if x.device.type != "cpu":
        return x
    last = x.shape[2] * x.shape[3] >= CHANNELS_LAST_PIXELS
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _pointwise(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """1x1 convolution of [N, I, H, W] by a weight per sample."""
    n, channels, height, width = x.shape
    modulated = weight[None, :, :, 0, 0] * styles[:, None]
    if x.stride(1) == 1 and x.shape[1] > 1:
        y = torch.bmm(x.permute(0, 2, 3, 1).reshape(n, height * width, channels), modulated.transpose(1, 2))
        return y.reshape(n, height, width, len(weight)).permute(0, 3, 1, 2)
    return torch.bmm(modulated, x.reshape(n, channels, height * width)).reshape(n, len(weight), height, width)


def _transposed(x, weight, f, up, down, padding, flip_weight):
    """Transposed convolution by two, and the filter, padding and size with which the epilogue completes it.

    None where the filter is not one of four taps, or a crop would make the transposed convolution wasteful.
    """
    if f is None or f.shape[-1] != 4 or f.shape[0] != 4 or down != 1:
        return None
    margins = _margins(weight, padding)
    if margins is None:
        return None
    before_x, after_x, before_y, after_y = margins
    transposed = weight.transpose(0, 1)
    y = F.conv_transpose2d(x, transposed.flip(2, 3) if flip_weight else transposed, stride=2)
    size = y.shape[2] + before_y + after_y - 3, y.shape[3] + before_x + after_x - 3
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    f = (f if f.ndim == 2 else f.outer(f)).to(wide) * up**2
    return y, f.flip(0, 1), (before_x, before_y), size


def _margins(weight, padding) -> tuple[int, int, int, int] | None:
    """Zeros before and after each row and column of a transposed convolution; None where it would be cropped."""
    kh, kw = weight.shape[2:]
    x0, x1, y0, y1 = parse_padding(padding)
    margins = x0 + 3 - kw, x1 + 3 - kw, y0 + 3 - kh, y1 + 3 - kh
    return None if min(margins) < 0 else margins


def _finish(y, d, noise, b, s, act, alpha, gain, clamp, backend, f=None, padding=(0, 0), size=None) -> torch.Tensor:
    """The epilogue of a convolution's output ``y``, which nobody else holds; composed where it is not fused."""
    if all(t is None for t in (f, d, noise, b, s)) and act == "linear" and gain in (None, 1) and clamp is None:
        return y
    wide = torch.float64 if y.dtype == torch.float64 else torch.float32
    d, noise, b, s = (None if t is None else t.to(wide) for t in (d, noise, b, s))
    size = size or tuple(y.shape[2:])
    run = partial(epilogue, backend=backend)
    if noise is not None:
        noise = noise.reshape((1,) * (4 - noise.ndim) + noise.shape)
        if noise.shape[1] != 1:
            y = run(y, f, d, None, None, None, padding, size, "linear", None, None, None)
            y, f, d, noise, padding = (y + noise).to(y.dtype), None, None, None, (0, 0)
        else:
            noise = noise.expand(-1, -1, *size)
    if act in PIECEWISE_LINEAR:
        return run(y, f, d, noise, b, s, padding, size, act, alpha, gain, clamp)
    y = run(y, f, d, noise, b, None, padding, size, "linear", None, None, None)
    y = bias_act(y, None, 1, act, alpha, gain, clamp, backend=backend)
    return y if s is None else (y * s[:, :, None, None]).to(y.dtype)
