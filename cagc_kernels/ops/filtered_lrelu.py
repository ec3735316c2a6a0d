"""Filtered leaky ReLU, the activation of StyleGAN3: the public op and its registration with PyTorch.

    v = the up-sampled x + b
    y = the down-sampled clamp(gain · lrelu(v), ±clamp)

``cagc::filtered_lrelu`` is piecewise linear in x. Its gradient ``cagc::filtered_lrelu_gradient`` and its directional
derivative ``cagc::filtered_lrelu_tangent`` are linear in their first argument and each other's gradient, so these three
ops give derivatives of every order. The backward pass up-samples x again to find the slopes. NVlabs' code stores them
instead, two bits for each of ``up²`` values per pixel; up-sampling again costs less than to write and read these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import layout, profiling
from ..arguments import FILTERING_SCHEMA, Filtering
from ..reference import filtered_lrelu as reference
from . import checks
from .dispatch import autocast_dtype, choose, kernels
from .registration import register
from .upfirdn2d import check_filter


def filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor | None = None,
    fd: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 2**0.5,
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    backend: str | None = None,
) -> torch.Tensor:
    """Return a leaky ReLU computed at a higher sampling rate, between two FIR filters (StyleGAN3, section 3.1).

    Equivalent to::

        x = upfirdn2d(bias_act(x, b), fu, up=up, padding=padding, gain=up**2, flip_filter=flip_filter)
        x = bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
        return upfirdn2d(x, fd, down=down, flip_filter=flip_filter)

    Args:
        x: images [N, C, H, W], any floating-point dtype.
        fu, fd: floating-point taps of the up- and the down-sampling filter, [kh, kw], or [k] applied along both axes;
            None is identity.
        b: [C], with the dtype and device of ``x`` (under ``torch.autocast`` any dtype); None adds no bias.
        up, down: integer factors of both axes.
        padding: zeros added around the up-sampled image, in its pixels (negative crops): one number, ``[x, y]`` or
            ``[x0, x1, y0, y1]``.
        gain: factor on the up-sampled values, above 0.
        slope: of the leaky ReLU below zero, at least 0.
        clamp: bound of the absolute value after the leaky ReLU, at least 0; None does not clamp.
        flip_filter: True correlates with the taps; False convolves, which mirrors them.
        backend: "reference", "native", "triton", or None to choose.

    Returns:
        [N, C, H', W'] in the dtype of ``x``, with H' = (H·up + y0 + y1 − (kh of fu − 1) − kh of fd) // down + 1, and W'
        alike.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape, dtype, device or value, or a filter is larger than
            the image under it. Raised before any work, naming the argument.

    Differentiable in ``x`` and ``b`` any number of times; where the activation equals ±clamp the derivative is zero.
    Only the reference computes the gradient in a filter: it runs if one requires it, and a kernel named in ``backend``
    raises. The kernels sum in float32 (float64 for float64 ``x``) and round once; the reference rounds at each step.
    """
    if isinstance(b, torch.Tensor) and autocast_dtype(x) is not None:
        b = b.to(x.dtype)
    filtering = _gather(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter)
    if profiling.active:
        return profiling.ranged(f"filtered_lrelu up={up} down={down}", _filtered_lrelu, x, b, filtering, backend)
    return _filtered_lrelu(x, b, filtering, backend)


def _gather(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter) -> Filtering:
    checks.tensor("x", x, 4, "[N, C, H, W]")
    check_filter("fu", fu, x)
    check_filter("fd", fd, x)
    if b is not None:
        checks.tensor("b", b, 1, "[C]")
        checks.like("b", b, "x", x)
        checks.shape("b", b, x.shape[1:2], "the channels of x")
    (up,), (down,) = checks.integers("up", up, (), 1), checks.integers("down", down, (), 1)
    padding = checks.margins("padding", padding)
    gain, slope = checks.number("gain", gain, 0, optional=False), checks.number("slope", slope, 0, optional=False)
    if not 0 < gain < float("inf"):
        raise ValueError(f"gain: got {gain}, expected a finite number above 0")
    clamp = checks.number("clamp", clamp, 0)
    checks.flag("flip_filter", flip_filter)
    filtering = Filtering(fu, fd, up, down, padding, gain, slope, -1.0 if clamp is None else clamp, flip_filter)
    _check_size(x, filtering)
    return filtering


def _check_size(x: torch.Tensor, filtering: Filtering) -> None:
    upsampling, downsampling = filtering.upsampling, filtering.downsampling
    height, width = upsampling.padded_size(x)
    (fu_h, fu_w), (fd_h, fd_w) = upsampling.filter_size, downsampling.filter_size
    if height - fu_h + 1 < fd_h or width - fu_w + 1 < fd_w or height < fu_h or width < fu_w:
        raise ValueError(
            f"padding: leaves {height} x {width} pixels of the up-sampled x, expected at least "
            f"{fu_h + fd_h - 1} x {fu_w + fd_w - 1} for fu and fd together"
        )
    checks.addressable("up, padding", *x.shape[:2], height, width)


def _filtered_lrelu(x, b, filtering: Filtering, backend: str | None) -> torch.Tensor:
    chosen = choose("filtered_lrelu", backend, x)
    if chosen != "reference" and torch.is_grad_enabled():
        for name, f in (("fu", filtering.up_filter), ("fd", filtering.down_filter)):
            if f is None or not f.requires_grad:
                continue
            if backend is not None:
                raise ValueError(
                    f"{name}: requires a gradient, which {chosen!r} does not compute; expected backend='reference'"
                )
            chosen = "reference"
    if chosen == "reference":
        return reference.filtered_lrelu(x, b, filtering)
    return _value(x, filtering.up_filter, filtering.down_filter, b, *filtering.numbers, chosen)


# Order of the schemas' arguments: the tensors, the numbers of a Filtering, the backend.


def _run_value(x, fu, fd, b, *numbers_backend):
    *numbers, backend = numbers_backend
    return kernels("filtered_lrelu", backend).value(x, b, Filtering.of_numbers(fu, fd, *numbers))


def _run_tangent(h, x, fu, fd, b, *numbers_backend):
    *numbers, backend = numbers_backend
    return kernels("filtered_lrelu", backend).tangent(h, x, b, Filtering.of_numbers(fu, fd, *numbers))


def _run_gradient(g, x, fu, fd, b, *numbers_backend):
    *numbers, backend = numbers_backend
    return kernels("filtered_lrelu", backend).gradient(g, x, b, Filtering.of_numbers(fu, fd, *numbers))


def _fake_value(x, fu, fd, b, *numbers_backend):
    return layout.empty_images(x, *Filtering.of_numbers(fu, fd, *numbers_backend[:-1]).output_size(x))


def _fake_tangent(h, x, fu, fd, b, *numbers_backend):
    return _fake_value(h, fu, fd, b, *numbers_backend)


def _fake_gradient(g, x, *_):
    return layout.empty_images(g, *x.shape[2:])


def _save_value(ctx, inputs, output) -> None:
    x, fu, fd, b, *ctx.options = inputs
    ctx.save_for_backward(x, fu, fd, b)


def _backward_value(ctx, g):
    dx = _gradient(g, *ctx.saved_tensors, *ctx.options)
    db = dx.sum((0, 2, 3)) if ctx.needs_input_grad[3] else None
    return dx, None, None, db, *[None] * len(ctx.options)


def _save_linear(ctx, inputs, output) -> None:
    _, *tensors, ctx.options = *inputs[:5], inputs[5:]
    ctx.save_for_backward(*tensors)


def _backward_tangent(ctx, g):
    return _gradient(g, *ctx.saved_tensors, *ctx.options), *[None] * (4 + len(ctx.options))


def _backward_gradient(ctx, h):
    return _tangent(h, *ctx.saved_tensors, *ctx.options), *[None] * (4 + len(ctx.options))


_TENSORS = "Tensor x, Tensor? fu, Tensor? fd, Tensor? b"
_value = register(
    f"filtered_lrelu({_TENSORS}, {FILTERING_SCHEMA}, str backend) -> Tensor",
    _run_value, _fake_value, _save_value, _backward_value,
)  # fmt: skip
_tangent = register(
    f"filtered_lrelu_tangent(Tensor h, {_TENSORS}, {FILTERING_SCHEMA}, str backend) -> Tensor",
    _run_tangent, _fake_tangent, _save_linear, _backward_tangent,
)  # fmt: skip
_gradient = register(
    f"filtered_lrelu_gradient(Tensor g, {_TENSORS}, {FILTERING_SCHEMA}, str backend) -> Tensor",
    _run_gradient, _fake_gradient, _save_linear, _backward_gradient,
)  # fmt: skip
