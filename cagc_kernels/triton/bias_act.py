"""bias_act, its gradient and second gradient in one Triton kernel. For autograd see :mod:`cagc_kernels.ops.bias_act`.

The formulas are those of csrc/include/cagc/bias_act.h, without expm1 and log1p: near 0, elu, selu and softplus have an
absolute error of an ulp of 1 instead of a relative one. Where exp overflows, tl.where selects the other branch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from .. import layout
from ..layout import channel_step, dense, dense_like
from ..reference.bias_act import ACTIVATIONS, PIECEWISE_LINEAR

VALUE, GRADIENT, SECOND_GRADIENT = (tl.constexpr(code) for code in range(3))

SELU_ALPHA = tl.constexpr(1.6732632423543772848170429916717)
SOFTPLUS_THRESHOLD = tl.constexpr(20.0)
SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)


@triton.jit
def _sigmoid(u):
    return 1.0 / (1.0 + tl.exp(-u))


@triton.jit
def _tanh(u):
    # Computed from |u|, so that exp never overflows, and then given the sign of u.
    e = tl.exp(-2.0 * tl.abs(u))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(u < 0, -t, t)


@triton.jit
def _value(u, ACT: tl.constexpr, ALPHA: tl.constexpr):
    if ACT == "relu":
        u = tl.where(u < 0, 0.0, u)
    elif ACT == "lrelu":
        u = tl.where(u > 0, u, u * ALPHA)
    elif ACT == "tanh":
        u = _tanh(u)
    elif ACT == "sigmoid":
        u = _sigmoid(u)
    elif ACT == "elu":
        u = tl.where(u > 0, u, (tl.exp(u) - 1.0))
    elif ACT == "selu":
        u = SELU_SCALE * tl.where(u > 0, u, SELU_ALPHA * (tl.exp(u) - 1.0))
    elif ACT == "softplus":
        u = tl.where(u > SOFTPLUS_THRESHOLD, u, tl.log(1.0 + tl.exp(u)))
    elif ACT == "swish":
        u = u * _sigmoid(u)
    return u


@triton.jit
def _first_derivative(u, ACT: tl.constexpr, ALPHA: tl.constexpr):
    # Built in the dtype of u: tl.where of two constants would be float32.
    d = tl.full(u.shape, 1.0, u.dtype)
    if ACT == "relu":
        d = tl.where(u > 0, d, 0.0)
    elif ACT == "lrelu":
        d = tl.where(u > 0, d, d * ALPHA)
    elif ACT == "tanh":
        t = _tanh(u)
        d = (1.0 - t) * (1.0 + t)
    elif ACT == "sigmoid":
        d = _sigmoid(u) * _sigmoid(-u)
    elif ACT == "elu":
        d = tl.where(u > 0, d, tl.exp(u))
    elif ACT == "selu":
        d = SELU_SCALE * tl.where(u > 0, d, SELU_ALPHA * tl.exp(u))
    elif ACT == "softplus":
        d = tl.where(u > SOFTPLUS_THRESHOLD, d, _sigmoid(u))
    elif ACT == "swish":
        d = _sigmoid(u) * (1.0 + u * _sigmoid(-u))
    return d


@triton.jit
def _second_derivative(u, ACT: tl.constexpr):
    s = _sigmoid(u)
    s1 = s * _sigmoid(-u)
    s2 = s1 * (1.0 - 2.0 * s)
    if ACT == "tanh":
        t = _tanh(u)
        s2 = -2.0 * t * (1.0 - t) * (1.0 + t)
    elif ACT == "elu":
        s2 = tl.where(u >= 0, 0.0, tl.exp(u))
    elif ACT == "selu":
        s2 = tl.where(u >= 0, 0.0, SELU_SCALE * SELU_ALPHA * tl.exp(u))
    elif ACT == "softplus":
        s2 = tl.where(u > SOFTPLUS_THRESHOLD, 0.0, s1)
    elif ACT == "swish":
        s2 = 2.0 * s1 + u * s2
    return s2


@triton.jit
def clamped(v, CLAMP: tl.constexpr):
    # tl.full, because comparing with a constant rounds it to float32; tl.where, because minimum and maximum lose NaN.
    limit = tl.full(v.shape, CLAMP, v.dtype)
    v = tl.where(v > limit, limit, v)
    return tl.where(v < -limit, -limit, v)


@triton.jit
def _derivative(
    u, g, SECOND: tl.constexpr, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr,
    FROM_OUTPUT: tl.constexpr,
):  # fmt: skip
    """Return ``g`` times the first (SECOND: second) derivative at ``u``, which is x + b or, FROM_OUTPUT, the output."""
    d = g * GAIN
    if SECOND:
        d = d * _second_derivative(u, ACT)
    else:
        d = d * _first_derivative(u, ACT, ALPHA)
    if CLAMP >= 0:
        v = u
        if not FROM_OUTPUT:
            v = GAIN * _value(u, ACT, ALPHA)
        limit = tl.full(v.shape, CLAMP, v.dtype)
        d = tl.where((v > -limit) & (v < limit), d, 0.0)
    return d


@triton.jit
def bias_act_kernel(
    x, b, g, h, out, numel, step, channels,
    PASS: tl.constexpr, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr,
    HAS_BIAS: tl.constexpr, FROM_OUTPUT: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute one block of elements in memory order. FROM_OUTPUT: ``x`` is the saved output, after gain and bias."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    u = tl.load(x + i, mask=inside, other=0.0).to(ACC)
    if HAS_BIAS:
        u += tl.load(b + (i // step) % channels, mask=inside, other=0.0).to(ACC)
    if PASS == VALUE:
        v = GAIN * _value(u, ACT, ALPHA)
        if CLAMP >= 0:
            v = clamped(v, CLAMP)
    else:
        d = tl.load(g + i, mask=inside, other=0.0).to(ACC)
        if PASS == SECOND_GRADIENT:
            d = d * tl.load(h + i, mask=inside, other=0.0).to(ACC)
        v = _derivative(u, d, PASS == SECOND_GRADIENT, ACT, ALPHA, GAIN, CLAMP, FROM_OUTPUT)
    tl.store(out + i, v.to(out.dtype.element_ty), mask=inside)


@triton.jit
def bias_act_sums_kernel(
    x, b, g, out, sums, rows, columns, channels,
    ACROSS: tl.constexpr, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr,
    HAS_BIAS: tl.constexpr, FROM_OUTPUT: tl.constexpr, ACC: tl.constexpr,
    R: tl.constexpr, C: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of [rows, columns] in memory order, with one sum for each STEPS blocks [R, C] of a program.

    ACROSS: each column is a channel, a program moves down the rows, and sums are [programs, columns]. Otherwise each
    row belongs to one channel, a program moves along it, and sums are [rows, programs].
    """
    DOWN: tl.constexpr = R * STEPS if ACROSS else R
    ALONG: tl.constexpr = C if ACROSS else C * STEPS
    beside = tl.cdiv(columns, ALONG)
    piece = tl.program_id(0) // beside, tl.program_id(0) % beside
    total = tl.zeros([R, C], ACC)
    for step in range(STEPS):
        r = piece[0] * DOWN + (step * R if ACROSS else 0) + tl.arange(0, R)[:, None]
        c = piece[1] * ALONG + (0 if ACROSS else step * C) + tl.arange(0, C)[None, :]
        inside = (r < rows) & (c < columns)
        i = r.to(tl.int64) * columns + c
        u = tl.load(x + i, mask=inside, other=0.0).to(ACC)
        if HAS_BIAS:
            u += tl.load(b + (c if ACROSS else r % channels), mask=inside, other=0.0).to(ACC)
        d = tl.load(g + i, mask=inside, other=0.0).to(ACC)
        d = _derivative(u, d, False, ACT, ALPHA, GAIN, CLAMP, FROM_OUTPUT)
        tl.store(out + i, d.to(out.dtype.element_ty), mask=inside)
        total += tl.where(inside, d, 0.0)
    if ACROSS:
        c = piece[1] * C + tl.arange(0, C)
        tl.store(sums + piece[0].to(tl.int64) * columns + c, tl.sum(total, 0), mask=c < columns)
    else:
        r = piece[0] * R + tl.arange(0, R)
        tl.store(sums + r.to(tl.int64) * beside + piece[1], tl.sum(total, 1), mask=r < rows)


