"""Up-sampling, FIR filtering and down-sampling of image batches: the public ops and their registration with PyTorch.

The gradient of ``cagc::upfirdn2d`` is the same op with ``up`` and ``down`` exchanged and the filter mirrored, so one
registration gives derivatives of every order.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch

from .. import layout, profiling
from ..arguments import RESAMPLING_SCHEMA, Resampling
from ..reference import upfirdn2d as reference
from . import checks
from .dispatch import KERNEL, choose, kernels, route, usual
from .registration import register


def setup_filter(
    f: torch.Tensor | Sequence | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Return FIR taps in the form that :func:`upfirdn2d` takes.

    Args:
        f: taps as a number, a vector [k] or a matrix [kh, kw] (tensor, nested sequence), or None for identity.
        device: device of the result.
        normalize: divide the taps by their sum, so that a constant image keeps its value.
        flip_filter: mirror the taps.
        gain: factor on the result, at least 0; a separable filter applies its square root on each axis.
        separable: True keeps a vector, False makes it a matrix (its outer product); None keeps a vector of 8 or more
            taps.

    Returns:
        float32 taps, [kh, kw] or, when separable, [k].

    Raises:
        TypeError: ``f`` is not an array of numbers, or another argument has a wrong type.
        ValueError: ``f`` has more than two dimensions or no taps, the taps sum to zero or a non-finite value with
            ``normalize``, ``f`` is a matrix with ``separable=True``, ``gain`` is negative, or the device is unknown.
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
    """Check that ``f`` is None or taps [k] or [kh, kw] on the device of ``x``."""
    if f is None:
        return
    checks.tensor(name, f)
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"{name}: got shape {list(f.shape)}, expected [k] or [kh, kw] with at least one tap")
    if f.device != x.device:
        raise ValueError(f"{name}: is on {f.device}, expected {x.device} as x")


def _gather(x, f, up, down, padding, flip_filter, gain) -> Resampling:
    """Check the arguments that all ops of this module share and return them as a Resampling."""
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
        f: floating-point taps [kh, kw], or [k] applied along both axes, from :func:`setup_filter`; None is identity.
        up, down: one factor, or ``[x, y]``.
        padding: zeros added around the up-sampled image, in pixels (negative crops): one number, ``[x, y]`` or
            ``[x0, x1, y0, y1]``.
        flip_filter: True correlates with ``f``; False convolves, which mirrors it.
        gain: factor on the result.
        backend: "reference", "native", "triton", or None to choose.

    Returns:
        [N, C, (H·up_y + y0 + y1 − kh) // down_y + 1, (W·up_x + x0 + x1 − kw) // down_x + 1], dtype of ``x``.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape, dtype, device or value, or the padded image is
            smaller than the filter. Raised before any work, naming the argument.

    Differentiable in ``x`` any number of times; the gradient is the same op with ``up`` and ``down`` exchanged. Only
    the reference computes the gradient in ``f``: it runs if ``f`` requires one, and a kernel named in ``backend``
    raises. The kernels keep channels_last, take taps in float32 (float64 for float64 ``x``) and round the result once;
    the reference rounds taps and sums to the dtype of ``x``.
    """
    y = _at_once(x, f, up, down, padding, flip_filter, gain, backend)
    return _checked(x, _gather(x, f, up, down, padding, flip_filter, gain), backend) if y is None else y


def _at_once(x, f, up, down, padding, flip_filter, gain, backend) -> torch.Tensor | None:
    run = None if profiling.active else usual("upfirdn2d", backend, x)
    return None if run is None else run(x, f, up, down, padding, flip_filter, gain)


def resample(x: torch.Tensor, resampling: Resampling, backend: str | None) -> torch.Tensor:
    """Run :func:`upfirdn2d` on arguments that are already checked."""
    y = _at_once(x, *resampling, backend)
    return _checked(x, resampling, backend) if y is None else y


def _checked(x: torch.Tensor, resampling: Resampling, backend: str | None) -> torch.Tensor:
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
    """Filter ``x`` [N, C, H, W] with ``f``; with ``padding=0`` the size stays.

    ``padding`` is added to the padding that keeps the size. Other arguments and errors as in :func:`upfirdn2d`.
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
    """Up-sample ``x`` [N, C, H, W] to [N, C, H·up, W·up], interpolating with ``f``; a constant image keeps its value.

    Arguments and errors as in :func:`upfirdn2d`; ``padding`` counts pixels of the output.
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
    """Filter ``x`` [N, C, H, W] with the low-pass ``f`` and keep every ``down``-th pixel: [N, C, H // down, W // down].

    Arguments and errors as in :func:`upfirdn2d`; ``padding`` counts pixels of the input.
    """
    resampling = _gather(x, f, 1, down, padding, flip_filter, gain)
    (fh, fw), (down_x, down_y), (x0, x1, y0, y1) = resampling.filter_size, resampling.down, resampling.padding
    x0, x1 = x0 + (fw - down_x + 1) // 2, x1 + (fw - down_x) // 2
    y0, y1 = y0 + (fh - down_y + 1) // 2, y1 + (fh - down_y) // 2
    return resample(x, resampling._replace(padding=(x0, x1, y0, y1)), backend)


# Order of the schema's arguments: the tensors, the numbers of a Resampling, the backend.


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
    """Apply the transposed linear map: add each output's gradient to the pixels that it was computed from."""
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
    """Call the registered op with the given ``backend``, without checks."""
    if route((x, resampling.filter)) == KERNEL:
        return kernels("upfirdn2d", backend).upfirdn2d(x, resampling)
    return _call(x, resampling.filter, *resampling.numbers, backend)
