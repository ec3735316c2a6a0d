"""Modulated convolution as PyTorch's dense convolution between differentiable kernels of a backend."""

from __future__ import annotations

from functools import partial

import torch

from ..arguments import HALF, Epilogue, Resampling, accumulator, cast
from ..backend import implements
from ..convolution import conv2d_resample, conv_transpose2d, operands, transposed_margins
from ..reference.bias_act import PIECEWISE_LINEAR
from .bias_act import bias_act, sign_is_kept
from .epilogue import epilogue as fused_epilogue
from .packed_conv2d import arrange, convolve, find
from .upfirdn2d import resample

# Up to this many outputs, a 1x1 convolution modulates its weight: N·O·I products instead of N·I·H·W.
FEW_OUTPUTS = 16

IDENTITY = Epilogue()


def composed(
    x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, demodulate: bool, modulate: bool, flip_weight: bool,
    resampling: Resampling, epilogue: Epilogue, backend: str,
) -> torch.Tensor:  # fmt: skip
    """Return the output [N, O, H', W'] of a generator layer, with the kernels of ``backend`` around the convolution."""
    pack = find(x, weight, styles, flip_weight, resampling, backend)
    energy = None if pack is None or torch.is_grad_enabled() and weight.requires_grad else pack.energy
    weight, styles, scale = operands(weight, styles, x.dtype, demodulate, modulate, energy)
    margins = transposed_margins(weight, resampling) if implements(backend, "epilogue") else None
    if pack is None:
        y = _convolved(x, weight, styles if modulate else None, flip_weight, resampling, margins is not None, backend)
    else:
        padding, mirrored = (resampling.padding[0], not flip_weight) if margins is None else (1, flip_weight)
        y, scale = convolve(x, weight, styles if modulate else None, scale, pack, padding, mirrored)
    finish = _fused if implements(backend, "epilogue") else _unfused
    finish = partial(finish, y, scale=scale, epilogue=epilogue, backend=backend)
    if margins is None:
        return finish()
    before_x, after_x, before_y, after_y = margins
    size = y.shape[2] + before_y + after_y - 3, y.shape[3] + before_x + after_x - 3
    f = resampling.filter
    f = cast(f if f.ndim == 2 else f.outer(f), accumulator(x.dtype)) * 4
    return finish(f=f.flip(0, 1), padding=(before_x, before_y), size=size)


def _convolved(x, weight, styles, flip_weight, resampling, transposed, backend) -> torch.Tensor:
    """Return the convolution by PyTorch of ``x`` times ``styles``; ``transposed``: before the epilogue filters it."""
    plain = resampling[1:4] == Resampling()[1:4]
    if styles is not None and len(weight) <= FEW_OUTPUTS and weight.shape[2:] == (1, 1) and plain:
        return _pointwise(x, weight, styles)
    x = arrange(x if styles is None else x * styles.view(*styles.shape, 1, 1))
    if transposed:
        return conv_transpose2d(x, weight, flip_weight, (2, 2))
    return conv2d_resample(x, weight, resampling, flip_weight, partial(resample, backend=backend))


def _pointwise(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Convolve ``x`` [N, I, H, W] with one modulated 1x1 weight per sample."""
    n, channels, height, width = x.shape
    modulated = weight.view(1, *weight.shape[:2]) * styles.view(n, 1, channels)
    if x.stride(1) == 1 and x.shape[1] > 1:
        y = torch.bmm(x.permute(0, 2, 3, 1).reshape(n, height * width, channels), modulated.transpose(1, 2))
        return y.reshape(n, height, width, len(weight)).permute(0, 3, 1, 2)
    return torch.bmm(modulated, x.reshape(n, channels, height * width)).reshape(n, len(weight), height, width)


def _fused(y, scale, epilogue, backend, f=None, padding=(0, 0), size=None) -> torch.Tensor:
    """Apply the epilogue to the convolution's output ``y``, which may be overwritten, in one kernel or a few."""
    if f is None and scale is None and epilogue.is_identity:
        return y
    wide, size = accumulator(y.dtype), size or tuple(y.shape[2:])
    scale, noise, bias, next_styles = (None if t is None else cast(t, wide) for t in (scale, *epilogue[:3]))
    if noise is not None:
        noise = noise.reshape((1,) * (4 - noise.ndim) + noise.shape)
        if noise.shape[1] != 1:
            y = fused_epilogue(y, f, scale, IDENTITY, padding, size, backend)
            y, f, scale, noise, padding = (y + noise).to(y.dtype), None, None, None, (0, 0)
        else:
            noise = noise.expand(-1, -1, *size)
    *_, act, alpha, gain, clamp = epilogue
    if act in PIECEWISE_LINEAR:
        epilogue = Epilogue(noise, bias, next_styles, act, alpha, gain, clamp)
        return fused_epilogue(y, f, scale, epilogue, padding, size, backend)
    y = fused_epilogue(y, f, scale, Epilogue(noise, bias), padding, size, backend)
    y = bias_act(y, None, 1, act, alpha, gain, None if clamp < 0 else clamp, backend=backend)
    return y if next_styles is None else (y * next_styles[:, :, None, None]).to(y.dtype)


def _unfused(y, scale, epilogue, backend) -> torch.Tensor:
    """Apply the epilogue with the backend's ``bias_act`` and PyTorch; half precision is rounded once, at the end."""
    dtype = y.dtype
    noise, bias, next_styles, act, alpha, gain, clamp = epilogue
    y = y.float() if dtype in HALF else y
    y = y if scale is None else y * scale[:, :, None, None]
    y = y if noise is None else y + noise
    if bias is not None or act != "linear":
        bias = None if bias is None else bias.to(y.dtype)
        backend = "reference" if not sign_is_kept(act, alpha, gain) else backend
        y = bias_act(y, bias, 1, act, alpha, gain, None if clamp < 0 else clamp, backend=backend)
    return (y if next_styles is None else y * next_styles[:, :, None, None]).to(dtype)
