"""filtered_lrelu in Triton, its directional derivative and its gradient. For autograd see :mod:`cagc_kernels.ops`.

A program makes a tile of the result. A FIR filter along an axis is a banded matrix, so images X are spread onto the
middle grid as U·X·Vᵀ and gathered from it alike, by products on the tensor cores (in full float32). A filter that is
not separable is a sum of such products, one per row of taps. The middle grid stays in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .. import layout
from ..arguments import Filtering, Resampling, accumulator

# Least side of a tile of the middle grid (the up-sampled image); longer filters take a larger one. 64 spills registers.
TILE = 32
# The fewest rows and columns of a matrix that tl.dot multiplies.
LEAST = 16


@triton.jit
def _band(taps, constant, COUNT: tl.constexpr, SI: tl.constexpr, SM: tl.constexpr, M: tl.constexpr, SIDE: tl.constexpr,
          TURNED: tl.constexpr):  # fmt: skip
    """Banded matrix [M, SIDE], or its transpose, of taps k = SI·i - SM·m + constant; and where it has a tap."""
    if TURNED:
        i, m = tl.arange(0, SIDE)[:, None], tl.arange(0, M)[None, :]
    else:
        i, m = tl.arange(0, SIDE)[None, :], tl.arange(0, M)[:, None]
    k = SI * i - SM * m + constant
    there = (k >= 0) & (k < COUNT)
    return tl.load(taps + k, mask=there, other=0.0), there


@triton.jit
def _filtered(x, column, row, constant_y, constant_x, TERMS: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
              SI: tl.constexpr, SM: tl.constexpr, M: tl.constexpr, SIDE: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """x [SIDE, SIDE] filtered along both axes, [M, M]; results that depend on a value that is not finite are NaN."""
    bad = (x != x) | (tl.abs(x) == float("inf"))
    x = tl.where(bad, 0.0, x).to(ACC)
    total = tl.zeros([M, M], ACC)
    for term in range(TERMS):
        down, in_down = _band(column + term * KH, constant_y, KH, SI, SM, M, SIDE, False)
        across, in_across = _band(row + term * KW, constant_x, KW, SI, SM, M, SIDE, True)
        half = tl.dot(down, x, input_precision="ieee", out_dtype=ACC)
        total += tl.dot(half, across, input_precision="ieee", out_dtype=ACC)
    if tl.max(bad.to(tl.int32)) > 0:
        taps_y, reads = _band(column, constant_y, KH, SI, SM, M, SIDE, False)
        taps_x, read_by = _band(row, constant_x, KW, SI, SM, M, SIDE, True)
        counts = tl.dot(reads.to(tl.float32), bad.to(tl.float32), input_precision="ieee")
        counts = tl.dot(counts, read_by.to(tl.float32), input_precision="ieee")
        total = tl.where(counts > 0, float("nan"), total)
    return total


@triton.jit
def _spread(images, bias, column, row, height, width, stride, y0, x0, pad_y, pad_x, shift, FACTOR: tl.constexpr,
            TERMS: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, M: tl.constexpr, SIDE: tl.constexpr,
            ACC: tl.constexpr):  # fmt: skip
    """The middle grid [M, M] from (y0, x0) on; a dividend has ``shift`` pixels added to be non-negative."""
    base_y, base_x = y0 - pad_y, x0 - pad_x
    first_y = (base_y + shift * FACTOR + FACTOR - 1) // FACTOR - shift
    first_x = (base_x + shift * FACTOR + FACTOR - 1) // FACTOR - shift
    y, x = first_y + tl.arange(0, SIDE)[:, None], first_x + tl.arange(0, SIDE)[None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    pixels = tl.load(images + y * stride + x, mask=inside, other=0.0).to(ACC) + tl.where(inside, bias, 0.0)
    return _filtered(pixels, column, row, first_y * FACTOR - base_y, first_x * FACTOR - base_x, TERMS, KH, KW,
                     FACTOR, 1, M, SIDE, ACC)  # fmt: skip


@triton.jit
def filtered_lrelu_kernel(
    x, b, g, out, x_column, x_row, g_column, g_row, s_column, s_row, channels, tiles_y, tiles_x, in_h, in_w, g_h, g_w,
    mid_h, mid_w, out_h, out_w, stride_n, stride_c, stride_h, x_pad_y, x_pad_x, g_pad_y, g_pad_x, s_pad_y, s_pad_x,
    shift, X_FACTOR: tl.constexpr, X_TERMS: tl.constexpr, X_KH: tl.constexpr, X_KW: tl.constexpr, X_I: tl.constexpr,
    G_FACTOR: tl.constexpr, G_TERMS: tl.constexpr, G_KH: tl.constexpr, G_KW: tl.constexpr, G_I: tl.constexpr,
    S_FACTOR: tl.constexpr, S_TERMS: tl.constexpr, S_KH: tl.constexpr, S_KW: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, RESULT: tl.constexpr, M: tl.constexpr, HAS_B: tl.constexpr, HAS_G: tl.constexpr,
    GAIN: tl.constexpr, SLOPE: tl.constexpr, CLAMP: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Make one tile of ``out``: value, or with ``g`` a derivative; see csrc/include/cagc/filtered_lrelu.h."""
    i = tl.program_id(0)
    plane = i // (tiles_x * tiles_y)
    oy, ox = i // tiles_x % tiles_y * ROWS, i % tiles_x * COLUMNS
    y0, x0 = oy * S_FACTOR - s_pad_y, ox * S_FACTOR - s_pad_x
    if WIDE:
        plane = plane.to(tl.int64)
    bias = 0.0
    if HAS_B:
        bias = tl.load(b + plane % channels)
    images = x + plane // channels * stride_n + plane % channels * stride_c
    v = _spread(images, bias, x_column, x_row, in_h, in_w, stride_h, y0, x0, x_pad_y, x_pad_x, shift, X_FACTOR,
                X_TERMS, X_KH, X_KW, M, X_I, ACC)  # fmt: skip
    value = v * GAIN
    middle = tl.where(v > 0, value, value * SLOPE)
    if HAS_G:
        t = _spread(g + plane * g_h * g_w, 0.0, g_column, g_row, g_h, g_w, g_w, y0, x0, g_pad_y, g_pad_x, shift,
                    G_FACTOR, G_TERMS, G_KH, G_KW, M, G_I, ACC)  # fmt: skip
        value, t = middle, t * GAIN
        middle = tl.where(v > 0, t, t * SLOPE)
        if CLAMP >= 0:
            middle = tl.where((value > -CLAMP) & (value < CLAMP), middle, 0.0)
    elif CLAMP >= 0:
        middle = tl.where(middle > CLAMP, CLAMP, tl.where(middle < -CLAMP, -CLAMP, middle))  # a NaN stays
    y, column = y0 + tl.arange(0, M)[:, None], x0 + tl.arange(0, M)[None, :]
    middle = tl.where((y >= 0) & (y < mid_h) & (column >= 0) & (column < mid_w), middle, 0.0).to(ACC)
    made = _filtered(middle, s_column, s_row, 0, 0, S_TERMS, S_KH, S_KW, 1, S_FACTOR, RESULT, M, ACC)
    rows, columns = tl.arange(0, RESULT)[:, None], tl.arange(0, RESULT)[None, :]
    inside = (rows < ROWS) & (columns < COLUMNS) & (oy + rows < out_h) & (ox + columns < out_w)
    to = out + plane * out_h * out_w + (oy + rows) * out_w + ox + columns
    tl.store(to, made.to(out.dtype.element_ty), mask=inside)


