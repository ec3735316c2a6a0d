"""The epilogue of a modulated convolution (all steps after the dense convolution), registered with derivatives.

    u = x, or x filtered by f
    v = u · scale[n, c] + noise[n, pixel] + bias[c]
    y = clamp(gain · act(v), ±clamp) · next_styles[n, c]

``cagc::epilogue`` and ``cagc::epilogue_gradient`` each make one pass over memory. Only the convolution's output x is
kept for the backward pass, which recomputes u and v. Second and further gradients are formulas in PyTorch ops. The
activations are piecewise linear: the gradient depends on v only through its sign and the clamp.
"""

from __future__ import annotations

import torch

from .. import layout, profiling
from ..arguments import ACTIVATION_SCHEMA, HALF, Epilogue, Resampling, accumulator
from .dispatch import KERNEL, kernels, route
from .registration import register
from .upfirdn2d import call as upfirdn2d

# Order of the schemas' arguments: x, filter and scale, the fields of an Epilogue, the backend. The forward op has the
# margins before the first pixel and the output size before the backend.


def _run_value(x, f, scale, *rest):
    *epilogue, pad_x, pad_y, height, width, backend = rest
    run = kernels("epilogue", backend).epilogue
    return run(x, f, scale, Epilogue(*epilogue), (pad_x, pad_y), (height, width))


def _run_gradient(g, x, scale, *epilogue_backend):
    *epilogue, backend = epilogue_backend
    return kernels("epilogue", backend).epilogue_gradient(g, x, scale, Epilogue(*epilogue))


def _fake_value(x, *rest):
    *_, height, width, _ = rest
    return layout.empty_images(x, height, width)


def _fake_gradient(g, x, *_):
    n, c, height, width = x.shape
    wide = accumulator(x.dtype)
    factors, noise = x.new_empty(n, c, dtype=wide), x.new_empty(n, 1, height, width, dtype=wide)
    empty = torch.empty_like(factors)
    return layout.empty_images(x, height, width), factors, noise, x.new_empty(c, dtype=wide), empty


def _save_value(ctx, inputs, output) -> None:
    *tensors, act, alpha, gain, clamp, ctx.pad_x, ctx.pad_y, ctx.height, ctx.width, ctx.backend = inputs
    ctx.activation = act, alpha, gain, clamp
    ctx.save_for_backward(*tensors)


def _backward_value(ctx, g):
    x, f, scale, noise, bias, next_styles = ctx.saved_tensors
    (in_h, in_w), px, py = x.shape[2:], ctx.pad_x, ctx.pad_y
    if f is not None:
        padding = px, ctx.width + 3 - in_w - px, py, ctx.height + 3 - in_h - py
        x = upfirdn2d(x, Resampling(f, padding=padding, flip_filter=True), ctx.backend)
    dx, dscale, dnoise, dbias, dnext = _gradient(g, x, scale, noise, bias, next_styles, *ctx.activation, ctx.backend)
    if f is not None:
        padding = 3 - px, in_w - ctx.width + px, 3 - py, in_h - ctx.height + py
        dx = upfirdn2d(dx, Resampling(f, padding=padding), ctx.backend)
    if noise is not None and noise.shape[0] != dnoise.shape[0]:
        dnoise = dnoise.sum(0, keepdim=True)
    found = dx, None, dscale, dnoise, dbias, dnext
    tensors = x, None, scale, noise, bias, next_styles
    return *(t if like is not None else None for t, like in zip(found, tensors, strict=True)), *[None] * 9


def _save_gradient(ctx, inputs, output) -> None:
    g, x, scale, noise, bias, next_styles, *ctx.activation, _ = inputs
    ctx.save_for_backward(g, x, scale, noise, bias, next_styles)


def _pixels(factor: torch.Tensor | None) -> torch.Tensor | float:
    return 1.0 if factor is None else factor[:, :, None, None]


def _backward_gradient(ctx, hx, hd, hnoise, hb, hs):
    """Return the gradients of Σ dx·hx + Σ dd·hd + Σ dnoise·hnoise + Σ db·hb + Σ ds·hs = Σ gv·q + Σ g·a·hs.

    d stands for scale, b for bias and s for next_styles; a is the clamped activation, gv the gradient of v, and q the
    change of v in the direction (hx, hd, hnoise, hb).
    """
    g, x, d, noise, b, s = ctx.saved_tensors
    act, alpha, gain, clamp = ctx.activation
    dtype = x.dtype
    if dtype in HALF:
        g, x, hx = g.float(), x.float(), hx.float()
    v = x * _pixels(d) + (0 if noise is None else noise) + (0 if b is None else b[:, None, None])
    negative = 1.0 if act == "linear" else 0.0 if act == "relu" else alpha
    derivative = torch.full_like(v, gain * negative).masked_fill_(v > 0, gain)
    a = v * derivative
    if clamp >= 0:
        derivative = derivative * (a.abs() < clamp)
        a = a.clamp(-clamp, clamp)
    q = hx * _pixels(d) + x * _pixels(hd) + hnoise + hb[:, None, None]
    through_a = g * derivative * _pixels(hs)
    ga = g * derivative
    gv = ga * _pixels(s)
    dg = derivative * _pixels(s) * q + a * _pixels(hs)
    dx = gv * _pixels(hd) + through_a * _pixels(d)
    dd = None if d is None else (gv * hx + through_a * x).sum((2, 3))
    dnoise = None if noise is None else through_a.sum(1, keepdim=True)
    if dnoise is not None and noise.shape[0] != dnoise.shape[0]:
        dnoise = dnoise.sum(0, keepdim=True)
    db = None if b is None else through_a.sum((0, 2, 3))
    ds = None if s is None else (ga * q).sum((2, 3))
    return dg.to(dtype), dx.to(dtype), dd, dnoise, db, ds, *[None] * 5


_FACTORS = "Tensor? scale, Tensor? noise, Tensor? bias, Tensor? next_styles"
_value = register(
    f"epilogue(Tensor x, Tensor? f, {_FACTORS}, {ACTIVATION_SCHEMA}, SymInt pad_x, SymInt pad_y, SymInt height, "
    "SymInt width, str backend) -> Tensor",
    _run_value, _fake_value, _save_value, _backward_value,
)  # fmt: skip
_gradient = register(
    f"epilogue_gradient(Tensor g, Tensor x, {_FACTORS}, {ACTIVATION_SCHEMA}, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run_gradient, _fake_gradient, _save_gradient, _backward_gradient,
)  # fmt: skip


def epilogue(
    x: torch.Tensor, f: torch.Tensor | None, scale: torch.Tensor | None, epilogue: Epilogue, padding: tuple[int, int],
    size: tuple[int, int], backend: str,
) -> torch.Tensor:  # fmt: skip
    """Return y [N, C, height, width] of the module's formula in the dtype of ``x``.

    Overwrites ``x`` where autograd does not keep it. ``padding`` is (x, y) before the first pixel, ``size`` (height,
    width) of the output; shapes and dtypes as in :func:`cagc_kernels.native.epilogue.epilogue`.
    """
    arguments = (f, scale, epilogue, padding, size, backend)
    if profiling.active:
        return profiling.ranged(f"epilogue {'fir ' * (f is not None)}{epilogue.act}", _call, x, *arguments)
    return _call(x, *arguments)


def _call(x, f, scale, epilogue, padding, size, backend) -> torch.Tensor:
    if route((x, f, scale, *epilogue[:3])) == KERNEL:
        return kernels("epilogue", backend).epilogue(x, f, scale, epilogue, padding, size, inplace=True)
    return _value(x, f, scale, *epilogue, *padding, *size, backend)
