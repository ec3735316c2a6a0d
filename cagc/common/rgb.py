"""Images of other channels than RGB, for networks and pictures that take RGB."""

from __future__ import annotations

from torch import Tensor


def as_rgb(images: Tensor) -> Tensor:
    """Images [N, C, H, W] as RGB [N, 3, H, W]: grey (C = 1) in every channel, RGBA (C = 4) without alpha.

    Raises ValueError for another number of channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3, 4):
        raise ValueError(f"images: got shape {list(images.shape)}, expected [N, 3, H, W], or 1 (grey) or 4 (RGBA)")
    return shown(images)


def shown(images: Tensor) -> Tensor:
    """Images [N, C, H, W] as the RGB [N, 3, H, W] to look at: three channels or the first three, else the first."""
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
