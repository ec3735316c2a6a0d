"""The ``op`` package of rosinality/stylegan2-pytorch, and of the many code bases that carry a copy, on our ops.

    from cagc_kernels.compat import rosinality
    rosinality.install()
    from op import FusedLeakyReLU, conv2d_gradfix, fused_leaky_relu, upfirdn2d

Nothing is compiled, on import or later, and a package ``op`` on the path is not imported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..ops import bias_act as _bias_act
from ..ops import checks
from ..ops import upfirdn2d as _upfirdn2d
from . import CONV2D_GRADFIX, Installation


def fused_leaky_relu(
    input: torch.Tensor, bias: torch.Tensor | None = None, negative_slope: float = 0.2, scale: float = 2**0.5
) -> torch.Tensor:
    """:func:`cagc_kernels.fused_leaky_relu`; ``negative_slope`` counts on the CPU too, where the peer has 0.2."""
    return _bias_act(input, bias, 1, "lrelu", negative_slope, scale)


class FusedLeakyReLU(nn.Module):
    """:func:`fused_leaky_relu` with a learned bias [channel]; state dict: ``bias``, if there is one."""

    def __init__(self, channel: int, bias: bool = True, negative_slope: float = 0.2, scale: float = 2**0.5) -> None:
        super().__init__()
        checks.integers("channel", channel, (), 0)
        checks.number("negative_slope", negative_slope, optional=False)
        checks.number("scale", scale, optional=False)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channel)) if bias else None)
        self.negative_slope = negative_slope
        self.scale = scale

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}, scale={self.scale:.4g}"


def upfirdn2d(
    input: torch.Tensor,
    kernel: torch.Tensor,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    pad: Sequence[int] = (0, 0),
) -> torch.Tensor:
    """:func:`cagc_kernels.upfirdn2d` of [N, C, H, W] with ``kernel`` [kh, kw].

    ``pad`` is (before, after) for both axes, or (x0, x1, y0, y1). Raises ValueError and TypeError as the op does.
    """
    if not isinstance(pad, Sequence) or len(pad) not in (2, 4):
        raise ValueError(f"pad: got {pad!r}, expected (before, after) or (x0, x1, y0, y1)")
    if isinstance(kernel, torch.Tensor) and kernel.ndim != 2:
        raise ValueError(f"kernel: got shape {list(kernel.shape)}, expected [kh, kw]")
    padding = list(pad) if len(pad) == 4 else [*pad, *pad]
    return _upfirdn2d(input, kernel, up, down, padding)


def upfirdn2d_native(input, kernel, up_x, up_y, down_x, down_y, pad_x0, pad_x1, pad_y0, pad_y1) -> torch.Tensor:
    """:func:`upfirdn2d` with its factors and padding one by one; on every device, and by kernels."""
    return upfirdn2d(input, kernel, (up_x, up_y), (down_x, down_y), (pad_x0, pad_x1, pad_y0, pad_y1))


_installation = Installation(
    "rosinality",
    {
        "op": {"FusedLeakyReLU": FusedLeakyReLU, "fused_leaky_relu": fused_leaky_relu, "upfirdn2d": upfirdn2d},
        "op.fused_act": {"FusedLeakyReLU": FusedLeakyReLU, "fused_leaky_relu": fused_leaky_relu},
        "op.upfirdn2d": {"upfirdn2d": upfirdn2d, "upfirdn2d_native": upfirdn2d_native},
        "op.conv2d_gradfix": CONV2D_GRADFIX,
    },
    packages=("op",),
    marks=(("op", "FusedLeakyReLU"), ("op", "upfirdn2d")),
)


def install() -> Installation:
    """Put the package ``op`` into ``sys.modules``, or our functions into it if it is imported already.

    Returns a context manager that undoes it. Raises RuntimeError if ``op`` is imported and is something else, or has
    been replaced since an earlier install.
    """
    return _installation.install()


def uninstall() -> None:
    """Undo :func:`install`. Raises RuntimeError if it is not installed, or was replaced since."""
    _installation.uninstall()
