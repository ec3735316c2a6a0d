"""Kernels of a frozen generator's vectors: the mapping network, all affine layers in one, all demodulation in one.

Vectors of several layers are stored layer after layer: element (n, c) of layer l with C channels is at
``start(l) · N + n · C + c``. Starts are multiples of :data:`ALIGN`, so that every layer is aligned and dense.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .gemm.demodulation import EPS

ALIGN = 16
# Outputs and inputs per step: few outputs, so that one image already fills a GPU.
OUTPUTS, INPUTS = 4, 512


@triton.jit(do_not_specialize=("n", "x_n", "x_w"))
def fully_connected_kernel(
    x, weight, bias, table, y, n, x_n, x_w,
    CI: tl.constexpr, CO: tl.constexpr, NORMALISE: tl.constexpr, LRELU: tl.constexpr, BO: tl.constexpr,
    BI: tl.constexpr,
):  # fmt: skip
    """Compute ``y = weight · x + bias`` for BO rows of one image.

    NORMALISE scales x to unit mean square first; LRELU applies leaky ReLU last. ``table`` [blocks, 3] gives, for each
    block of rows, the index of its w in x, and the start and width of its layer; without it all rows are one layer.
    Rows up to the next layer's start are padding in ``weight`` and ``bias``.
    """
    block, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    which, start, width = 0, 0, CO
    if table is not None:
        which, start, width = tl.load(table + block * 3), tl.load(table + block * 3 + 1), tl.load(table + block * 3 + 2)
    row = block * BO + tl.arange(0, BO)
    x += image * x_n + which * x_w
    total, squares = tl.zeros((BO,), tl.float32), tl.zeros((BI,), tl.float32)
    for step in tl.static_range((CI + BI - 1) // BI):
        i = step * BI + tl.arange(0, BI)
        v = tl.load(x + i, mask=i < CI, other=0.0).to(tl.float32)
        at = weight + row.to(tl.int64)[:, None] * CI + i[None, :]
        filters = tl.load(at, mask=(row - start < width)[:, None] & (i < CI)[None, :], other=0.0).to(tl.float32)
        total += tl.sum(filters * v[None, :], 1)
        squares += v * v
    if NORMALISE:
        total *= 1.0 / tl.sqrt(tl.sum(squares, 0) / CI + EPS)
    o = row - start
    total += tl.load(bias + row, mask=o < width, other=0.0)
    if LRELU:
        total = tl.where(total > 0, total, total * 0.2)
    tl.store(y + start * n + image * width + o, total.to(y.dtype.element_ty), mask=o < width)


@triton.jit(do_not_specialize=("n",))
def demodulations_kernel(
    styles, energy, peaks, table, scale, normalised, n, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """Compute :func:`.demodulation.demodulation_kernel` for all layers: ``scale`` of BO outputs of an image and layer.

    ``table`` [blocks, 5]: start and width of the layer's styles, start of its energies, start and number of its
    outputs. With ``peaks`` also writes ``normalised``: the styles divided by their largest absolute value.
    """
    block, image = table + tl.program_id(0) * 5, tl.program_id(1).to(tl.int64)
    start, inputs, first = tl.load(block), tl.load(block + 1), tl.load(block + 2)
    out, outputs = tl.load(block + 3), tl.load(block + 4)
    o = tl.program_id(0) * BO + tl.arange(0, BO) - out
    at = start * n + image * inputs
    total, largest = tl.zeros((BO,), tl.float32), tl.zeros((BI,), tl.float32)
    for step in range(tl.cdiv(inputs, BI)):
        i = step * BI + tl.arange(0, BI)
        s = tl.load(styles + at + i, mask=i < inputs, other=0.0)
        largest = tl.maximum(largest, tl.abs(s))
        inside = (o < outputs)[:, None] & (i < inputs)[None, :]
        e = tl.load(energy + first + o[:, None] * inputs + i[None, :], mask=inside, other=0.0)
        total += tl.sum(e * (s * s)[None, :], 1)
    factor = 1.0 / tl.sqrt(total + EPS)
    if peaks is not None:
        peak = tl.maximum(tl.max(largest, 0), 1e-30)
        factor *= peak * tl.load(peaks + out + o, mask=o < outputs, other=0.0)
        for step in range(tl.cdiv(inputs, BI)):
            i = step * BI + tl.arange(0, BI)
            mask = (i < inputs) & (tl.program_id(0) * BO + i * 0 == out)
            s = tl.load(styles + at + i, mask=mask, other=0.0)
            tl.store(normalised + at + i, s / peak, mask=mask)
    tl.store(scale + out * n + image * outputs + o, factor, mask=o < outputs)
