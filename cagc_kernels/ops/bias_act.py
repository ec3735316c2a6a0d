"""Bias, activation, gain and clamp in one pass: the public op, its registration with PyTorch, its derivatives.

Three ops are registered with fake kernels and autograd, so that ``torch.compile`` sees each as one node:
``cagc::bias_act``, ``cagc::bias_act_gradient`` and ``cagc::bias_act_second_gradient``. R1 and path-length penalties
need the second gradient; derivatives beyond it differentiate the reference formula.
"""

from __future__ import annotations

import torch

from .. import profiling
from ..arguments import ACTIVATION_SCHEMA, activation
from ..layout import dense
from ..reference import bias_act as reference
from ..reference.bias_act import ACTIVATIONS, PIECEWISE_LINEAR
from . import checks
from .dispatch import autocast_dtype, choose, is_plain, kernels, usual
from .registration import register


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Return ``clamp(gain · act(x + b), ±clamp)``, with the bias added along axis ``dim``.

    Equivalent to::

        y = act(x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])) * gain
        y = y if clamp is None else y.clamp(-clamp, clamp)

    Args:
        x: any shape, float16, bfloat16, float32 or float64; any strides, channels_last is kept.
        b: [x.shape[dim]], with the dtype and device of ``x`` (under ``torch.autocast`` any dtype); None adds no bias.
        dim: axis of ``x`` that ``b`` runs along; may be negative.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: negative slope of lrelu, by default 0.2; the other activations ignore it.
        gain: by default √2 for relu, lrelu and swish, 1 for the others.
        clamp: bound of the absolute value of the result, at least 0; None does not clamp.
        backend: "reference", "native", "triton", or None to choose. Only the reference computes linear, relu and lrelu
            with ``gain <= 0``, and lrelu with a negative ``alpha``: None falls back to it, and a kernel named here
            raises.

    Returns:
        A tensor with the shape and dtype of ``x``, and with its strides if ``x`` is dense.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape, dtype, device or value, or ``backend`` cannot
            compute the call. Raised before any work, naming the argument.

    The kernels compute half precision in float32 and round once; the reference rounds at each step. Differentiable
    in x and b any number of times. At a kink the derivative is that of PyTorch's activations; where the result equals
    ±clamp it is zero. For linear, relu and lrelu only the output is kept for the backward pass.
    """
    if profiling.active:
        return profiling.ranged(f"bias_act {act}", _bias_act, x, b, dim, act, alpha, gain, clamp, backend)
    return _bias_act(x, b, dim, act, alpha, gain, clamp, backend)


def _bias_act(x, b, dim, act, alpha, gain, clamp, backend) -> torch.Tensor:
    run = usual("bias_act", backend, x)
    y = None if run is None else run(x, b, dim, act, alpha, gain, clamp)
    if y is not None:
        return y
    if isinstance(b, torch.Tensor) and autocast_dtype(x) is not None:
        b = b.to(x.dtype)
    _check(x, b, dim, act, alpha, gain, clamp)
    chosen = choose("bias_act", backend, x)
    if chosen == "reference":
        return reference.bias_act(x, b, dim, act, alpha, gain, clamp)
    act, alpha, gain, clamp = activation(act, alpha, gain, clamp)
    if not sign_is_kept(act, alpha, gain):  # no generator does this; the reference computes it
        if backend is not None:
            name, got = ("gain", gain) if gain <= 0 else ("alpha", alpha)
            raise ValueError(f"{name}: got {got}, which {chosen!r} does not compute; expected backend='reference'")
        return reference.bias_act(x, b, dim, act, alpha, gain, None if clamp < 0 else clamp)
    dim = dim % x.ndim if x.ndim else 0
    return _value(x, b, dim, act, alpha, gain, clamp, chosen)


def sign_is_kept(act: str, alpha: float, gain: float) -> bool:
    """Whether the kernels can differentiate: for linear, relu and lrelu the output must have the sign of ``x + b``."""
    return act not in PIECEWISE_LINEAR or (gain > 0 and not (act == "lrelu" and alpha < 0))


def fused_leaky_relu(
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    negative_slope: float = 0.2,
    scale: float = 2**0.5,
    backend: str | None = None,
) -> torch.Tensor:
    """Return ``scale · leaky_relu(x + bias, negative_slope)`` with ``bias`` [C] along axis 1 of ``x`` [N, C, ...].

    The name and argument order are those of rosinality's StyleGAN2; dtypes, result and errors are those of
    :func:`bias_act`.
    """
    return bias_act(x, bias, 1, "lrelu", negative_slope, scale, backend=backend)


def _check(x, b, dim, act, alpha, gain, clamp) -> None:
    checks.tensor("x", x)
    checks.choice("act", act, ACTIVATIONS)
    checks.number("alpha", alpha)
    checks.number("gain", gain)
    checks.number("clamp", clamp, 0)
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"dim: got {type(dim).__name__}, expected an integer")
    if b is None:
        return
    checks.tensor("b", b, 1, "[C]")
    checks.like("b", b, "x", x)
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim: got {dim}, expected an axis of x, which has {x.ndim}")
    if b.shape[0] != x.shape[dim]:
        raise ValueError(f"b: got shape {list(b.shape)}, expected [{x.shape[dim]}] as axis {dim} of x")


# The functions below end with the arguments (dim, act, alpha, gain, clamp, backend); clamp < 0 means no clamp.


def _run_value(x, b, dim, act, alpha, gain, clamp, backend):
    return kernels("bias_act", backend).value(x, b, dim, act, alpha, gain, clamp)


def _run_gradient(g, x, b, y, dim, act, alpha, gain, clamp, backend):
    return kernels("bias_act", backend).gradient(g, x, b, y, dim, act, alpha, gain, clamp)


def _run_second_gradient(h, g, x, b, dim, act, alpha, gain, clamp, backend):
    return kernels("bias_act", backend).second_gradient(h, g, x, b, dim, act, alpha, gain, clamp)


def _bias_gradient(dx: torch.Tensor, dim: int) -> torch.Tensor:
    return dx.sum([i for i in range(dx.ndim) if i != dim]) if dx.ndim > 1 else dx


def _is_last(g, saved) -> bool:
    """Whether this gradient will not be differentiated and all its tensors are plain ones with elements."""
    plain = not torch.is_grad_enabled() and is_plain([g, *(t for t in saved if t is not None)])
    return plain and g.ndim > 1 and g.numel() > 0


def _save_value(ctx, inputs, output) -> None:
    x, b, *ctx.options = inputs
    _, act, _, _, clamp, _ = ctx.options
    if act not in PIECEWISE_LINEAR:
        ctx.save_for_backward(x, b, None)
    elif act == "linear":  # its gradient depends on no input; detached, so that a second gradient is None, not zeros
        ctx.save_for_backward(None, None, None if clamp < 0 else output.detach())
    else:
        ctx.save_for_backward(None, None, output)


def _backward_value(ctx, g):
    *options, backend = ctx.options
    if ctx.needs_input_grad[1] and _is_last(g, ctx.saved_tensors):
        return *kernels("bias_act", backend).gradient_and_sums(g, *ctx.saved_tensors, *options), *[None] * 6
    dx = _gradient(g, *ctx.saved_tensors, *ctx.options)
    db = _bias_gradient(dx, ctx.options[0]) if ctx.needs_input_grad[1] else None
    return dx, db, *[None] * 6


def _save_gradient(ctx, inputs, output) -> None:
    g, x, b, y, *ctx.options = inputs
    ctx.save_for_backward(g, x, b, y)


def _backward_gradient(ctx, h):
    g, x, b, y = ctx.saved_tensors
    dg = _gradient(h, x, b, y, *ctx.options) if ctx.needs_input_grad[0] else None
    dx = db = None
    if x is not None and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
        dx = _second_gradient(h, g, x, b, *ctx.options)
        db = _bias_gradient(dx, ctx.options[0]) if ctx.needs_input_grad[2] else None
    # The gradient depends on y only through its sign, so y has no gradient.
    return dg, dx, db, *[None] * 7


def _save_second_gradient(ctx, inputs, output) -> None:
    h, g, x, b, *ctx.options = inputs
    ctx.save_for_backward(h, g, x, b)


def _backward_second_gradient(ctx, k):
    """Third derivatives by the reference: no training needs them, so they have no kernel of their own."""
    dim, act, alpha, gain, clamp, _ = ctx.options
    with torch.enable_grad():
        # Views: if one saved tensor was computed from another, autograd must not follow that path as well.
        inputs = [t if t is None else t.view_as(t) for t in ctx.saved_tensors]
        inputs = [t if t is None or t.requires_grad else t.requires_grad_() for t in inputs]
        h, g, x, b = inputs
        y = reference.bias_act(x, b, dim, act, alpha, gain, None if clamp < 0 else clamp)
        (dx,) = torch.autograd.grad(y, x, g, create_graph=True)
        (d2x,) = torch.autograd.grad(dx, x, h, create_graph=True)
        wanted = [t for t, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
        found = iter(torch.autograd.grad(d2x, wanted, k, create_graph=True, allow_unused=True))
    return *(next(found) if needed else None for needed in ctx.needs_input_grad[:4]), *[None] * 6


def _fake(lead: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(dense(lead))


_OPTIONS = f"int dim, {ACTIVATION_SCHEMA}, str backend"
_value = register(
    f"bias_act(Tensor x, Tensor? b, {_OPTIONS}) -> Tensor",
    _run_value, lambda x, *_: _fake(x), _save_value, _backward_value,
)  # fmt: skip
_gradient = register(
    f"bias_act_gradient(Tensor g, Tensor? x, Tensor? b, Tensor? y, {_OPTIONS}) -> Tensor",
    _run_gradient, lambda g, *_: _fake(g), _save_gradient, _backward_gradient,
)  # fmt: skip
_second_gradient = register(
    f"bias_act_second_gradient(Tensor h, Tensor g, Tensor x, Tensor? b, {_OPTIONS}) -> Tensor",
    _run_second_gradient, lambda h, g, x, *_: _fake(x), _save_second_gradient, _backward_second_gradient,
)  # fmt: skip
