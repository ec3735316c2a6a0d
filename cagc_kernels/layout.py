"""Memory layouts that the kernels accept, and allocation of their outputs.

An elementwise kernel visits a dense tensor in memory order, so the axes may be in any order: contiguous, channels_last
or another permutation. Its output has the layout of the input; real and fake outputs agree because both come from
``torch.empty_like``. A kernel over images supports contiguous and channels_last, with any stride between rows, planes
and samples; its real and fake outputs come from :func:`empty_images`.
"""

from __future__ import annotations

import torch


def allocate(like: torch.Tensor) -> torch.Tensor:
    """Return an uninitialised output like ``like``; kernels allocate here, so that tests can fill outputs with NaN."""
    return torch.empty_like(like)


def _is_dense(x: torch.Tensor) -> bool:
    if x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return True
    return torch.empty_like(x, device="meta").stride() == x.stride()


def dense(x: torch.Tensor) -> torch.Tensor:
    """Return ``x``, copied if its memory has gaps or overlaps."""
    return x if _is_dense(x) else torch.empty_like(x).copy_(x)


def dense_like(x: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor | None:
    """Return ``x``, copied if its strides differ from those of the dense ``other``."""
    if x is None or x.stride() == other.stride():
        return x
    return torch.empty_like(other).copy_(x)


def channel_step(x: torch.Tensor, dim: int, b: torch.Tensor | None) -> tuple[int, int]:
    """Return (step, channels): element i of the dense ``x``, in memory order, has bias ``b[i // step % channels]``."""
    if b is None or x.shape[dim] == 1:
        return max(1, x.numel()), 1
    return x.stride(dim), x.shape[dim]


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether ``x`` [N, C, H, W] has adjacent channels and C > 1, and its pixels are not adjacent."""
    _, channel, _, pixel = x.stride()
    return pixel > 1 and channel == 1 and x.shape[1] > 1


def images(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` [N, C, H, W], copied if its rows have gaps between pixels (for channels_last, whole pixels)."""
    if is_channels_last(x):
        return x if x.stride(3) == x.shape[1] else x.contiguous(memory_format=torch.channels_last)
    return x if x.stride(3) == 1 else x.contiguous()


def packed(x: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Return ``x`` [N, C, H, W], copied if it has gaps, and whether it is channels_last."""
    last = is_channels_last(x)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format), last


def empty_images(
    x: torch.Tensor, height: int, width: int, channels: int | None = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return an uninitialised [N, channels, height, width], channels_last if ``x`` is, else contiguous.

    N is that of ``x`` [N, C, H, W]; ``channels`` and ``dtype`` default to those of ``x``.
    """
    n, c, *_ = x.shape
    c = c if channels is None else channels
    if is_channels_last(x):
        size = (n, c, height, width)
        return torch.empty(size, dtype=dtype or x.dtype, device=x.device, memory_format=torch.channels_last)
    return x.new_empty(n, c, height, width, dtype=dtype)  # PyTorch reads a tuple of sizes more slowly


def allocate_images(x: torch.Tensor, height: int, width: int, channels: int | None = None) -> torch.Tensor:
    """Return :func:`empty_images` for a kernel; like :func:`allocate`, a hook where tests can fill outputs with NaN."""
    return empty_images(x, height, width, channels=channels)
