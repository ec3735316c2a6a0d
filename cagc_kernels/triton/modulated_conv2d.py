"""Modulated convolution in Triton: one implicit GEMM that includes modulation, demodulation and the epilogue.

Forward only: the backward pass differentiates the reference (:mod:`cagc_kernels.ops.single_kernel`). Fused are k = 1, 3
and 5 with any symmetric padding, and up-sampling by 2 with 3 x 3 weights and 4 x 4 taps. float32 uses
TF32 products if ``torch.backends.cudnn.allow_tf32`` allows them for convolutions.
"""

from __future__ import annotations

import torch

from ..arguments import Epilogue, Resampling
from .gemm import launch
from .gemm.configs import POLYPHASE, TRANSPOSED, Config, Problem
from .gemm.packing import PackedWeight, pack, separable
from .gemm.winners import choose

# It packs weights itself, for its own kernels.
packed = None


def composed_because(x: torch.Tensor, weight: torch.Tensor, resampling: Resampling, epilogue: Epilogue) -> str | None:
    """Return why one kernel cannot compute the whole layer, or None if it can."""
    (kh, kw), (x0, x1, y0, y1) = weight.shape[2:], resampling.padding
    up, _ = resampling.up
    if resampling.down != (1, 1):
        return f"down={resampling.down[0]}"
    if kh != kw or kh not in (1, 3, 5):
        return f"a {kh} x {kw} kernel"
    if x0 != x1 or y0 != y1 or min(x0, y0) < 0:
        return f"padding {list(resampling.padding)}"
    if up != 1 and (resampling.up, kh, x0, y0) != ((2, 2), 3, 1, 1):
        return f"up={up} of a {kh} x {kw} kernel at padding {list(resampling.padding)}"
    if up == 2 and (resampling.filter is None or resampling.filter.shape != (4, 4)):
        return "a filter that is not 4 x 4"
    if epilogue.noise is not None and epilogue.noise.ndim == 4 and epilogue.noise.shape[1] > 1:
        return "noise per channel"
    return None if max(x[0].numel(), weight.shape[0] * 4 * up**2 * x[0, 0].numel()) < 2**31 else "too large an image"


def problem(x: torch.Tensor, weight: torch.Tensor, resampling: Resampling) -> Problem:
    """Return the :class:`Problem` by which a fused call chooses its config."""
    n, ci, h, w = x.shape
    co, _, k, _ = weight.shape
    dtype, arch = launch.kind(x)
    if resampling.up == (1, 1):
        return Problem(dtype, n, *resampling.output_size(x, (k, k)), ci, co, k, arch=arch)
    # The factors of a separated filter are rounded to float32, which is not enough for float64.
    separated = x.dtype != torch.float64 and separable(resampling.filter) is not None
    return Problem(dtype, n, h, w, ci, co, k, (POLYPHASE, TRANSPOSED) if separated else (POLYPHASE,), arch=arch)


def layer(
    x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, demodulate: bool, modulate: bool, flip_weight: bool,
    resampling: Resampling, epilogue: Epilogue,
) -> torch.Tensor:  # fmt: skip
    """Return the whole layer's output for a call that :func:`composed_because` accepts; forward only."""
    x0, _, y0, _ = resampling.padding

    def packed(config: Config) -> PackedWeight:
        return pack(weight, x.dtype, config.mode, resampling.filter, demodulate, flip_weight)

    def run(config: Config) -> torch.Tensor:
        return launch.layer(x, packed(config), styles, epilogue, config, (y0, x0), modulate)

    def time(config: Config) -> float:
        arguments = x, packed(config), styles, epilogue, config, (y0, x0), modulate
        return launch.milliseconds(lambda: launch.layer(*arguments))

    return run(choose(problem(x, weight, resampling), launch.device_name(x.device), time, run))
