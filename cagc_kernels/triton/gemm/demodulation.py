"""The two small kernels before a modulated convolution: energies of the filters, and demodulation factors."""

from __future__ import annotations

import triton
import triton.language as tl

EPS = tl.constexpr(1e-8)  # as in reference.modulated_conv2d


@triton.jit
def energy_kernel(
    weight, energy, in_index, out_index,
    CI: tl.constexpr, CO: tl.constexpr, WO: tl.constexpr, WT: tl.constexpr, WI: tl.constexpr, TAPS: tl.constexpr,
    ACC: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """Compute ``energy[o, i]``, the sum of squares over the taps of ``weight``, which is read in place by index."""
    o, i = tl.program_id(0) * BO + tl.arange(0, BO), tl.program_id(1) * BI + tl.arange(0, BI)
    row, column = o, i
    if out_index is not None:
        row = tl.load(out_index + o, mask=o < CO, other=0).to(tl.int32)
    if in_index is not None:
        column = tl.load(in_index + i, mask=i < CI, other=0).to(tl.int32)
    inside = (o < CO)[:, None] & (i < CI)[None, :]
    total = tl.zeros((BO, BI), ACC)
    for tap in tl.static_range(TAPS):
        at = weight + (row * WO)[:, None] + (column * WI)[None, :] + tap * WT
        v = tl.load(at, mask=inside, other=0.0).to(ACC)
        total += v * v
    tl.store(energy + o[:, None] * CI + i[None, :], total, mask=inside)


@triton.jit
def demodulation_kernel(
    styles, energy, peaks, scale, normalised,
    CI: tl.constexpr, CO: tl.constexpr, ACC: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """Compute ``scale[n, o] = rsqrt(Σ_i styles[n, i]² · energy[o, i] + eps)``, or 1 without ``energy``.

    With ``normalised``, the styles divided by their largest absolute value are stored there and ``scale`` is multiplied
    by that value; it is also multiplied by ``peaks``, by which the filters were divided. The products of a float16
    convolution then stay in range.
    """
    image, o = tl.program_id(0), tl.program_id(1) * BO + tl.arange(0, BO)
    total = tl.zeros((BO,), ACC)
    largest = tl.zeros((BI,), ACC)
    for block in tl.static_range((CI + BI - 1) // BI):
        i = block * BI + tl.arange(0, BI)
        s = tl.load(styles + image * CI + i, mask=i < CI, other=0.0).to(ACC)
        largest = tl.maximum(largest, tl.abs(s))
        if energy is not None:
            inside = (o < CO)[:, None] & (i < CI)[None, :]
            e = tl.load(energy + o[:, None] * CI + i[None, :], mask=inside, other=0.0)
            total += tl.sum(e * (s * s)[None, :], 1)
    factor = 1.0 / tl.sqrt(total + EPS) if energy is not None else total + 1.0
    if peaks is not None:
        factor *= tl.load(peaks + o, mask=o < CO, other=0.0)
    if normalised is not None:
        peak = tl.maximum(tl.max(largest, 0), 1e-30)
        factor *= peak
        for block in tl.static_range((CI + BI - 1) // BI):
            i = block * BI + tl.arange(0, BI)
            mask = (i < CI) & (tl.program_id(1) + i * 0 == 0)
            s = tl.load(styles + image * CI + i, mask=mask, other=0.0).to(ACC)
            tl.store(normalised + image * CI + i, s / peak, mask=mask)
    tl.store(scale + image * CO + o, factor, mask=o < CO)
