"""toRGB and the up-sampled image before it in one kernel: a modulated 1 x 1 convolution to a few channels, + skip.

    y[n, p, q, c] = clamp(Σ_i x[n, p, q, i] · styles[n, i] · w[c, i] + bias[c]) + upsample2d(skip, f)[n, p, q, c]

The image is a few bytes beside x, which is read once. Forward only, on plain tensors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .. import layout
from ..arguments import accumulator
from .bias_act import clamped
from .gemm.kernel import INTERPRET
from .gemm.launch import pixels, precision, strides
from .gemm.packing import tl_dtype
from .start import start

# Pixels and warps per program: at most 80 registers in every dtype, so that many programs hide memory latency.
ROWS, WARPS = 64, 8


@triton.jit
def _upsampled(skip, f, p, q, h, w, row_stride, pixel_stride, channels, mask, ACC: tl.constexpr):
    """Return [pixels, channels] of the image up-sampled by 2: 4 of the 16 taps fall on pixels, the others on zeros."""
    a, b = p % 2, q % 2
    total = tl.zeros(mask.shape, ACC)
    for tap in tl.static_range(4):
        i, j = tap // 2, tap % 2
        y, x = p // 2 + a + i - 1, q // 2 + b + j - 1
        # The taps are mirrored; the gain 4 = 2 x 2 keeps a constant image's value.
        weight = 4.0 * tl.load(f + (3 - a - 2 * i) * 4 + 3 - b - 2 * j)
        ok = (y >= 0) & (y < h // 2) & (x >= 0) & (x < w // 2)
        at = skip + (y * row_stride + x * pixel_stride)[:, None] + channels[None, :]
        total += weight.to(ACC)[:, None] * tl.load(at, mask=mask & ok[:, None], other=0.0).to(ACC)
    return total


@triton.jit(do_not_specialize=("h", "w", "x_pixels", "skip_n", "skip_c", "skip_h", "skip_w"))
def to_rgb_kernel(
    x, weight, styles, bias, skip, f, y, h, w, x_pixels, skip_n, skip_c, skip_h, skip_w,
    CI: tl.constexpr, CO: tl.constexpr, XP: tl.constexpr, YP: tl.constexpr, YC: tl.constexpr, CLAMP: tl.constexpr,
    PRECISION: tl.constexpr, ACC: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute BM pixels of one image by 16 columns, the least that tensor cores take; only CO columns are stored."""
    image = tl.program_id(1).to(tl.int64)
    r, k, c = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BK), tl.arange(0, 16)
    row_ok, col_ok = r < h * w, c < CO
    rows = x + image * x_pixels * XP + r * XP
    acc = tl.zeros((BM, 16), ACC)
    for step in range((CI + BK - 1) // BK):
        i = step * BK + k
        mask = row_ok[:, None] & (i < CI)[None, :] if CI % BK else row_ok[:, None] & (k >= 0)[None, :]
        tile = tl.load(rows[:, None] + i[None, :], mask=mask, other=0.0)
        s = tl.load(styles + image * CI + i, mask=i < CI, other=0.0).to(ACC)
        # There are few filters, so modulating them costs less than modulating pixels.
        at = weight + c[None, :] * CI + i[:, None]
        filters = tl.load(at, mask=(i < CI)[:, None] & col_ok[None, :], other=0.0).to(ACC) * s[:, None]
        if INTERPRET:
            tile = tile.to(ACC)
        acc = tl.dot(tile, filters.to(tile.dtype), acc, input_precision=PRECISION, out_dtype=ACC)
    if bias is not None:
        acc += tl.load(bias + c, mask=col_ok, other=0.0).to(ACC)[None, :]
    if CLAMP >= 0:
        acc = clamped(acc, CLAMP)
    inside = row_ok[:, None] & col_ok[None, :]
    if skip is not None:
        acc += _upsampled(skip + image * skip_n, f, r // w, r % w, h, w, skip_h, skip_w, c * skip_c, inside, ACC)
    tl.store(y + image * (h * w * CO) + r[:, None] * YP + c[None, :] * YC, acc.to(y.dtype.element_ty), mask=inside)


def to_rgb(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    bias: torch.Tensor | None = None,
    skip: torch.Tensor | None = None,
    resample_filter: torch.Tensor | None = None,
    clamp: float | None = None,
) -> torch.Tensor:
    """Return the image of one resolution of the generator: toRGB plus the up-sampled image before it.

    Equivalent to::

        y = modulated_conv2d(x, weight, styles, demodulate=False)
        y = bias_act(y, bias, clamp=clamp)
        y = y + upsample2d(skip, resample_filter)               # when given

    Args:
        x: [N, I, H, W], H and W even where there is a ``skip``.
        weight: [O, I, 1, 1], O at most 16; styles: [N, I]; bias: [O].
        skip: [N, O, H / 2, W / 2], any strides; resample_filter: its 4 x 4 float32 taps.
        clamp: bound of toRGB's absolute output, before the addition; None does not clamp.

    Returns:
        [N, O, H, W] in the dtype of ``x``, channels_last if ``x`` is.

    Raises:
        ValueError: the shapes are not as above.
    """
    n, ci, h, w = x.shape
    co = weight.shape[0]
    if weight.shape[1:] != (ci, 1, 1) or not 1 <= co <= 16 or styles.shape != (n, ci):
        raise ValueError(f"weight, styles: got {list(weight.shape)} and {list(styles.shape)}, expected [1 to 16, {ci}, "
                         f"1, 1] and {[n, ci]} as x")  # fmt: skip
    if skip is not None and (skip.shape != (n, co, h // 2, w // 2) or h % 2 or w % 2):
        raise ValueError(f"skip: got shape {list(skip.shape)}, expected {[n, co, h / 2, w / 2]}")
    if skip is not None and (resample_filter is None or resample_filter.shape != (4, 4)):
        raise ValueError("resample_filter: expected 4 x 4 taps beside a skip")
    y = layout.allocate_images(x, h, w, channels=co)
    if y.numel() == 0:
        return y
    launch_to_rgb(x, weight.reshape(co, ci).contiguous(), styles.contiguous(), bias, skip, resample_filter, y,
                  -1.0 if clamp is None else clamp)  # fmt: skip
    return y


def launch_to_rgb(x, weight, styles, bias, skip, resample_filter, y, clamp: float) -> None:
    """Fill the dense ``y`` [N, O, H, W] as :func:`to_rgb`; ``weight`` is [O, I], ``clamp < 0`` means no clamp."""
    (_, ci, h, w), co = x.shape, len(weight)
    source, xp, x_pixels = pixels(x)
    yp, yc = strides(y)
    with torch.cuda.device_of(x):
        start(
            to_rgb_kernel, (triton.cdiv(h * w, ROWS), len(x)),
            source, weight, styles, bias, skip, None if skip is None else resample_filter.contiguous(), y,
            h, w, x_pixels, *((0, 0, 0, 0) if skip is None else skip.stride()),
            CI=ci, CO=co, XP=xp, YP=yp, YC=yc, CLAMP=clamp,
            PRECISION=precision(x.dtype), ACC=tl_dtype(accumulator(x.dtype)), BM=ROWS, BK=block(ci), num_warps=WARPS,
        )  # fmt: skip


def block(channels: int) -> int:
    """Return the channels per step of the kernel."""
    return min(64, max(16, triton.next_power_of_2(channels)))