class _Leg(NamedTuple):
    """A filter between images and the middle grid: taps [terms, kh] and [terms, kw], factor and padding (y, x)."""

    column: torch.Tensor
    row: torch.Tensor
    factor: int
    pad: tuple[int, int]

    @property
    def constants(self) -> tuple[int, int, int, int]:
        """Factor, terms, kh and kw."""
        return self.factor, self.column.shape[0], self.column.shape[1], self.row.shape[1]


def _leg(resampling: Resampling, x: torch.Tensor, factor: int, pad: tuple[int, int], mirror: bool = False) -> _Leg:
    """Filter of ``resampling`` in the form that the kernel takes; ``mirror`` gives that of the transposed map."""
    dtype, f, gain = accumulator(x.dtype), resampling.filter, resampling.gain
    f = torch.ones(1, 1, dtype=dtype, device=x.device) if f is None else f.to(dtype)
    if resampling.flip_filter == mirror:
        f = f.flip(tuple(range(f.ndim)))
    if f.ndim == 1:
        return _Leg((f * gain**0.5)[None], (f * gain**0.5)[None].contiguous(), factor, pad)
    return _Leg(torch.eye(len(f), dtype=dtype, device=x.device), (f * gain).contiguous(), factor, pad)


def _power(n: int) -> int:
    return max(LEAST, triton.next_power_of_2(n))


def _run(x, b, g, filtering: Filtering, transposed: bool, size: tuple[int, int]) -> torch.Tensor:
    """Launch the kernel; with ``transposed``, ``g`` has the size of the op's result and the output that of ``x``."""
    lead = x if g is None else g
    last = layout.is_channels_last(lead)
    out = layout.allocate_images(lead.contiguous() if last else layout.images(lead), *size)
    if out.numel() > 0 and x.numel() == 0:
        out.zero_()
    elif out.numel() > 0:
        _launch(x.contiguous() if layout.is_channels_last(x) else layout.images(x), b, g, out, filtering, transposed)
    return out.contiguous(memory_format=torch.channels_last) if last else out


