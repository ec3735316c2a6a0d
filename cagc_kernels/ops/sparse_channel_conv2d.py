"""Convolution over chosen channels of a full weight: the public op, its registration with PyTorch, its derivatives.

``cagc::sparse_channel_conv2d`` inserts up - 1 zeros between the pixels of ``x`` and correlates the result with the
chosen block of the weight; an up-sampling layer adds one FIR filter.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch.utils.weak import WeakIdKeyDictionary

from .. import layout, profiling
from ..arguments import HALF, Epilogue, Resampling
from ..convolution import gather, is_empty, operands, scattered, sparse_output
from ..reference import sparse_channel_conv2d as reference
from . import checks
from .composed import composed
from .dispatch import choose, is_plain, kernels, outside_autocast, usual
from .registration import register
from .upfirdn2d import check_filter, resample


def sparse_channel_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    in_channels: torch.Tensor,
    out_channels: torch.Tensor,
    styles: torch.Tensor | None = None,
    demodulate: bool = True,
    padding: int | None = None,
    flip_weight: bool = True,
    scatter: bool = False,
    up: int = 1,
    resample_filter: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Convolve, modulated if ``styles`` is given, with ``weight[out_channels][:, in_channels]`` of a full weight.

    Equivalent to::

        w = weight[out_channels][:, in_channels]
        y = modulated_conv2d(x, w, styles, None, up, 1, padding, resample_filter, demodulate, flip_weight)
        y = zeros(N, O, H', W').index_copy(1, out_channels, y)      # with scatter

    but without the tensor ``w``: the kernels read the full weight through the index vectors and pack the filters of a
    few output channels at a time into a panel that stays in the cache. The reference gathers ``w``. Below about 16 px
    the time of reading weights dominates, and slicing the block beforehand is faster (benchmarks/bench_sparse.py).

    Args:
        x: [N, I', H, W], the chosen input channels only.
        weight: [O, I, k, k], the full weight, any strides; dtype of ``x``, or float32 if ``x`` is half precision.
        in_channels: [I'] int64 indices of inputs of ``weight``, strictly ascending, at least one.
        out_channels: [O'] int64 indices of outputs of ``weight``, strictly ascending, at least one.
        styles: [N, I'] factors of the channels of ``x``, with a dtype that ``weight`` may have; None convolves without
            modulation or demodulation.
        demodulate: normalise each filter of each sample to unit energy over the chosen inputs.
        padding: zeros around ``x``, at the up-sampled resolution; by default k // 2.
        flip_weight: correlate (as ``torch.nn.Conv2d``); False mirrors the kernel.
        scatter: return all O channels: the outputs at ``out_channels``, zeros elsewhere.
        up, resample_filter: up-sampling as in :func:`cagc_kernels.modulated_conv2d`.
        backend: "reference", "native", "triton", or None to choose.

    Returns:
        [N, O', H', W'], with ``scatter`` [N, O, H', W'], in the dtype of ``x``; channels_last if ``x`` is.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape, dtype, device or value. Raised before any work,
            naming the argument. The values of an index tensor are checked once per version of it (on a GPU the first
            call synchronises), and under ``torch.compile`` only when the kernel runs. The op reads a copy of the
            checked values: on a GPU a later write through ``.data`` is not seen.

    Differentiable any number of times in x, weight and styles. The backward pass of the kernels is PyTorch's
    convolution over the gathered block, in float32 for half precision; only the gradient of ``weight`` has full width.
    Under ``torch.autocast`` x is cast to its dtype and the other tensors to float32.
    """
    arguments = (
        weight, in_channels, out_channels, styles, demodulate, padding, flip_weight, scatter, up, resample_filter,
        backend,
    )  # fmt: skip
    if profiling.active:
        return profiling.ranged(f"sparse_channel_conv2d up={up}", _sparse_channel_conv2d, x, *arguments)
    return _sparse_channel_conv2d(x, *arguments)


