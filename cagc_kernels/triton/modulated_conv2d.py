"""Modulated convolution in Triton: one implicit GEMM with everything around it. No autograd here: see
:mod:`cagc_kernels.ops.modulated_conv2d`, whose backward is the reference's formula.

Fused are k = 1, 3 and 5 at any symmetric padding, and up-sampling by 2 of 3 x 3 weights by 4 x 4 taps. All else is
composed, and :func:`composed_because` says why: the convolution of PyTorch, with this package's upfirdn2d and bias_act.
float32 multiplies in TF32 where ``torch.backends.cudnn.allow_tf32`` lets convolutions do so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..layout import is_channels_last
from ..reference import modulated_conv2d as reference
from ..reference.bias_act import ACTIVATIONS
from ..reference.upfirdn2d import parse_padding
from . import bias_act as elementwise
from .configs import POLYPHASE, TRANSPOSED, Config, Problem, choose
from .launch import Epilogue, device_name, factors, kind, layer, milliseconds
from .packing import PackedWeight, accumulator, energies, filter_peaks, pack, separable
from .upfirdn2d import upfirdn2d


def composed_because(
    x: torch.Tensor, weight: torch.Tensor, noise: torch.Tensor | None, up: int, down: int,
    padding: int | Sequence[int], resample_filter: torch.Tensor | None,
) -> str | None:  # fmt: skip
    """Why a call is composed of several kernels; None if it is the fused one."""
    kh, kw = weight.shape[2:]
    x0, x1, y0, y1 = parse_padding(padding)
    if x.numel() == 0 or weight.numel() == 0:
        return "nothing to compute"
    if down != 1:
        return f"down={down}"
    if kh != kw or kh not in (1, 3, 5):
        return f"a {kh} x {kw} kernel"
    if x0 != x1 or y0 != y1 or min(x0, y0) < 0:
        return f"padding {padding}"
    if up != 1 and (up, kh, x0, y0) != (2, 3, 1, 1):
        return f"up={up} of a {kh} x {kw} kernel at padding {padding}"
    if up == 2 and (resample_filter is None or resample_filter.shape != (4, 4)):
        return "a filter that is not 4 x 4"
    if noise is not None and noise.ndim == 4 and noise.shape[1] > 1:
        return "noise per channel"
    return None if max(x[0].numel(), weight.shape[0] * 4 * up**2 * x[0, 0].numel()) < 2**31 else "too large an image"


def problem(
    x: torch.Tensor, weight: torch.Tensor, up: int, padding: tuple[int, int], f: torch.Tensor | None
) -> Problem:
    """What the choice of a config needs to know about a fused call."""
    n, ci, h, w = x.shape
    co, _, k, _ = weight.shape
    dtype, arch = kind(x)
    if up == 1:
        return Problem(dtype, n, h + 2 * padding[0] - k + 1, w + 2 * padding[1] - k + 1, ci, co, k, arch=arch)
    # The factors of a filter are rounded: not for float64.
    separated = x.dtype != torch.float64 and separable(f) is not None
    return Problem(dtype, n, h, w, ci, co, k, (POLYPHASE, TRANSPOSED) if separated else (POLYPHASE,), arch=arch)


def _fused(x, weight, styles, epilogue, up, padding, f, demodulate, flip_weight, modulate) -> torch.Tensor:
    def packed(config: Config) -> PackedWeight:
        return pack(weight, x.dtype, config.mode, f, demodulate, flip_weight)

    def time(config: Config) -> float:
        arguments = x, packed(config), styles, epilogue, config, padding, modulate
        return milliseconds(lambda: layer(*arguments))

    config = choose(problem(x, weight, up, padding, f), device_name(x.device), time)
    return layer(x, packed(config), styles, epilogue, config, padding, modulate)


def _filter(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1) -> torch.Tensor:
    """:func:`cagc_kernels.reference.upfirdn2d.upfirdn2d` by this package's kernel."""
    x0, x1, y0, y1 = parse_padding(padding)
    fw, fh = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    height = (x.shape[2] * up + y0 + y1 - fh) // down + 1
    width = (x.shape[3] * up + x0 + x1 - fw) // down + 1
    return upfirdn2d(x, f, (up, up), (down, down), (x0, y0), flip_filter, gain, height, width)


def composed(x, weight, styles, epilogue, up, down, padding, f, demodulate, flip_weight, modulate) -> torch.Tensor:
    """Modulate, PyTorch's convolution with this package's FIR, demodulate and add noise, bias_act, modulate."""
    acc, scale = accumulator(x.dtype), None
    if x.numel() and weight.numel():
        peaks = None
        if x.dtype == torch.float16:
            peaks = filter_peaks(weight, weight[0].numel() ** 0.5)
        energy = energies(weight) if demodulate else None
        weight = weight if peaks is None else weight.to(acc) / peaks[:, None, None, None]
        styles, scale = factors(styles, energy, peaks, weight.shape[0], modulate and peaks is not None)
    x = x * styles[:, :, None, None].to(x.dtype) if modulate else x
    y = reference.conv2d_resample(x, weight.to(x.dtype), f, up, down, padding, flip_weight, _filter)
    y = y.contiguous(memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format)
    if scale is not None:
        y = (y.to(acc) * scale[:, :, None, None]).to(x.dtype)
    if epilogue.noise is not None:
        y = (y + epilogue.noise).to(x.dtype)
    if epilogue.act != "linear" or epilogue.bias is not None:
        _, bias, following, *activation, _ = epilogue
        y = elementwise.value(y, bias, 1, *activation)
    return y if epilogue.following is None else (y * epilogue.following[:, :, None, None]).to(x.dtype)


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
    """See :func:`cagc_kernels.styled_conv2d`; forward only, on checked arguments."""
    alpha, gain = (ACTIVATIONS[act][i] if v is None else v for i, v in ((1, alpha), (2, gain)))
    epilogue = Epilogue(noise, bias, next_styles, act, alpha, gain, -1.0 if clamp is None else clamp)
    padding = weight.shape[-1] // 2
    return _run(x, weight, styles, epilogue, up, 1, padding, resample_filter, demodulate, up == 1, modulate)


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
    """See :func:`cagc_kernels.modulated_conv2d`; forward only, on checked arguments."""
    epilogue = Epilogue(noise)
    return _run(x, weight, styles, epilogue, up, down, padding, resample_filter, demodulate, flip_weight, True)


def _run(x, weight, styles, epilogue, up, down, padding, f, demodulate, flip_weight, modulate) -> torch.Tensor:
    if composed_because(x, weight, epilogue.noise, up, down, padding, f):
        return composed(x, weight, styles, epilogue, up, down, padding, f, demodulate, flip_weight, modulate)
    x0, _, y0, _ = parse_padding(padding)
    return _fused(x, weight, styles, epilogue, up, (y0, x0), f, demodulate, flip_weight, modulate)
