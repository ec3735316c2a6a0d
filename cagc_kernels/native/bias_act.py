"""bias_act by the compiled kernels, CPU and CUDA. No autograd here: see :mod:`cagc_kernels.ops.bias_act`."""

from __future__ import annotations

import torch

from .. import layout
from ..arguments import cast
from ..layout import channel_step, dense, dense_like
from ..reference.bias_act import ACTIVATIONS
from . import _C, direct, launch

# Codes of csrc/include/cagc/{common,bias_act}.h
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
ACTS = {name: code for code, name in enumerate(ACTIVATIONS)}
# The code, alpha and gain of each activation.
_DEFAULTS = {name: (ACTS[name], known.alpha, known.gain) for name, known in ACTIVATIONS.items()}
VALUE, GRADIENT, SECOND_GRADIENT = 0, 1, 2

_direct = direct("bias_act")

# Elements per partial sum; independent of the number of threads, so that results are reproducible.
_CHUNK = {"cpu": 16384, "cuda": 8192}


def _run(mode: int, lead: torch.Tensor, x, b, y, g, h, dim, act, alpha, gain, clamp) -> torch.Tensor:
    """Launch the kernel; all tensors of elements have the memory order of ``lead``."""
    out, numel = layout.allocate(lead), lead.numel()
    if numel == 0:
        return out
    if b is not None:
        b = b.contiguous()
    step, channels = channel_step(lead, dim, b)
    launch("bias_act", lead, _C.BiasAct(
        x=x, b=b, y=y, g=g, h=h, out=out, numel=numel, step=step, channels=channels, alpha=alpha, gain=gain,
        clamp=clamp, act=ACTS[act], mode=mode, dtype=DTYPES[lead.dtype],
    ))  # fmt: skip
    return out


def at_once(x, b, dim, act, alpha, gain, clamp) -> torch.Tensor | None:
    """Return :func:`cagc_kernels.bias_act` of the usual arguments by one call of the compiled module, else None."""
    return _direct(
        x=x, b=b, dim=dim, act=act, alpha=alpha, gain=gain, clamp=clamp, activations=_DEFAULTS,
        graph=torch.is_grad_enabled(), allocate=layout.allocate, threads=torch.get_num_threads(),
    )  # fmt: skip


def value(x, b, dim, act, alpha, gain, clamp) -> torch.Tensor:
    """Return ``clamp(gain * act(x + b))`` in the memory order of ``x``; ``clamp < 0`` means no clamp."""
    out = at_once(x, b, dim, act, alpha, gain, None if clamp < 0 else clamp)
    if out is not None:
        return out
    x = dense(x)
    return _run(VALUE, x, x, b, None, None, None, dim, act, alpha, gain, clamp)


def gradient(g, x, b, y, dim, act, alpha, gain, clamp) -> torch.Tensor:
    """Return the gradient of x for the gradient ``g`` of the output: from y if piecewise linear, else from x and b."""
    g = dense(g)
    x, y = dense_like(x, g), dense_like(y, g)
    return _run(GRADIENT, g, x, b, y, g, None, dim, act, alpha, gain, clamp)


def gradient_and_sums(g, x, b, y, dim, act, alpha, gain, clamp) -> tuple[torch.Tensor, torch.Tensor]:
    """Return :func:`gradient` and its sum over all axes but ``dim``, in one pass; ``g`` must not be empty."""
    g = dense(g)
    x, y = dense_like(x, g), dense_like(y, g)
    out = layout.allocate(g)
    step, channels = (g.stride(dim), g.shape[dim]) if g.shape[dim] > 1 else (g.numel(), 1)
    wide = torch.float64 if g.dtype == torch.float64 else torch.float32
    across, chunk = channels > 1 and step == 1, _CHUNK[g.device.type]
    if across:
        chunk = max(32, chunk // channels) * channels
    pieces = -(-(g.numel() if across else step) // chunk)
    shape = (pieces, channels) if across else (g.numel() // (step * channels), channels, pieces)
    sums = g.new_empty(shape, dtype=wide)
    b = None if b is None else b.contiguous()
    launch("bias_act", g, _C.BiasAct(
        x=x, b=b, y=y, g=g, out=out, numel=g.numel(), step=step, channels=channels, alpha=alpha, gain=gain,
        clamp=clamp, act=ACTS[act], mode=GRADIENT, dtype=DTYPES[g.dtype], sums=sums, chunk=chunk,
    ))  # fmt: skip
    return out, cast(sums.sum([i for i in range(sums.ndim) if i != 1]), g.dtype)


def second_gradient(h, g, x, b, dim, act, alpha, gain, clamp) -> torch.Tensor:
    """Return the gradient of ``sum(h * gradient(g, x))`` with respect to x."""
    x = dense(x)
    return _run(SECOND_GRADIENT, x, x, b, None, dense_like(g, x), dense_like(h, x), dim, act, alpha, gain, clamp)