def _block(dtype: object) -> int:
    # 8 elements per thread; 4 for float64, with which the second gradient of swish would otherwise spill registers.
    return 512 if dtype in (torch.float64, "fp64") else 1024


def _run(mode: tl.constexpr, lead: torch.Tensor, x, b, g, h, from_output, dim, act, alpha, gain, clamp) -> torch.Tensor:
    out = layout.allocate(lead)
    if lead.numel() == 0:
        return out
    step, channels = channel_step(lead, dim, b)
    acc = tl.float64 if lead.dtype == torch.float64 else tl.float32
    # Pointers that a variant does not read still need a tensor.
    pointers = [lead if t is None else t for t in (x, None if b is None else b.contiguous(), g, h)]
    block = _block(lead.dtype)
    grid = (triton.cdiv(lead.numel(), block),)
    with torch.cuda.device_of(lead):
        bias_act_kernel[grid](
            *pointers, out, lead.numel(), step, channels,
            mode, act, alpha, gain, clamp, b is not None, from_output, acc, block,
        )  # fmt: skip
    return out


def value(x, b, dim, act, alpha, gain, clamp) -> torch.Tensor:
    """Return ``clamp(gain * act(x + b))`` in the memory order of ``x``; ``clamp < 0`` means no clamp."""
    x = dense(x)
    return _run(VALUE, x, x, b, None, None, False, dim, act, alpha, gain, clamp)


