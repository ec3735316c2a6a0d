"""Up-sampling, FIR filtering and down-sampling in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def parse_factors(factor: int | Sequence[int]) -> tuple[int, int]:
    """Return ``(x, y)`` from one integer or a pair."""
    return (factor, factor) if isinstance(factor, int) else (factor[0], factor[1])


def parse_padding(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Return ``(x0, x1, y0, y1)`` from one integer, ``[x, y]`` or all four."""
    if isinstance(padding, int):
        return (padding,) * 4
    if len(padding) == 2:
        x, y = padding
        return x, x, y, y
    x0, x1, y0, y1 = padding
    return x0, x1, y0, y1


def as_taps(f: torch.Tensor | Sequence | float | None) -> torch.Tensor:
    """Return the taps as float32; numbers go to the CPU, because a default device of "meta" would lose them."""
    device = None if isinstance(f, torch.Tensor) else "cpu"
    return torch.as_tensor(1 if f is None else f, dtype=torch.float32, device=device)


def setup_filter(
    f: torch.Tensor | Sequence | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Return filter taps as the float32 tensor that :func:`upfirdn2d` takes; see :func:`cagc_kernels.setup_filter`."""
    f = as_taps(f)
    if f.ndim == 0:
        f = f[None]
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    if f.ndim == 1 and not separable:
        f = f.outer(f)
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device)


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Insert zeros, pad or crop, filter, keep every ``down``-th pixel; see :func:`cagc_kernels.upfirdn2d`."""
    up_x, up_y = parse_factors(up)
    down_x, down_y = parse_factors(down)
    x0, x1, y0, y1 = parse_padding(padding)
    n, c, h, w = x.shape
    if f is None:
        f = torch.ones([1, 1], dtype=torch.float32, device=x.device)
    if up_x > 1 or up_y > 1:
        x = x.reshape(n, c, h, 1, w, 1)
        x = F.pad(x, [0, up_x - 1, 0, 0, 0, up_y - 1]).reshape(n, c, h * up_y, w * up_x)
    padding = (x0, x1, y0, y1)
    x = F.pad(x, [max(p, 0) for p in padding])
    if min(padding) < 0:  # crop after padding, because a crop may be wider than x
        x = F.pad(x, [min(p, 0) for p in padding])

    if c == 0:  # a convolution has at least one group
        return x[:, :, : x.shape[2] - f.shape[0] + 1 : down_y, : x.shape[3] - f.shape[-1] + 1 : down_x]
    f = f.to(x.dtype) * abs(gain) ** (f.ndim / 2)
    if not flip_filter:
        f = f.flip(list(range(f.ndim)))
    rows = f if gain >= 0 else -f
    if f.ndim == 2:
        return F.conv2d(x, rows.expand(c, 1, -1, -1), stride=(down_y, down_x), groups=c)
    x = F.conv2d(x, rows.expand(c, 1, 1, -1), stride=(1, down_x), groups=c)
    return F.conv2d(x, f[:, None].expand(c, 1, -1, 1), stride=(down_y, 1), groups=c)
