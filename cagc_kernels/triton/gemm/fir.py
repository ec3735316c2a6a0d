"""The second pass of an up-sampling layer: the 4 x 4 FIR filter of the transposed convolution, and the epilogue."""

from __future__ import annotations

import triton
import triton.language as tl

from .kernel import finish

# Output rows of one program: they share their horizontally filtered rows.
ROWS = tl.constexpr(4)


@triton.jit
def _filtered(t, y, q, c, col_ok, f, ht, wt, CO: tl.constexpr, ACC: tl.constexpr):
    """Return row ``y`` of an image, filtered horizontally at columns ``q``: [pixels, channels]."""
    total = tl.zeros((q.shape[0], c.shape[0]), ACC)
    for j in tl.static_range(4):
        x = q - 1 + j
        ok = (x >= 0) & (x < wt) & (y + x * 0 >= 0) & (y + x * 0 < ht)
        at = t + (y * wt + x)[:, None] * CO + c[None, :]
        total += tl.load(f + j) * tl.load(at, mask=ok[:, None] & col_ok[None, :], other=0.0).to(ACC)
    return total


@triton.jit(do_not_specialize=("ht", "wt", "oh", "ow", "y_pixels", "noise_n", "noise_h", "noise_w"))
def fir_act_kernel(
    t, f, y, noise, bias, next_styles, ht, wt, oh, ow, y_pixels, strength, noise_n, noise_h, noise_w,
    CO: tl.constexpr, YN: tl.constexpr, YP: tl.constexpr, YC: tl.constexpr, ACT: tl.constexpr, ALPHA: tl.constexpr,
    GAIN: tl.constexpr, CLAMP: tl.constexpr, ACC: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Filter ``t`` [N, HT, WT, CO], dense, padded by one pixel, and apply the epilogue.

    ``f`` holds the vertical taps, then the horizontal ones.
    """
    image, top = tl.program_id(2).to(tl.int64), tl.program_id(1) * ROWS
    tiles = tl.cdiv(ow, BQ)
    q = tl.program_id(0) % tiles * BQ + tl.arange(0, BQ)
    c = tl.program_id(0) // tiles * BC + tl.arange(0, BC)
    col_ok = c < CO
    t += image * (ht * wt) * CO
    h0 = _filtered(t, top - 1, q, c, col_ok, f + 4, ht, wt, CO, ACC)
    h1 = _filtered(t, top, q, c, col_ok, f + 4, ht, wt, CO, ACC)
    h2 = _filtered(t, top + 1, q, c, col_ok, f + 4, ht, wt, CO, ACC)
    for row in range(ROWS):
        h3 = _filtered(t, top + row + 2, q, c, col_ok, f + 4, ht, wt, CO, ACC)
        value = tl.load(f) * h0 + tl.load(f + 1) * h1 + tl.load(f + 2) * h2 + tl.load(f + 3) * h3
        row_ok = (q < ow) & (top + row + q * 0 < oh)
        finish(
            value, y, None, noise, bias, next_styles, None, None, None, image, top + row, q, 0, 0, c, row_ok, col_ok,
            ow, y_pixels, strength, noise_n, noise_h, noise_w, 1, False, False, CO, YN, YP, YC, ACT, ALPHA, GAIN, CLAMP,
        )  # fmt: skip
        h0, h1, h2 = h1, h2, h3
