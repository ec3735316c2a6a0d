"""Replacements for ``conv2d_gradfix`` and ``grid_sample_gradfix``, which offer gradients of any order.

PyTorch's convolutions are differentiable any number of times, but the gradient of its ``grid_sample`` is not.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> torch.Tensor:
    """Call ``torch.nn.functional.conv2d``, which is differentiable any number of times."""
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
) -> torch.Tensor:
    """Call ``torch.nn.functional.conv_transpose2d``, which is differentiable any number of times."""
    return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)


def no_weight_gradients(disable: bool = True):
    """Return a context that does nothing, because PyTorch computes only the gradients that are requested."""
    return nullcontext()


def grid_sample(input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Sample ``input`` [N, C, H, W] bilinearly at ``grid`` [N, H', W', 2], with zeros outside: [N, C, H', W'].

    Equals ``torch.nn.functional.grid_sample(input, grid, align_corners=False)``, and is differentiable any number of
    times in both arguments.

    Raises:
        TypeError, ValueError: an argument is not a tensor, or has another number of dimensions.
    """
    for name, value, axes in (("input", input, "[N, C, H, W]"), ("grid", grid, "[N, H', W', 2]")):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name}: got {type(value).__name__}, expected a torch.Tensor {axes}")
        if value.ndim != 4:
            raise ValueError(f"{name}: got shape {list(value.shape)}, expected {axes}")
    if not torch.is_grad_enabled() or not (input.requires_grad or grid.requires_grad):
        return F.grid_sample(input, grid, align_corners=False)
    return _GridSample.apply(input, grid)


class _GridSample(torch.autograd.Function):
    """Uses PyTorch's kernels for the value and for a last gradient, and gathers for one that may be differentiated."""

    @staticmethod
    def forward(ctx, input, grid):
        ctx.save_for_backward(input, grid)
        return F.grid_sample(input, grid, align_corners=False)

    @staticmethod
    def backward(ctx, g):
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            # Views: if one saved tensor was computed from the other, autograd must not follow that path as well.
            leaves = [t.view_as(t) if t.requires_grad else t for t in ctx.saved_tensors]
            if not again:
                leaves = [t.detach().requires_grad_(t.requires_grad) for t in leaves]
            y = _by_gathers(*leaves) if again else F.grid_sample(*leaves, align_corners=False)
            wanted = [t for t, needed in zip(leaves, ctx.needs_input_grad, strict=True) if needed]
            found = iter(torch.autograd.grad(y, wanted, g, create_graph=again))
        return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)


def _by_gathers(input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Return the same values by operations that PyTorch differentiates any number of times."""
    (n, c, height, width), flat = input.shape, input.flatten(2)
    x, y = ((grid[..., 0] + 1) * width - 1) / 2, ((grid[..., 1] + 1) * height - 1) / 2
    left, top = x.detach().floor(), y.detach().floor()
    total = None
    for dy in (0, 1):
        for dx in (0, 1):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = row.nan_to_num(0).clamp(0, height - 1) * width + column.nan_to_num(0).clamp(0, width - 1)
            place = place.long().flatten(1)
            pixels = flat.gather(2, place[:, None].expand(-1, c, -1)).view(n, c, *x.shape[1:])
            weight = (x - left if dx else 1 - x + left) * (y - top if dy else 1 - y + top)
            term = pixels * weight.where(inside, 0)[:, None]
            total = term if total is None else total + term
    return total


CONV2D_GRADFIX = {
    "conv2d": conv2d,
    "conv_transpose2d": conv_transpose2d,
    "no_weight_gradients": no_weight_gradients,
    "enabled": True,
    "weight_gradients_disabled": False,
}
