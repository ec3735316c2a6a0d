"""Up-sampling, FIR filtering and down-sampling of image batches: the public ops, their registration with PyTorch.

``cagc::upfirdn2d`` is its own derivative, with ``up`` and ``down`` exchanged and the filter mirrored, so one
registration serves every order.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch

from .. import layout, profiling
from ..arguments import RESAMPLING_SCHEMA, Resampling
from ..reference import upfirdn2d as reference
from . import checks
from .dispatch import choose, kernels
from .registration import register


def setup_filter(
    f: torch.Tensor | Sequence | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Prepare FIR taps for :func:`upfirdn2d`.

    Args:
        f: taps as a number, a vector [k] or a matrix [kh, kw] (tensor, nested sequence), or None for identity.
        device: where the result lives.
        normalize: divide by the sum of the taps, so that a constant image stays as it is.
        flip_filter: mirror the taps.
        gain: total signal gain; a separable filter gets the square root of it on each axis.
        separable: keep a vector as it is. Default: a vector of 8 or more taps stays, a shorter one becomes its
            outer product.

    Returns:
        float32 taps, [kh, kw] or, when separable, [k].

    Raises:
        TypeError, ValueError: what is no array of numbers, more than two dimensions, no taps, taps that sum to zero or
            to no number with ``normalize``, a matrix with ``separable=True``; an argument of another type.
    """
    for name, value in (("normalize", normalize), ("flip_filter", flip_filter), ("separable", separable or False)):
        checks.flag(name, value)
    if checks.number("gain", gain, optional=False) < 0:
        raise ValueError(f"gain: got {gain}, expected at least 0")
    try:
        place = torch.device(device)
    except (TypeError, RuntimeError):
        raise ValueError(f"device: got {device!r}, expected a device of PyTorch") from None
    try:
        taps = reference.as_taps(f)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"f: got {type(f).__name__}, expected a number, [k] or [kh, kw] of real numbers") from error
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"f: got shape {list(taps.shape)}, expected a number, [k] or [kh, kw] with at least one tap")
    if separable and taps.ndim == 2:
        raise ValueError(f"f: got shape {list(taps.shape)}, expected [k] with separable=True")
    if normalize and not 0 < taps.sum().abs() < inf:
        raise ValueError(f"f: the taps sum to {taps.sum():g}, expected another sum with normalize=True")
    return reference.setup_filter(f, place, normalize, flip_filter, gain, separable)


def check_filter(name: str, f: torch.Tensor | None, x: torch.Tensor) -> None:
    """``f`` is a filter as :func:`setup_filter` makes it, on the device of ``x``, or None."""
    if f is None:
        return
    checks.tensor(name, f)
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"{name}: got shape {list(f.shape)}, expected [k] or [kh, kw] with at least one tap")
    if f.device != x.device:
        raise ValueError(f"{name}: is on {f.device}, expected {x.device} as x")


def _gather(x, f, up, down, padding, flip_filter, gain) -> Resampling:
    """The checked arguments of any function here."""
    checks.tensor("x", x, 4, "[N, C, H, W]")
    up, down = checks.pair("up", up), checks.pair("down", down)
    padding = checks.margins("padding", padding)
    checks.flag("flip_filter", flip_filter)
    gain = checks.number("gain", gain, optional=False)
    check_filter("f", f, x)
    return Resampling(f, up, down, padding, flip_filter, gain)


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    backend: str | None = None,
) -> torch.Tensor:
    """Insert ``up - 1`` zeros after each pixel, pad, filter, keep every ``down``-th pixel (StyleGAN2, appendix B).

    Args:
        x: images [N, C, H, W], any floating-point dtype.
        f: floating-point taps [kh, kw], or [k] for both axes in turn, from :func:`setup_filter`; None is identity.
        up, down: one factor, or ``[x, y]``.
        padding: pixels of the up-sampled image added (cropped where negative): one number, ``[x, y]`` or
            ``[x0, x1, y0, y1]``.
        flip_filter: correlate with ``f`` as it stands; by default it is mirrored, a true convolution.
        gain: factor on the result.
        backend: "reference", "native", "triton", or None to choose.

    Returns:
        [N, C, (H·up_y + y0 + y1 − kh) // down_y + 1, (W·up_x + x0 + x1 − kw) // down_x + 1], dtype of ``x``.

    Raises:
        TypeError, ValueError: before any work, naming the argument.

    Differentiable in ``x`` any number of times; the gradient is the same op with ``up`` and ``down`` exchanged. No
    kernel computes the gradient in ``f``: where ``f`` asks for one, the reference runs, and naming a kernel raises.
    The kernels keep channels_last, take taps in float32 (float64 for float64 ``x``) and round the result once; the
    reference rounds taps and sums to the dtype of ``x``.
    """
    return resample(x, _gather(x, f, up, down, padding, flip_filter, gain), backend)


def resample(x: torch.Tensor, resampling: Resampling, backend: str | None) -> torch.Tensor:
    """:func:`upfirdn2d` on gathered arguments."""
    if profiling.active:
        label = f"upfirdn2d up={resampling.up[0]} down={resampling.down[0]}"
        return profiling.ranged(label, _resample, x, resampling, backend)
    return _resample(x, resampling, backend)