def gradient(g, x, b, y, dim, act, alpha, gain, clamp) -> torch.Tensor:
    """Return the gradient of x for the gradient ``g`` of the output: from y if piecewise linear, else from x and b."""
    g = dense(g)
    source = dense_like(x if y is None else y, g)
    return _run(GRADIENT, g, source, b, g, None, x is None, dim, act, alpha, gain, clamp)


def _walk(across: bool, rows: int, columns: int, block: int) -> tuple[int, int, int]:
    """Return R, C and STEPS of :func:`bias_act_sums_kernel`."""
    c = min(128 if across else block, triton.next_power_of_2(columns))
    r = block // c
    steps = triton.cdiv(rows, r) if across else triton.cdiv(columns, c)
    return r, c, min(8, triton.next_power_of_2(steps))


def gradient_and_sums(g, x, b, y, dim, act, alpha, gain, clamp) -> tuple[torch.Tensor, torch.Tensor]:
    """Return :func:`gradient` and its sum over all axes but ``dim``, in one pass; ``g`` must not be empty."""
    g = dense(g)
    source = dense_like(x if y is None else y, g)
    out, channels = layout.allocate(g), g.shape[dim]
    across = channels > 1 and g.stride(dim) == 1
    columns = channels if across else g.stride(dim) if channels > 1 else g.numel()
    rows = g.numel() // columns
    r, c, steps = _walk(across, rows, columns, _block(g.dtype))
    down = triton.cdiv(rows, r * (steps if across else 1))
    along = triton.cdiv(columns, c * (1 if across else steps))
    wide = g.dtype == torch.float64
    shape = (down, channels) if across else (rows // channels, channels, along)
    sums = g.new_empty(shape, dtype=torch.float64 if wide else torch.float32)
    # Pointers that a variant does not read still need a tensor.
    pointers = g if source is None else source, g if b is None else b.contiguous()
    with torch.cuda.device_of(g):
        bias_act_sums_kernel[(down * along,)](
            *pointers, g, out, sums, rows, columns, channels, across, act, alpha, gain, clamp, b is not None,
            x is None, tl.float64 if wide else tl.float32, r, c, steps,
        )  # fmt: skip
    return out, sums.sum([i for i in range(sums.ndim) if i != 1]).to(g.dtype)


def second_gradient(h, g, x, b, dim, act, alpha, gain, clamp) -> torch.Tensor:
    """Return the gradient of ``sum(h * gradient(g, x))`` with respect to x."""
    x = dense(x)
    return _run(SECOND_GRADIENT, x, x, b, dense_like(g, x), dense_like(h, x), False, dim, act, alpha, gain, clamp)


def variants() -> Iterator[tuple[triton.JITFunction, str, dict[str, str], dict[str, object]]]:
    """Yield (kernel, label, argument types, constants) of every variant, for the compile check."""
    smooth = [name for name in ACTIVATIONS if name not in PIECEWISE_LINEAR]
    passes = (
        ("value", VALUE, ACTIVATIONS),
        ("gradient", GRADIENT, ACTIVATIONS),
        ("second gradient", SECOND_GRADIENT, smooth),
    )
    sizes = dict.fromkeys(("numel", "step", "channels"), "i32")
    for code in ("fp32", "fp64", "fp16", "bf16"):
        types = dict.fromkeys(("x", "b", "g", "h", "out"), f"*{code}") | sizes
        for name, mode, acts in passes:
            for act in acts:
                from_output = name == "gradient" and act not in smooth
                constants = {
                    "PASS": mode.value, "ACT": act, "ALPHA": 0.2, "GAIN": 2**0.5, "CLAMP": 256.0,
                    "HAS_BIAS": not from_output, "FROM_OUTPUT": from_output,
                    "ACC": tl.float64 if code == "fp64" else tl.float32, "BLOCK": _block(code),
                }  # fmt: skip
                yield bias_act_kernel, f"bias_act {name} {act} {code}", types, constants
        yield from _sums_variants(code, smooth)


def _sums_variants(code: str, smooth: list[str]) -> Iterator[tuple]:
    types = dict.fromkeys(("x", "b", "g", "out"), f"*{code}") | dict.fromkeys(("rows", "columns", "channels"), "i32")
    wide = code == "fp64"
    types["sums"] = "*fp64" if wide else "*fp32"
    for across, act in ((False, "lrelu"), (True, "lrelu"), (False, "swish"), (True, "swish")):
        r, c, steps = _walk(across, 65536, 128 if across else 65536, _block(code))
        constants = {
            "ACROSS": across, "ACT": act, "ALPHA": 0.2, "GAIN": 2**0.5, "CLAMP": 256.0, "HAS_BIAS": act in smooth,
            "FROM_OUTPUT": act not in smooth, "ACC": tl.float64 if wide else tl.float32,
            "R": r, "C": c, "STEPS": steps,
        }  # fmt: skip
        name = "across" if across else "along"
        yield bias_act_sums_kernel, f"bias_act sums {name} {act} {code}", types, constants