def _launch(x, b, g, out, filtering: Filtering, transposed: bool) -> None:
    up, down = filtering.upsampling, filtering.downsampling
    (x0, _, y0, _), (fu_h, fu_w), (fd_h, fd_w) = up.padding, up.filter_size, down.filter_size
    of_x = of_g = _leg(up, x, filtering.up, (y0, x0))
    gather = _leg(down, x, filtering.down, (0, 0))
    if transposed:
        of_g = _leg(down, x, filtering.down, (fd_h - 1, fd_w - 1), mirror=True)
        gather = _leg(up, x, filtering.up, (fu_h - 1 - y0, fu_w - 1 - x0), mirror=True)
    kh, kw = gather.constants[2:]
    side = max(TILE, _power(max(kh, kw) + gather.factor))
    rows, columns = ((side - k) // gather.factor + 1 for k in (kh, kw))
    under = [_power((side + max(leg.constants[2:]) - 2) // leg.factor + 2) for leg in (of_x, of_g)]
    tiles = triton.cdiv(out.shape[2], rows), triton.cdiv(out.shape[3], columns)
    g = x if g is None else g.contiguous()
    reach = max(t.numel() + max(t.stride()) * 2 for t in (x, g, out))
    least = min(0, *(-p for leg in (of_x, of_g) for p in leg.pad)) - max(*gather.pad, 0)
    with torch.cuda.device_of(x):
        filtered_lrelu_kernel[(out.shape[0] * out.shape[1] * tiles[0] * tiles[1],)](
            x, x if b is None else b.to(accumulator(x.dtype)), g, out, of_x.column, of_x.row, of_g.column, of_g.row,
            gather.column, gather.row, x.shape[1], *tiles, *x.shape[2:], *g.shape[2:], *up.output_size(x),
            *out.shape[2:], *x.stride()[:3], *of_x.pad, *of_g.pad, *gather.pad, 1 - least, *of_x.constants, under[0],
            *of_g.constants, under[1], *gather.constants, rows, columns, _power(max(rows, columns)), side,
            b is not None, g is not x, filtering.gain, filtering.slope, filtering.clamp, reach >= 2**31,
            tl.float64 if x.dtype == torch.float64 else tl.float32,
        )  # fmt: skip


def value(x: torch.Tensor, b: torch.Tensor | None, filtering: Filtering) -> torch.Tensor:
    """Return the op on ``x`` [N, C, H, W]; see :func:`cagc_kernels.filtered_lrelu`."""
    return _run(x, b, None, filtering, False, filtering.output_size(x))


def tangent(h: torch.Tensor, x: torch.Tensor, b: torch.Tensor | None, filtering: Filtering) -> torch.Tensor:
    """Return the change of the op's result at ``x`` in the direction ``h`` of the same shape."""
    return _run(x, b, h, filtering, False, filtering.output_size(x))


def gradient(g: torch.Tensor, x: torch.Tensor, b: torch.Tensor | None, filtering: Filtering) -> torch.Tensor:
    """Return the gradient in ``x`` for the gradient ``g`` of the op's result."""
    return _run(x, b, g, filtering, True, tuple(x.shape[2:]))


def variants() -> Iterator[tuple[triton.JITFunction, str, dict[str, str], dict[str, object]]]:
    """(kernel, label, argument types, constants) of every variant, for the compile check."""
    sizes = (
        "channels tiles_y tiles_x in_h in_w g_h g_w mid_h mid_w out_h out_w stride_n stride_c stride_h x_pad_y x_pad_x "
        "g_pad_y g_pad_x s_pad_y s_pad_x shift"
    ).split()
    # Factor, terms and taps of up- and down-sampling: configuration T, its layers that double the rate, and R.
    t, doubling, r = ((2, 1, 12), (2, 1, 12)), ((4, 1, 24), (2, 1, 12)), ((2, 1, 12), (2, 12, 12))
    cases = {"T value": t, "T gradient": t, "up 4 gradient": doubling, "R value": r}
    for code in ("fp32", "fp64", "fp16", "bf16"):
        acc = tl.float64 if code == "fp64" else tl.float32
        wide = "fp64" if code == "fp64" else "fp32"
        types = dict.fromkeys(("x", "g", "out"), f"*{code}") | {"b": f"*{wide}"}
        types |= {f"{leg}_{part}": f"*{wide}" for leg in "xgs" for part in ("column", "row")}
        types |= dict.fromkeys(sizes, "i32")
        for name, (up, down) in cases.items() if code == "fp32" else [("T gradient", t)]:
            backward = name.endswith("gradient")
            of_g, gather = (down, up) if backward else (up, down)
            rows = (TILE - gather[2]) // gather[0] + 1
            constants: dict[str, object] = {
                "ROWS": rows, "COLUMNS": rows, "RESULT": _power(rows), "M": TILE, "HAS_B": True, "HAS_G": backward,
                "GAIN": 2**0.5, "SLOPE": 0.2, "CLAMP": 256.0, "WIDE": False, "ACC": acc,
            }  # fmt: skip
            for leg, (factor, terms, taps) in (("X", up), ("G", of_g), ("S", gather)):
                constants |= {f"{leg}_FACTOR": factor, f"{leg}_TERMS": terms, f"{leg}_KH": taps, f"{leg}_KW": taps}
                if leg != "S":
                    constants[f"{leg}_I"] = _power((TILE + taps - 2) // factor + 2)
            yield filtered_lrelu_kernel, f"filtered_lrelu {name} {code}", types, constants