def _resample(x: torch.Tensor, resampling: Resampling, backend: str | None) -> torch.Tensor:
    _check_size(x, resampling)
    chosen = choose("upfirdn2d", backend, x)
    f = resampling.filter
    if chosen != "reference" and f is not None and f.requires_grad and torch.is_grad_enabled():
        if backend is not None:
            raise ValueError(f"f: requires a gradient, which {chosen!r} does not compute; expected backend='reference'")
        chosen = "reference"
    if chosen == "reference":
        return reference.upfirdn2d(x, *resampling)
    return call(x, resampling, chosen)


def _check_size(x: torch.Tensor, resampling: Resampling) -> None:
    (height, width), (fh, fw) = resampling.padded_size(x), resampling.filter_size
    if width < fw or height < fh:
        raise ValueError(
            f"padding: leaves {height} x {width} pixels of the up-sampled x, expected at least the {fh} x {fw} of f"
        )
    checks.addressable("up, padding", *x.shape[:2], height, width)


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    backend: str | None = None,
) -> torch.Tensor:
    """Filter [N, C, H, W] with ``f`` at the same size; ``padding`` is added to the one that keeps the size.

    Arguments and errors as :func:`upfirdn2d`.
    """
    resampling = _gather(x, f, 1, 1, padding, flip_filter, gain)
    (fh, fw), (x0, x1, y0, y1) = resampling.filter_size, resampling.padding
    margins = x0 + fw // 2, x1 + (fw - 1) // 2, y0 + fh // 2, y1 + (fh - 1) // 2
    return resample(x, resampling._replace(padding=margins), backend)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    backend: str | None = None,
) -> torch.Tensor:
    """Up-sample [N, C, H, W] to [N, C, H·up, W·up], interpolating with ``f``; a constant keeps its value.

    Arguments and errors as :func:`upfirdn2d`; ``padding`` is that of the output.
    """
    resampling = _gather(x, f, up, 1, padding, flip_filter, gain)
    (fh, fw), (up_x, up_y), (x0, x1, y0, y1) = resampling.filter_size, resampling.up, resampling.padding
    margins = x0 + (fw + up_x - 1) // 2, x1 + (fw - up_x) // 2, y0 + (fh + up_y - 1) // 2, y1 + (fh - up_y) // 2
    return resample(x, resampling._replace(padding=margins, gain=resampling.gain * up_x * up_y), backend)


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    backend: str | None = None,
) -> torch.Tensor:
    """Down-sample [N, C, H, W] by ``down`` behind the low-pass ``f``.

    Arguments and errors as :func:`upfirdn2d`; ``padding`` is that of the input.
    """
    resampling = _gather(x, f, 1, down, padding, flip_filter, gain)
    (fh, fw), (down_x, down_y), (x0, x1, y0, y1) = resampling.filter_size, resampling.down, resampling.padding
    x0, x1 = x0 + (fw - down_x + 1) // 2, x1 + (fw - down_x) // 2
    y0, y1 = y0 + (fh - down_y + 1) // 2, y1 + (fh - down_y) // 2
    return resample(x, resampling._replace(padding=(x0, x1, y0, y1)), backend)


# At the schema boundary: the tensors, then the numbers of a Resampling, then the backend.


def _run(x, f, *numbers_backend):
    *numbers, backend = numbers_backend
    return kernels("upfirdn2d", backend).upfirdn2d(x, Resampling.of_numbers(f, *numbers))


def _fake(x, f, *numbers_backend):
    return layout.empty_images(x, *Resampling.of_numbers(f, *numbers_backend[:-1]).output_size(x))


def _save(ctx, inputs, output) -> None:
    x, f, *numbers, ctx.backend = inputs
    ctx.numbers = numbers
    ctx.save_for_backward(f)
    ctx.input_size, ctx.output_size = x.shape[2:], output.shape[2:]


def _backward(ctx, g):
    """The transpose: what each output read, it now gives back."""
    (f,) = ctx.saved_tensors
    forward = Resampling.of_numbers(f, *ctx.numbers)
    (up_x, up_y), (down_x, down_y), (x0, _, y0, _) = forward.up, forward.down, forward.padding
    (in_h, in_w), (out_h, out_w), (fh, fw) = ctx.input_size, ctx.output_size, forward.filter_size
    padding = (
        fw - x0 - 1, in_w * up_x - out_w * down_x + x0 - up_x + 1,
        fh - y0 - 1, in_h * up_y - out_h * down_y + y0 - up_y + 1,
    )  # fmt: skip
    transpose = Resampling(f, forward.down, forward.up, padding, not forward.flip_filter, forward.gain)
    return call(g, transpose, ctx.backend), *[None] * 12


_call = register(
    f"upfirdn2d(Tensor x, Tensor? f, {RESAMPLING_SCHEMA}, str backend) -> Tensor", _run, _fake, _save, _backward
)


def call(x: torch.Tensor, resampling: Resampling, backend: str) -> torch.Tensor:
    """The registered op by a chosen ``backend``, without checks."""
    return _call(x, resampling.filter, *resampling.numbers, backend)