@outside_autocast
def _sparse_channel_conv2d(
    x, weight, in_channels, out_channels, styles, demodulate, padding, flip_weight, scatter, up, resample_filter,
    backend,
) -> torch.Tensor:  # fmt: skip
    run = usual("sparse_channel_conv2d", backend, x)
    if run is not None and type(up) is int and up == 1 and scatter is False and resample_filter is None:
        known = _known_copies(x, weight, in_channels, out_channels)
        y = None if known is None else run(x, weight, *known, styles, demodulate, padding, flip_weight)
        if y is not None:
            return y
    for name, value in (("demodulate", demodulate), ("flip_weight", flip_weight), ("scatter", scatter)):
        checks.flag(name, value)
    resampling = _gather(x, weight, in_channels, out_channels, styles, padding, up, resample_filter)
    if is_plain([in_channels, out_channels]):
        in_channels, out_channels = _checked_copies(in_channels, out_channels, weight)
    chosen = choose("sparse_channel_conv2d", backend, x)
    if chosen == "reference" or is_empty(x, weight):
        return reference.layer(
            x, weight, in_channels, out_channels, styles, demodulate, flip_weight, scatter, resampling
        )
    demodulate = demodulate and styles is not None
    if kernels("sparse_channel_conv2d", chosen).composed_because(weight):
        kept = gather(weight, in_channels, out_channels)
        factors = x.new_ones(x.shape[:2]) if styles is None else styles
        modulate = styles is not None
        y = composed(x, kept, factors, demodulate, modulate, flip_weight, resampling, Epilogue(), chosen)
        return scattered(y, out_channels, weight.shape[0]) if scatter else y
    return _by_kernel(
        (x, weight, in_channels, out_channels, styles), demodulate, flip_weight, scatter, resampling, chosen, backend
    )


