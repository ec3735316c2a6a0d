"""Packing of weights for the implicit GEMM, with all that depends only on weights; frozen ones are packed once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch.utils.weak import WeakIdKeyDictionary

from ...arguments import accumulator
from ..start import start
from .configs import PLAIN, POLYPHASE
from .demodulation import energy_kernel


class PackedWeight(NamedTuple):
    """Filters for one variant of the kernel.

    weight: pointer to the first element read; strides: of phase, output, tap and input; channels: (I, O) computed;
    energy: [O, I] sums of squares over the taps, in float32 (float64 for float64), or None without demodulation;
    peaks: [O] what the filters were divided by, for float16; taps: [8] vertical and horizontal FIR for TRANSPOSED.
    """

    weight: torch.Tensor
    strides: tuple[int, int, int, int]
    channels: tuple[int, int]
    k: int
    mode: int
    energy: torch.Tensor | None
    peaks: torch.Tensor | None
    taps: torch.Tensor | None = None


def energies(
    weight: torch.Tensor, in_index: torch.Tensor | None = None, out_index: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the sums of squares [O', I'] over the taps of ``weight`` [O, I, k, k] at the indexed channels."""
    co = weight.shape[0] if out_index is None else out_index.shape[0]
    ci = weight.shape[1] if in_index is None else in_index.shape[0]
    acc = accumulator(weight.dtype)
    energy = torch.empty(co, ci, dtype=acc, device=weight.device)
    weight = weight if _one_tap_stride(weight) else weight.contiguous()
    strides = weight.stride()
    with torch.cuda.device_of(weight):
        start(
            energy_kernel, (triton.cdiv(co, 4), triton.cdiv(ci, 64)),
            weight, energy, in_index, out_index, ci, co, strides[0], strides[3], strides[1],
            weight.shape[2] * weight.shape[3], tl_dtype(acc), 4, 64,
        )  # fmt: skip
    return energy


def _one_tap_stride(weight: torch.Tensor) -> bool:
    return weight.stride(2) == weight.shape[3] * weight.stride(3)


def tl_dtype(dtype: torch.dtype) -> triton.language.dtype:
    """Return Triton's name of an accumulator's dtype."""
    return triton.language.float64 if dtype == torch.float64 else triton.language.float32


# Results of separable() by filter: (version of the tensor, taps or None).
_separable = WeakIdKeyDictionary()


def separable(f: torch.Tensor | None) -> torch.Tensor | None:
    """Return taps [8] of a 4 x 4 filter, vertical then horizontal, mirrored, with the gain 4; None if not separable.

    The result is cached until ``f`` changes; on a GPU the first call synchronises.
    """
    if f is None or f.shape != (4, 4):
        return None
    version = None if f.is_inference() else f._version
    known = _separable.get(f)
    if known is not None and version is not None and known[0] == version:
        return known[1]
    values = f.detach().double().cpu()
    rows, columns, total = values.sum(1), values.sum(0), values.sum()
    taps = None
    if total != 0 and (rows[:, None] * columns / total - values).abs().max() <= 1e-7 * values.abs().max():
        taps = torch.cat([2 * rows.flip(0), 2 * columns.flip(0) / total]).float().to(f.device)
    _separable[f] = version, taps
    return taps


def polyphase(weight: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """Return one filter per output phase [4, O, I, 3, 3] for a transposed convolution [O, I, 3, 3] and its 4 x 4 FIR.

    Per axis y[2q + a] = Σ_{e = -1, 0, 1} x[q + e] · G[a - 2e] with G[u] = Σ_k f[k - u + 1] · w[k], f mirrored and
    times 2: the transposed convolution followed by the filter, borders included.
    """
    k = torch.arange(3, device=weight.device)
    a = torch.arange(2, device=weight.device)[:, None, None]
    at = k - a + 2 * k[:, None] + 1
    g = F.pad(4 * f.flip(0, 1).to(weight.dtype), (2, 2, 2, 2))[at[..., None, None, None], at]
    return torch.einsum("aekbfl,oikl->aboief", g, weight).flatten(0, 1)


def filter_peaks(weight: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
    """Return [O] the largest absolute values of filters times ``factor``, in float32, to divide float16 filters by."""
    return weight.abs().amax(dim=(1, 2, 3)).float().clamp_min(torch.finfo(torch.float32).tiny) * factor


def pack(
    weight: torch.Tensor, dtype: torch.dtype, mode: int = PLAIN, resample_filter: torch.Tensor | None = None,
    demodulate: bool = True, flip_weight: bool = True,
) -> PackedWeight:  # fmt: skip
    """Pack ``weight`` [O, I, k, k] for activations of ``dtype``; arguments as of :func:`cagc_kernels.modulated_conv2d`.

    A weight in channels_last memory that needs no change is not copied.
    """
    acc = accumulator(dtype)
    energy = energies(weight) if demodulate else None
    peaks = None
    wide = weight
    if dtype == torch.float16:
        peaks = filter_peaks(weight)
        wide = weight.to(acc) / peaks[:, None, None, None]
    if flip_weight != (mode == PLAIN):
        wide = wide.flip(2, 3)
    phases = polyphase(wide.to(acc), resample_filter) if mode == POLYPHASE else wide[None]
    o, i, k = *weight.shape[:2], weight.shape[2]
    packed = phases.to(dtype).permute(0, 1, 3, 4, 2).reshape(-1, o, k * k, i).contiguous()
    taps = separable(resample_filter) if mode not in (PLAIN, POLYPHASE) else None
    return PackedWeight(packed, (o * k * k * i, k * k * i, i, 1), (i, o), k, mode, energy, peaks, taps)
