"""Memory order of the tensors that elementwise kernels walk.

A kernel visits a dense tensor in memory order, whatever the order of its axes: contiguous, channels_last or any
permutation. Outputs take the order of the input, in real tensors and in fake ones alike, because both are made by
``torch.empty_like``.
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