def _by_kernel(tensors, demodulate, flip_weight, scatter, resampling, chosen, backend) -> torch.Tensor:
    (x, weight, _, out_channels, _), k = tensors, tensors[1].shape[-1]
    (up, _), (padding, *_), f = resampling.up, resampling.padding, resampling.filter
    if up == 1:
        return _call(*tensors, demodulate, flip_weight, padding, 1, scatter, chosen)
    # The same margins as modulated_conv2d: the filter's reach beyond the image, plus the padding.
    y1, x1 = (padding + (size - up) // 2 for size in resampling.filter_size)
    y0, x0 = (padding + (size + up - 1) // 2 for size in resampling.filter_size)
    same, gain = backend and chosen, float(up**2)
    if min(x0, y0) >= k - 1 and min(x1, y1) >= k - up:
        y = _call(*tensors, demodulate, flip_weight, k - 1, up, False, chosen)
        margins = x0 - k + 1, x1 - k + up, y0 - k + 1, y1 - k + up
        y = resample(y, Resampling(f, padding=margins, gain=gain), same)
    else:
        x = resample(x, Resampling(f, (up, up), padding=(x0, x1, y0, y1), gain=gain), same)
        y = _call(x, *tensors[1:], demodulate, flip_weight, 0, 1, False, chosen)
    return scattered(y, out_channels, weight.shape[0]) if scatter else y


def _gather(x, weight, in_channels, out_channels, styles, padding, up, resample_filter) -> Resampling:
    """Check all arguments but the flags and return the resampling."""
    checks.tensor("x", x, 4, "[N, I', H, W]")
    checks.tensor("weight", weight, 4, "[O, I, k, k]")
    checks.like("weight", weight, "x", x, wide=True)
    k = weight.shape[-1]
    if weight.shape[2] != k or k < 1:
        raise ValueError(f"weight: got a {weight.shape[2]} x {k} kernel, expected a square one")
    for name, index in (("in_channels", in_channels), ("out_channels", out_channels)):
        _check_index(name, index, x.device)
    if x.shape[1] != in_channels.shape[0]:
        raise ValueError(f"x: got {x.shape[1]} channels, expected {in_channels.shape[0]} as in_channels")
    if styles is not None:
        checks.tensor("styles", styles, 2, "[N, I']")
        checks.like("styles", styles, "x", x, wide=True)
        checks.shape("styles", styles, x.shape[:2], "samples and channels of x")
    (up,) = checks.integers("up", up, (), 1)
    (padding,) = checks.integers("padding", k // 2 if padding is None else padding, (), 0)
    check_filter("resample_filter", resample_filter, x)
    resampling = Resampling(resample_filter, (up, up), padding=(padding,) * 4)
    height, width = resampling.padded_size(x)
    if height < k or width < k:
        raise ValueError(
            f"padding: leaves {height} x {width} pixels of the up-sampled x, expected at least the {k} x {k} of weight"
        )
    checks.addressable("up, padding", x.shape[0], max(weight.shape[:2]), height, width)
    return resampling


def _check_index(name: str, index: object, device: torch.device) -> None:
    if not isinstance(index, torch.Tensor):
        raise TypeError(f"{name}: got {type(index).__name__}, expected an int64 tensor")
    checks.strided(name, index)
    if index.dtype != torch.int64:
        raise TypeError(f"{name}: got dtype {index.dtype}, expected torch.int64")
    if index.ndim != 1:
        raise ValueError(f"{name}: got shape {list(index.shape)}, expected 1 dimension")
    if index.device != device:
        raise ValueError(f"{name}: is on {index.device}, expected {device} as x")
    if index.shape[0] == 0:
        raise ValueError(f"{name}: got no index, expected at least 1")


# Maps an index tensor to the (version, width) its values were checked for and a copy of the checked values.
_checked = WeakIdKeyDictionary()


def _checked_copy(name: str, index: torch.Tensor, width: int) -> torch.Tensor:
    """Return a private copy of ``index`` with checked values; cached until ``index`` changes.

    Kernels and backward passes index through the copy, so that a later write to ``index`` cannot make them read out of
    bounds. Writes through NumPy or ``.data`` do not change the tensor's version: on the CPU they are found by comparing
    values; on a GPU that would synchronise, and the values checked first stay in use.
    """
    known = _known_copy(index, width)
    if known is not None:
        return known
    copy = index.detach().clone()
    values = copy.tolist()
    for a, b in pairwise(values):
        if a >= b:
            what = "twice" if a == b else f"after {a}"
            raise ValueError(f"{name}: got {b} {what}, expected ascending indices, each once")
    for value in (values[0], values[-1]):
        if not 0 <= value < width:
            raise ValueError(f"{name}: got {value}, expected 0 to {width - 1} as weight")
    if not index.is_inference():
        _checked[index] = (index._version, width), copy
    return copy


def _known_copy(index: torch.Tensor, width: int) -> torch.Tensor | None:
    """Return the copy of ``index`` that was checked before, if it still has the same values."""
    known = _checked.get(index)
    if known is None or known[0] != (index._version, width):
        return None
    same = index.is_cuda or (index.dtype == torch.int64 and torch.equal(index, known[1]))
    return known[1] if same else None


def _known_copies(x, weight, in_channels, out_channels) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return :func:`_known_copy` of both index tensors; None if one is not known or gradients are needed."""
    tensors = x, weight, in_channels, out_channels
    if not all(isinstance(t, torch.Tensor) for t in tensors) or weight.ndim != 4:
        return None
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return None
    outputs, inputs, *_ = weight.shape
    known = _known_copy(in_channels, inputs), _known_copy(out_channels, outputs)
    return None if known[0] is None or known[1] is None else known


def _checked_copies(in_channels, out_channels, weight) -> tuple[torch.Tensor, torch.Tensor]:
    """Return :func:`_checked_copy` of both index tensors."""
    return (
        _checked_copy("in_channels", in_channels, weight.shape[1]),
        _checked_copy("out_channels", out_channels, weight.shape[0]),
    )


# The functions below end with the arguments (demodulate, flip, padding, up, scatter, backend). They correlate x with
# up - 1 zeros inserted between its pixels and ``padding`` zeros around the image.


def _run(x, weight, in_channels, out_channels, *rest):
    return _run_checked(x, weight, *_checked_copies(in_channels, out_channels, weight), *rest)


def _run_checked(x, weight, in_channels, out_channels, styles, demodulate, flip, padding, up, scatter, backend):
    """Run the kernel on index copies that the public op has already checked."""
    return kernels("sparse_channel_conv2d", backend).sparse_channel_conv2d(
        x, weight, in_channels, out_channels, styles, demodulate, padding, flip, scatter, up
    )


def _fake(x, weight, in_channels, out_channels, styles, demodulate, flip, padding, up, scatter, backend):
    channels, height, width = sparse_output(x, weight, out_channels, padding, up, scatter)
    return layout.empty_images(x, height, width, channels=channels)


def _save(ctx, inputs, output) -> None:
    *tensors, demodulate, flip, padding, up, scatter, backend = inputs
    ctx.options = demodulate, flip, padding, up, scatter
    ctx.save_for_backward(*tensors, output if demodulate else None)


def _backward(ctx, g):
    """Return the gradients for u = x·s, c = conv(u, w), y = d·c, by PyTorch ops that can be differentiated again."""
    x, weight, in_channels, out_channels, styles, y = ctx.saved_tensors
    demodulate, flip, padding, up, scatter = ctx.options
    wants_x, wants_w, _, _, wants_s, *_ = ctx.needs_input_grad
    dtype = torch.float32 if x.dtype in HALF else x.dtype
    wide = [None if t is None else t.to(dtype) for t in (g, x, gather(weight, in_channels, out_channels))]
    g, u, w = wide
    s = None if styles is None else styles.to(dtype)
    if scatter:
        g, y = (None if t is None else t.index_select(1, out_channels) for t in (g, y))
    gd = (g * y.to(dtype)).sum((2, 3)) if demodulate else None  # the gradient of d, times d
    if s is not None:
        u = u * s[:, :, None, None]
    if demodulate:
        _, _, d = operands(w, s, dtype, True)
        g = g * d[:, :, None, None]
    gu, gw = _convolution_backward(g, u, w, flip, padding, up, wants_x or wants_s, wants_w)
    gx = gs = None
    if s is not None and gu is not None:
        gs = (gu * x.to(dtype)).sum((2, 3)) if wants_s else None
        gu = gu * s[:, :, None, None]
    if demodulate:
        # With E = Σ_k w², the derivative of d = (Σ s²·E + ε)^-1/2 by Σ s²·E is -d³/2; ``gd`` already holds one d.
        gd = -0.5 * gd * d.square()
        if gs is not None:
            gs = gs + 2 * s * (gd @ w.square().sum((2, 3)))
        if gw is not None:
            gw = gw + 2 * w * (gd.t() @ s.square())[:, :, None, None]
    if wants_x:
        gx = gu.to(x.dtype)
    if wants_w:
        full = weight.new_zeros(weight.shape)
        gw = full.index_put((out_channels[:, None], in_channels[None]), gw.to(weight.dtype))
    return gx, gw, None, None, None if gs is None else gs.to(styles.dtype), *[None] * 6


def _convolution_backward(g, u, w, flip, padding, up, wants_u, wants_w):
    """Return the correlation's gradients with respect to ``u`` and the gathered block ``w``; None where not wanted."""

    def turn(w):  # its own inverse
        return w.flip(2, 3) if flip != (up == 1) else w

    k, transposed = w.shape[-1], up > 1
    kernel = turn(w).transpose(0, 1) if transposed else turn(w)
    margin = k - 1 - padding if transposed else padding
    gu, gk, _ = torch.ops.aten.convolution_backward(
        g, u, kernel, None, [up, up], [margin, margin], [1, 1], transposed, [0, 0], 1, [wants_u, wants_w, False]
    )
    if not wants_w:
        return gu, None
    return gu if wants_u else None, turn(gk.transpose(0, 1) if transposed else gk)


_call = register(
    "sparse_channel_conv2d(Tensor x, Tensor weight, Tensor in_channels, Tensor out_channels, Tensor? styles, "
    "bool demodulate, bool flip, SymInt padding, SymInt up, bool scatter, str backend) -> Tensor",
    _run, _fake, _save, _backward, _run_checked,
)  # fmt: skip
