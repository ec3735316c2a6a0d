"""The kernel that computes a layer of the generator as one implicit GEMM over NHWC pixels; :mod:`.launch` launches it.

    y[n, p, q, o] = next_styles[n, o] · act(scale[n, o] · Σ_{tap, i} x[n, tap(p, q), i] · styles[n, i] · w[o, tap, i]
                                          + strength · noise[n, p, q] + bias[o])

Rows of the product are pixels of one image, columns are output channels. Zeros between pixels are not multiplied:

    PLAIN       k x k at the resolution of x
    POLYPHASE   3x3 up by 2 with the FIR filter in the weights: four dense 3x3 phases side by side, 4·CO columns
    TRANSPOSED  3x3 up by 2 without the filter, 4 + 2 + 2 + 1 taps on a (2H + 1) x (2W + 1) grid; :mod:`.fir` filters it

Channel counts and strides are compile-time constants, because of an integer argument Triton knows at most that it is a
multiple of 16, which 40 is not. Numbers of images and pixels are arguments, so that a kernel serves any batch.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

from ..bias_act import _value, clamped

PLAIN, POLYPHASE, TRANSPOSED = (tl.constexpr(mode) for mode in range(3))

# NumPy has no bfloat16 and sums float16 in float16: the interpreter multiplies in float32.
INTERPRET = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")

# Row tiles that share their weight tiles in the L2 cache.
GROUP = tl.constexpr(8)


@triton.jit
def _tile(rows, columns):
    """Return (row tile, column tile) of this program; tiles are ordered in groups of :data:`GROUP` row tiles."""
    pid = tl.program_id(0)
    first = pid // (GROUP * columns) * GROUP
    size = tl.minimum(rows - first, GROUP)
    return first + pid % (GROUP * columns) % size, pid % (GROUP * columns) // size


@triton.jit
def _inside(p, q, row_ok, h, w, K: tl.constexpr, SIGN: tl.constexpr, PY: tl.constexpr, PX: tl.constexpr):
    """Return bits per row: bit ``K * i + j`` says that tap (i, j) lies in the image.

    A step then tests its tap by one shift instead of four comparisons.
    """
    bits = tl.zeros(p.shape, tl.int32)
    for tap in tl.static_range(K * K):
        y, x = p + SIGN * (tap // K) - PY, q + SIGN * (tap % K) - PX
        bits |= (row_ok & (y >= 0) & (y < h) & (x >= 0) & (x < w)).to(tl.int32) << tap
    return bits


@triton.jit
def _terms(
    step, k, w, a, b,
    K: tl.constexpr, MODE: tl.constexpr, PACKED: tl.constexpr, CI: tl.constexpr, PY: tl.constexpr, PX: tl.constexpr,
    XP: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Return (bit of :func:`_inside`, tap of the weight, channel, offset in x, mask) of the BK terms of one step."""
    # A single return statement, because Triton also compiles the code behind an early return.
    blocks: tl.constexpr = (CI + BK - 1) // BK
    if PACKED:
        flat = step * BK + k
        tap, c, ok = flat // CI, flat % CI, flat < K * K * CI
        i, j, bit = tap // K - PY, tap % K - PX, tap[None, :]
    elif MODE == TRANSPOSED:
        bit, c = step // blocks, step % blocks * BK + k
        i, j, ok = -(bit // (2 - b)), -(bit % (2 - b)), c < CI
        bit, tap = -2 * i - j, (-2 * i * (1 - a) + a) * 3 - 2 * j * (1 - b) + b
    else:
        tap, c = step // blocks, step % blocks * BK + k
        i, j, bit, ok = tap // K - PY, tap % K - PX, tap, c < CI
    return bit, tap, c, (i * w + j) * XP + c, ok


@triton.jit
def _modulated(rows, dx, bit, inside, c, k_ok, styles, MASKED: tl.constexpr):
    """Return a tile [BM, BK] of x times the styles, in registers, from which wgmma can read it."""
    ok = ((inside[:, None] >> bit) & 1) != 0
    if MASKED:
        ok = ok & k_ok[None, :]
    tile = tl.load(rows[:, None] + dx[None, :], mask=ok, other=0.0)
    if INTERPRET and tile.dtype != tl.float64:
        tile = tile.to(tl.float32)
    if styles is not None:
        s = tl.load(styles + c, mask=k_ok, other=0.0).to(tile.dtype)
        tile = tile * s[None, :]
    return tile


@triton.jit
def _first_taps(weight, o, out_index, CO: tl.constexpr, COLUMNS: tl.constexpr, WF: tl.constexpr, WO: tl.constexpr):
    """Return pointers to the first weight of each column; ``out_index`` maps output channels to rows of the weight."""
    row = o % CO
    if out_index is not None:
        row = tl.load(out_index + row, mask=o < COLUMNS, other=0).to(tl.int32)
    return weight + o // CO * WF + row * WO


@triton.jit
def _channels(c, k_ok, in_index, BLOCKS: tl.constexpr):
    """Return input channels of the weight; with BLOCKS, ``in_index`` holds one index per 8 adjacent channels."""
    if in_index is not None:
        if BLOCKS:
            c = tl.load(in_index + c // 8, mask=k_ok, other=0).to(tl.int32) * 8 + c % 8
        else:
            c = tl.load(in_index + c, mask=k_ok, other=0).to(tl.int32)
    return c


@triton.jit
def _accumulate(acc, tile, columns, offsets, k_ok, col_ok, PRECISION: tl.constexpr):
    weights = tl.load(columns[None, :] + offsets[:, None], mask=k_ok[:, None] & col_ok[None, :], other=0.0)
    return tl.dot(tile, weights.to(tile.dtype), acc, input_precision=PRECISION, out_dtype=acc.dtype)


@triton.jit
def _sum_parts(acc, partial, counters, row_ok, col_ok, SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Sum the parts of split-K deterministically in one launch: a tile's last program to arrive adds them in order."""
    tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    cells = partial + tile.to(tl.int64) * (SPLIT * BM * BN) + tl.arange(0, BM)[:, None] * BN + tl.arange(0, BN)[None, :]
    tl.store(cells + tl.program_id(2) * (BM * BN), acc)
    tl.debug_barrier()
    arrived = tl.atomic_add(counters + tile, 1, sem="acq_rel")
    tl.store(counters + tile, 0, mask=arrived == SPLIT - 1)
    row_ok = row_ok & (arrived + tl.zeros(row_ok.shape, tl.int32) == SPLIT - 1)
    total = tl.zeros(acc.shape, acc.dtype)
    for part in range(SPLIT):
        # Other multiprocessors wrote these and L1 is not coherent, so the loads bypass it.
        total += tl.load(
            cells + part * (BM * BN), mask=row_ok[:, None] & col_ok[None, :], other=0.0, cache_modifier=".cg"
        )
    return total, row_ok


@triton.jit
def _noise(noise, p, q, a, b, row_ok, noise_h, noise_w, MUL: tl.constexpr, PER_COLUMN: tl.constexpr, ACC: tl.constexpr):
    """Return the noise of each row or, for PER_COLUMN, of each row and column, where columns belong to phases."""
    at = noise + p * (MUL * noise_h) + q * (MUL * noise_w)
    if PER_COLUMN:
        total = tl.zeros((p.shape[0], a.shape[0]), ACC)
        for phase in tl.static_range(4):
            # Loading four vectors and selecting is cheaper than a gather per value.
            v = tl.load(at + phase // 2 * noise_h + phase % 2 * noise_w, mask=row_ok, other=0.0).to(ACC)
            total += tl.where((2 * a + b == phase)[None, :], v[:, None], 0.0)
    else:
        total = tl.load(at + a * noise_h + b * noise_w, mask=row_ok, other=0.0).to(ACC)[:, None]
    return total


@triton.jit
def _rgb_sums(acc, o, col_ok, weight, styles, CO: tl.constexpr):
    """Return the sums of toRGB over the channels of a tile, one vector per colour; 0 without ``weight``."""
    red = tl.zeros((acc.shape[0],), acc.dtype)
    green, blue = red, red
    if weight is not None:
        s = tl.load(styles + o, mask=col_ok, other=0.0)
        # A loop, because wide tiles do not have the registers for three products at a time.
        for c in range(3):
            total = tl.sum(acc * (tl.load(weight + c * CO + o, mask=col_ok, other=0.0) * s)[None, :], 1)
            red, green, blue = green, blue, total
    return red, green, blue


@triton.jit
def finish(
    acc, y, scale, noise, bias, next_styles, rgb_weight, rgb_styles, out_index, image, p, q, a, b, o, row_ok, col_ok,
    ow, y_pixels, strength, noise_n, noise_h, noise_w,
    MUL: tl.constexpr, PER_COLUMN: tl.constexpr, SCATTER: tl.constexpr, CO: tl.constexpr, YN: tl.constexpr,
    YP: tl.constexpr, YC: tl.constexpr, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr,
):  # fmt: skip
    """Demodulate, add noise and bias, activate, clamp, multiply by the next styles, store.

    Returns the sums of toRGB, which are taken before the next styles, so that no second tile stays in registers.

    The output pixel is (MUL·p + a, MUL·q + b), with a and b per column for PER_COLUMN. The mask of the columns is not
    applied to their indices: Triton would not see that selected indices are adjacent, and stores would be 2 bytes wide.
    """
    if scale is not None:
        acc *= tl.load(scale + image * CO + o, mask=col_ok, other=0.0)[None, :]
    if noise is not None:
        at = noise + image * noise_n
        acc += strength * _noise(at, p, q, a, b, row_ok, noise_h, noise_w, MUL, PER_COLUMN, acc.dtype)
    if bias is not None:
        acc += tl.load(bias + o, mask=col_ok, other=0.0).to(acc.dtype)[None, :]
    acc = GAIN * _value(acc, ACT, ALPHA)
    if CLAMP >= 0:
        acc = clamped(acc, CLAMP)
    if rgb_weight is not None:
        rgb_styles += image * CO
    red, green, blue = _rgb_sums(acc, o, col_ok, rgb_weight, rgb_styles, CO)
    if next_styles is not None:
        acc *= tl.load(next_styles + image * CO + o, mask=col_ok, other=0.0).to(acc.dtype)[None, :]
    if SCATTER:
        o = tl.load(out_index + o, mask=col_ok, other=0).to(tl.int32)
    if y is not None:
        pixels = ((MUL * p) * ow + MUL * q) * YP
        at = y + image * y_pixels * YN + pixels[:, None] + ((a * ow + b) * YP + o * YC)[None, :]
        tl.store(at, acc.to(y.dtype.element_ty), mask=row_ok[:, None] & col_ok[None, :])
    return red, green, blue


@triton.jit
def _store(
    acc, y, scale, noise, bias, next_styles, rgb_weight, rgb_styles, out_index, image, p, q, a, b, pn, o, row_ok, ow,
    y_pixels,
    strength, noise_n, noise_h, noise_w,
    MODE: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, SCATTER: tl.constexpr, CO: tl.constexpr,
    YN: tl.constexpr, YP: tl.constexpr, YC: tl.constexpr, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr,
    CLAMP: tl.constexpr,
):  # fmt: skip
    """Call :func:`finish` for the columns ``o`` of the product; for POLYPHASE, they also determine the phase."""
    PER_COLUMN: tl.constexpr = MODE == POLYPHASE and CO % WIDTH != 0
    if MODE == POLYPHASE:
        phase = o // CO if PER_COLUMN else pn * WIDTH // CO
        a, b = phase // 2, phase % 2
    return finish(
        acc, y, scale, noise, bias, next_styles, rgb_weight, rgb_styles, out_index, image, p, q, a, b,
        o % CO if MODE == POLYPHASE else o, row_ok, o < COLUMNS, ow, y_pixels, strength, noise_n, noise_h, noise_w,
        1 if MODE == PLAIN else 2, PER_COLUMN,
        SCATTER, CO, YN, YP, YC, ACT, ALPHA, GAIN, CLAMP,
    )  # fmt: skip


@triton.jit
def _upsampled(skip, f, p, q, h, w, row_ok):
    """Return values of a plane [h / 2, w / 2] up-sampled by 2: 4 of the 16 taps fall on pixels, the others on zeros."""
    a, b = p % 2, q % 2
    total = tl.zeros(p.shape, tl.float32)
    for tap in tl.static_range(4):
        i, j = tap // 2, tap % 2
        y, x = p // 2 + a + i - 1, q // 2 + b + j - 1
        ok = row_ok & (y >= 0) & (y < h // 2) & (x >= 0) & (x < w // 2)
        # The taps are mirrored; the gain 4 = 2 x 2 keeps a constant image's value.
        weight = 4.0 * tl.load(f + (3 - a - 2 * i) * 4 + 3 - b - 2 * j)
        total += weight * tl.load(skip + y * (w // 2) + x, mask=ok, other=0.0).to(tl.float32)
    return total


@triton.jit
def _store_rgb(
    total, c: tl.constexpr, bias, skip, taps, rgb, image, p, q, row_ok, h, w, CLAMP: tl.constexpr,
):  # fmt: skip
    """Store one plane of toRGB: bias and clamp, plus the same plane of the image below, up-sampled by 2."""
    total += tl.load(bias + c)
    if CLAMP >= 0:
        total = clamped(total, CLAMP)
    plane = image * 3 + c
    if skip is not None:
        total += _upsampled(skip + plane * (h // 2) * (w // 2), taps, p, q, h, w, row_ok)
    tl.store(rgb + plane * h * w + p * w + q, total.to(rgb.dtype.element_ty), mask=row_ok)


@triton.jit
def _products(
    rows, weight, styles, in_index, out_index, inside, w, first, a, b,
    CI: tl.constexpr, CO: tl.constexpr, COLUMNS: tl.constexpr, XP: tl.constexpr, WF: tl.constexpr, WO: tl.constexpr,
    WT: tl.constexpr, WI: tl.constexpr, K: tl.constexpr, PY: tl.constexpr, PX: tl.constexpr, MODE: tl.constexpr,
    BLOCKS: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr, PACKED: tl.constexpr, SPLIT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BN2: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Return the sums [BM, BN] and [BM, BN2 or 16] over this program's steps; both use the same tiles of x."""
    MASKED: tl.constexpr = (K * K * CI if PACKED else CI) % BK != 0
    WIDTH2: tl.constexpr = BN2 if BN2 > 0 else 16
    k, o, o2 = tl.arange(0, BK), first + tl.arange(0, BN), first + BN + tl.arange(0, WIDTH2)
    columns = _first_taps(weight, o, out_index, CO, COLUMNS, WF, WO)
    columns2 = _first_taps(weight, o2, out_index, CO, COLUMNS, WF, WO)
    acc, acc2 = tl.zeros((BM, BN), ACC), tl.zeros((BM, WIDTH2), ACC)
    taps = (2 - a) * (2 - b) if MODE == TRANSPOSED else K * K
    steps = (K * K * CI + BK - 1) // BK if PACKED else taps * ((CI + BK - 1) // BK)
    part = tl.program_id(2)
    begin, end = (steps * part // SPLIT, steps * (part + 1) // SPLIT) if SPLIT > 1 else (0, steps)
    # One flat loop over taps and channel blocks, which Triton pipelines across taps.
    for step in range(begin, end):
        bit, tap, c, dx, k_ok = _terms(step, k, w, a, b, K, MODE, PACKED, CI, PY, PX, XP, BK)
        tile = _modulated(rows, dx, bit, inside, c, k_ok, styles, MASKED)
        offsets = tap * WT + _channels(c, k_ok, in_index, BLOCKS) * WI
        acc = _accumulate(acc, tile, columns, offsets, k_ok, o < COLUMNS, PRECISION)
        if BN2 > 0:
            acc2 = _accumulate(acc2, tile, columns2, offsets, k_ok, o2 < COLUMNS, PRECISION)
    return acc, acc2


@triton.jit(do_not_specialize=("n", "h", "w", "oh", "ow", "x_pixels", "y_pixels", "noise_n", "noise_h", "noise_w"))
def styled_conv2d_kernel(
    x, weight, y, styles, scale, noise, bias, next_styles, in_index, out_index, partial, counters,
    rgb_weight, rgb_styles, rgb_bias, skip, taps, rgb,
    n, h, w, oh, ow, x_pixels, y_pixels, strength, noise_n, noise_h, noise_w,
    CI: tl.constexpr, CO: tl.constexpr, XP: tl.constexpr, YN: tl.constexpr, YP: tl.constexpr, YC: tl.constexpr,
    WF: tl.constexpr, WO: tl.constexpr, WT: tl.constexpr, WI: tl.constexpr, K: tl.constexpr, PY: tl.constexpr,
    PX: tl.constexpr, MODE: tl.constexpr, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr,
    CLAMP: tl.constexpr, BLOCKS: tl.constexpr, SCATTER: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
    PACKED: tl.constexpr, SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BN2: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute a tile of BM pixels of an image by BN + BN2 columns: 160 = 128 + 32, 80 = 64 + 16, 48 = 32 + 16.

    Strides in elements: XP, YP of a pixel; YC of an output channel; WF, WO, WT, WI of the weight's phase, output, tap
    and input. Strides of images are ``x_pixels`` · XP, ``y_pixels`` · YN and ``noise_n``: the constant factors tell the
    compiler that rows of channels are aligned. With ``rgb``, a tile holds all channels and also computes toRGB; without
    ``y``, only toRGB is stored.
    """
    WIDTH: tl.constexpr = BN + BN2
    COLUMNS: tl.constexpr = 4 * CO if MODE == POLYPHASE else CO
    TAPS: tl.constexpr = 2 if MODE == TRANSPOSED else K
    SIGN: tl.constexpr = -1 if MODE == TRANSPOSED else 1
    gh, gw = (oh, ow) if MODE == PLAIN else ((h, w) if MODE == POLYPHASE else (h + 1, w + 1))
    # A tile lies in one image, so that styles and scale are vectors.
    per_image = tl.cdiv(gh * gw, BM)
    pm, pn = _tile(per_image * n, (COLUMNS + WIDTH - 1) // WIDTH)
    image = (pm // per_image).to(tl.int64)
    r = pm % per_image * BM + tl.arange(0, BM)
    p, q, row_ok = r // gw, r % gw, r < gh * gw
    a, b = tl.program_id(1) // 2, tl.program_id(1) % 2
    if styles is not None:
        styles += image * CI
    acc, acc2 = _products(
        x + image * x_pixels * XP + (p * w + q) * XP, weight, styles, in_index, out_index,
        _inside(p, q, row_ok, h, w, TAPS, SIGN, PY, PX), w, pn * WIDTH, a, b,
        CI, CO, COLUMNS, XP, WF, WO, WT, WI, K, PY, PX, MODE, BLOCKS, PRECISION, ACC, PACKED, SPLIT, BM, BN, BN2, BK,
    )  # fmt: skip
    o, o2 = pn * WIDTH + tl.arange(0, BN), pn * WIDTH + BN + tl.arange(0, BN2 if BN2 > 0 else 16)
    if SPLIT > 1:
        acc, row_ok = _sum_parts(acc, partial, counters, row_ok, o < COLUMNS, SPLIT, BM, BN)
    if MODE == TRANSPOSED:
        row_ok = row_ok & (2 * p + a < oh) & (2 * q + b < ow)
    red, green, blue = _store(
        acc, y, scale, noise, bias, next_styles, rgb_weight, rgb_styles, out_index, image, p, q, a, b, pn, o, row_ok,
        ow, y_pixels, strength, noise_n, noise_h, noise_w, MODE, COLUMNS, WIDTH, SCATTER, CO, YN, YP, YC, ACT, ALPHA,
        GAIN, CLAMP,
    )  # fmt: skip
    if BN2 > 0:
        red2, green2, blue2 = _store(
            acc2, y, scale, noise, bias, next_styles, rgb_weight, rgb_styles, out_index, image, p, q, a, b, pn, o2,
            row_ok, ow, y_pixels, strength, noise_n, noise_h, noise_w, MODE, COLUMNS, WIDTH, SCATTER, CO, YN, YP, YC,
            ACT, ALPHA, GAIN, CLAMP,
        )  # fmt: skip
        red, green, blue = red + red2, green + green2, blue + blue2
    if rgb is not None:
        _store_rgb(red, 0, rgb_bias, skip, taps, rgb, image, p, q, row_ok, oh, ow, CLAMP)
        _store_rgb(green, 1, rgb_bias, skip, taps, rgb, image, p, q, row_ok, oh, ow, CLAMP)
        _store_rgb(blue, 2, rgb_bias, skip, taps, rgb, image, p, q, row_ok, oh, ow, CLAMP)
