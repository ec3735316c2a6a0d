"""What follows the dense convolution of a modulated one, registered with PyTorch, with its derivatives.

    u = x, or x filtered;    v = u·d[n,c] + noise[n,pixel] + b[c];    a = clamp(gain·act(v));    y = a·s[n,c]

``cagc::epilogue`` and ``cagc::epilogue_gradient`` are one pass over memory each. Only the convolution's output is kept
for the backward pass, which computes v again, and the filter too. The gradient's gradient is a formula in PyTorch's
own ops, and so are further ones. The activations are piecewise linear: v has a gradient only through its sign's side.
"""

from __future__ import annotations

import torch

from .. import layout, profiling
from ..reference.bias_act import ACTIVATIONS
from ..reference.modulated_conv2d import HALF
from .dispatch import kernels
from .registration import register
from .upfirdn2d import _call as upfirdn2d

# Arguments of every function here, in this order: tensors, then padding and size (of the value only), then
# (act, alpha, gain, clamp, backend) with clamp < 0 for none.


def _run_value(*arguments):
    *rest, backend = arguments
    return kernels("modulated_conv2d", backend).epilogue(*rest)


def _run_in_place(*arguments):
    *rest, backend = arguments
    return kernels("modulated_conv2d", backend).epilogue(*rest, inplace=True)


def _run_gradient(*arguments):
    *rest, backend = arguments
    return kernels("modulated_conv2d", backend).epilogue_gradient(*rest)


def _fake_value(x, f, d, noise, b, s, pad_x, pad_y, height, width, *_):
    return layout.empty_images(x, height, width)


def _fake_gradient(g, x, *_):
    n, c, height, width = x.shape
    wide = torch.float32 if x.dtype in HALF else x.dtype
    factors, noise = x.new_empty(n, c, dtype=wide), x.new_empty(n, 1, height, width, dtype=wide)
    empty = torch.empty_like(factors)
    return layout.empty_images(x, height, width), factors, noise, x.new_empty(c, dtype=wide), empty


def _save_value(ctx, inputs, output) -> None:
    x, f, d, noise, b, s, ctx.pad_x, ctx.pad_y, ctx.height, ctx.width, *ctx.options = inputs
    ctx.save_for_backward(x, f, d, noise, b, s)


def _backward_value(ctx, g):
    x, f, d, noise, b, s = ctx.saved_tensors
    backend = ctx.options[-1]
    (in_h, in_w), px, py = x.shape[2:], ctx.pad_x, ctx.pad_y
    if f is not None:
        padding = px, ctx.width + 3 - in_w - px, py, ctx.height + 3 - in_h - py
        x = upfirdn2d(x, f, 1, 1, 1, 1, *padding, True, 1.0, backend)
    dx, dd, dnoise, db, ds = _gradient(g, x, d, noise, b, s, *ctx.options)
    if f is not None:
        padding = 3 - px, in_w - ctx.width + px, 3 - py, in_h - ctx.height + py
        dx = upfirdn2d(dx, f, 1, 1, 1, 1, *padding, False, 1.0, backend)
    if noise is not None and noise.shape[0] != dnoise.shape[0]:
        dnoise = dnoise.sum(0, keepdim=True)
    found = dx, None, dd, dnoise, db, ds
    tensors = x, None, d, noise, b, s
    return *(t if like is not None else None for t, like in zip(found, tensors, strict=True)), *[None] * 9


def _save_gradient(ctx, inputs, output) -> None:
    g, x, d, noise, b, s, *ctx.options = inputs
    ctx.save_for_backward(g, x, d, noise, b, s)


def _pixels(factor: torch.Tensor | None) -> torch.Tensor | float:
    return 1.0 if factor is None else factor[:, :, None, None]


def _backward_gradient(ctx, hx, hd, hnoise, hb, hs):
    """Gradients of Σ dx·hx + Σ dd·hd + Σ dnoise·hnoise + Σ db·hb + Σ ds·hs = Σ gv·q + Σ g·a·hs.

    gv is the gradient of v, and q the change of v that hx, hd, hnoise and hb make.
    """
    g, x, d, noise, b, s = ctx.saved_tensors
    act, alpha, gain, clamp, _ = ctx.options
    dtype = x.dtype
    if dtype in HALF:
        g, x, hx = g.float(), x.float(), hx.float()
    v = x * _pixels(d) + (0 if noise is None else noise) + (0 if b is None else b[:, None, None])
    negative = 1.0 if act == "linear" else 0.0 if act == "relu" else alpha
    slope = torch.full_like(v, gain * negative).masked_fill_(v > 0, gain)
    a = v * slope
    if clamp >= 0:
        slope = slope * (a.abs() < clamp)
        a = a.clamp(-clamp, clamp)
    q = hx * _pixels(d) + x * _pixels(hd) + hnoise + hb[:, None, None]
    through_a = g * slope * _pixels(hs)
    g_slope = g * slope
    gv = g_slope * _pixels(s)
    dg = slope * _pixels(s) * q + a * _pixels(hs)
    dx = gv * _pixels(hd) + through_a * _pixels(d)
    dd = None if d is None else (gv * hx + through_a * x).sum((2, 3))
    dnoise = None if noise is None else through_a.sum(1, keepdim=True)
    if dnoise is not None and noise.shape[0] != dnoise.shape[0]:
        dnoise = dnoise.sum(0, keepdim=True)
    db = None if b is None else through_a.sum((0, 2, 3))
    ds = None if s is None else (g_slope * q).sum((2, 3))
    return dg.to(dtype), dx.to(dtype), dd, dnoise, db, ds, *[None] * 5


_SMALL = "Tensor? d, Tensor? noise, Tensor? b, Tensor? s"
_OPTIONS = "str act, float alpha, float gain, float clamp, str backend"
_value = register(
    f"epilogue(Tensor x, Tensor? f, {_SMALL}, SymInt pad_x, SymInt pad_y, SymInt height, SymInt width, {_OPTIONS}) "
    "-> Tensor",
    _run_value, _fake_value, _save_value, _backward_value, _run_in_place,
)  # fmt: skip
_gradient = register(
    f"epilogue_gradient(Tensor g, Tensor x, {_SMALL}, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run_gradient, _fake_gradient, _save_gradient, _backward_gradient,
)  # fmt: skip


def epilogue(x, f, d, noise, b, s, padding, size, act, alpha, gain, clamp, backend) -> torch.Tensor:
    """See :mod:`cagc_kernels.native.modulated_conv2d`. Consumes ``x``, which may be overwritten where nothing keeps it.

    ``padding`` is (x, y) before the first pixel, ``size`` (height, width) of the output; ``alpha``, ``gain`` and
    ``clamp`` may be None, as in :func:`cagc_kernels.bias_act`.
    """
    arguments = (f, d, noise, b, s, padding, size, act, alpha, gain, clamp, backend)
    if profiling.active:
        return profiling.ranged(f"epilogue {'fir ' * (f is not None)}{act}", _epilogue, x, *arguments)
    return _epilogue(x, *arguments)


def _epilogue(x, f, d, noise, b, s, padding, size, act, alpha, gain, clamp, backend) -> torch.Tensor:
    alpha = ACTIVATIONS[act].alpha if alpha is None else float(alpha)
    gain = ACTIVATIONS[act].gain if gain is None else float(gain)
    clamp = -1.0 if clamp is None else float(clamp)
    return _value(x, f, d, noise, b, s, *padding, *size, act, alpha, gain, clamp, backend)
