"""upfirdn2d in Triton, also for its gradient. For autograd see :mod:`cagc_kernels.ops.upfirdn2d`.

One thread computes one output and reads its window through the caches; zeros between pixels are not multiplied. A
separable filter runs in two passes, first along rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from .. import layout
from ..arguments import Resampling, accumulator

BLOCK = 512


@triton.jit
def _window(o, pad, shift, UP: tl.constexpr, DOWN: tl.constexpr):
    """Return the first pixel that output ``o`` reads, and its tap; ``shift`` keeps the dividend non-negative."""
    base = o * DOWN - pad + shift * UP
    first = (base + UP - 1) // UP
    return first - shift, first * UP - base


@triton.jit
def upfirdn2d_kernel(
    x, f, out, numel, c, inner, in_h, in_w, out_h, out_w, stride_n, stride_c, stride_h, pad_x, pad_y, shift_x, shift_y,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr, FH: tl.constexpr,
    FW: tl.constexpr, FLIP: tl.constexpr, GAIN: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute one block of ``out`` in memory order; the axes are those of csrc/include/cagc/upfirdn2d.h."""
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    i = block * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    pixel = i // inner
    row = pixel // out_w
    plane = row // out_h
    first_x, k0_x = _window(pixel % out_w, pad_x, shift_x, UP_X, DOWN_X)
    first_y, k0_y = _window(row % out_h, pad_y, shift_y, UP_Y, DOWN_Y)
    source = x + (plane // c) * stride_n + (plane % c) * stride_c + i % inner
    total = tl.zeros([BLOCK], ACC)
    for j in range((FH + UP_Y - 1) // UP_Y):
        y, k_y = first_y + j, k0_y + j * UP_Y
        in_row = inside & (y >= 0) & (y < in_h) & (k_y < FH)
        if not FLIP:
            k_y = FH - 1 - k_y
        for t in tl.static_range((FW + UP_X - 1) // UP_X):
            column, k_x = first_x + t, k0_x + t * UP_X
            valid = in_row & (column >= 0) & (column < in_w) & (k_x < FW)
            if not FLIP:
                k_x = FW - 1 - k_x
            value = tl.load(source + y * stride_h + column * inner, mask=valid, other=0.0).to(ACC)
            total += value * tl.load(f + k_y * FW + k_x, mask=valid, other=0.0)
    tl.store(out + i, (total * GAIN).to(out.dtype.element_ty), mask=inside)


def _launch(x, f, out, up, down, padding, flip, gain) -> None:
    n, c, in_h, in_w = x.shape
    stride_n, stride_c, stride_h, _ = x.stride()
    inner = 1
    if layout.is_channels_last(x):
        c, inner, stride_c = 1, c, 0
    reach = max(out.numel(), 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)))
    shift_x, shift_y = (max(0, pad // factor + 1) for pad, factor in zip(padding, up, strict=True))
    grid = (triton.cdiv(out.numel(), BLOCK),)
    with torch.cuda.device_of(x):
        upfirdn2d_kernel[grid](
            x, f, out, out.numel(), c, inner, in_h, in_w, *out.shape[2:], stride_n, stride_c, stride_h,
            *padding, shift_x, shift_y, *up, *down, f.shape[0], f.shape[1], flip, gain,
            reach + BLOCK >= 2**31, tl.float64 if f.dtype == torch.float64 else tl.float32, BLOCK,
        )  # fmt: skip


def upfirdn2d(x: torch.Tensor, resampling: Resampling) -> torch.Tensor:
    """Resample ``x`` [N, C, H, W] to [N, C, H', W'] in its memory order; see :func:`cagc_kernels.upfirdn2d`."""
    f, up, down, (x0, _, y0, _), flip, gain = resampling
    padding, (height, width) = (x0, y0), resampling.output_size(x)
    x = layout.images(x)
    out = layout.allocate_images(x, height, width)
    if out.numel() == 0:
        return out
    if x.numel() == 0:
        return out.zero_()
    taps = accumulator(x.dtype)
    f = torch.ones(1, 1, device=x.device, dtype=taps) if f is None else f.to(taps).contiguous()
    if f.ndim == 1:
        rows = layout.empty_images(x, x.shape[2], width, dtype=taps)
        _launch(x, f[None], rows, (up[0], 1), (down[0], 1), (padding[0], 0), flip, 1.0)
        x, f, up, down, padding = rows, f[:, None], (1, up[1]), (1, down[1]), (0, padding[1])
    _launch(x, f, out, up, down, padding, flip, gain)
    return out


def variants() -> Iterator[tuple[triton.JITFunction, str, dict[str, str], dict[str, object]]]:
    """Yield (kernel, label, argument types, constants) of every variant, for the compile check."""
    cases = {"same": (1, 1, 4, 4), "up2": (2, 1, 4, 4), "down2": (1, 2, 4, 4), "rows": (2, 1, 1, 12)}
    sizes = ("numel c inner in_h in_w out_h out_w stride_n stride_c stride_h pad_x pad_y shift_x shift_y").split()
    for code in ("fp32", "fp64", "fp16", "bf16"):
        acc = tl.float64 if code == "fp64" else tl.float32
        types = {"x": f"*{code}", "f": f"*{acc}", "out": f"*{code}"}
        for name, (up, down, fh, fw) in cases.items():
            for wide in (False, True):
                constants = {
                    "UP_X": up, "UP_Y": up if fh > 1 else 1, "DOWN_X": down, "DOWN_Y": down, "FH": fh, "FW": fw,
                    "FLIP": False, "GAIN": 4.0, "WIDE": wide, "ACC": acc, "BLOCK": BLOCK,
                }  # fmt: skip
                scalars = dict.fromkeys(sizes, "i64" if wide else "i32")
                yield upfirdn2d_kernel, f"upfirdn2d {name} {code}{' wide' * wide}", types | scalars, constants
