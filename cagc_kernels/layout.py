"""Memory order of the tensors that kernels walk.

An elementwise kernel visits a dense tensor in memory order, whatever the order of its axes: contiguous, channels_last
or any permutation. Outputs take the order of the input, in real tensors and in fake ones alike, because both are made
by ``torch.empty_like``. A kernel over images knows two orders, contiguous and channels_last, with any stride between
rows, planes and samples; :func:`empty_images` makes its outputs, real and fake.
"""

from __future__ import annotations

import torch


def allocate(like: torch.Tensor) -> torch.Tensor:
    """A fresh output; every kernel takes its outputs from here, so that the tests can poison them."""
    return torch.empty_like(like)


def _is_dense(x: torch.Tensor) -> bool:
    if x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return True
    return torch.empty_like(x, device="meta").stride() == x.stride()


def dense(x: torch.Tensor) -> torch.Tensor:
    """``x``, copied if it has gaps or overlaps itself."""
    return x if _is_dense(x) else torch.empty_like(x).copy_(x)


def dense_like(x: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor | None:
    """``x``, copied if its memory order is not that of the dense ``other``."""
    if x is None or x.stride() == other.stride():
        return x
    return torch.empty_like(other).copy_(x)


def channel_step(x: torch.Tensor, dim: int, b: torch.Tensor | None) -> tuple[int, int]:
    """(step, channels): element i of the dense ``x``, in memory order, has bias ``b[i // step % channels]``."""
    if b is None or x.shape[dim] == 1:
        return max(1, x.numel()), 1
    return x.stride(dim), x.shape[dim]


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether the channels of a pixel of [N, C, H, W] are adjacent and its neighbours in a row are not."""
    _, channel, _, pixel = x.stride()
    return pixel > 1 and channel == 1 and x.shape[1] > 1


def images(x: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W] whose rows are without gaps, of pixels or of whole channels_last pixels: ``x``, or a copy of it."""
    if is_channels_last(x):
        return x if x.stride(3) == x.shape[1] else x.contiguous(memory_format=torch.channels_last)
    return x if x.stride(3) == 1 else x.contiguous()


def packed(x: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """[N, C, H, W] without gaps and whether it is channels_last: ``x``, or a copy of it."""
    last = is_channels_last(x)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format), last


def empty_images(
    x: torch.Tensor, height: int, width: int, dtype: torch.dtype | None = None, channels: int | None = None
) -> torch.Tensor:
    """An uninitialised [N, C, height, width], channels_last if ``x`` is and contiguous otherwise; C is as in ``x``."""
    size = (x.shape[0], x.shape[1] if channels is None else channels, height, width)
    if is_channels_last(x):
        return torch.empty(size, dtype=dtype or x.dtype, device=x.device, memory_format=torch.channels_last)
    return x.new_empty(size, dtype=dtype)


def allocate_images(x: torch.Tensor, height: int, width: int, channels: int | None = None) -> torch.Tensor:
    """:func:`empty_images` for kernels; like :func:`allocate`, a place where the tests can poison outputs."""
    return empty_images(x, height, width, channels=channels)
