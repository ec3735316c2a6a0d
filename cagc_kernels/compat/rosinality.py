"""Replacements for the package ``op`` of rosinality/stylegan2-pytorch, of which many code bases have a copy.

Among them are pSp, e4e, ReStyle, HyperStyle, StyleCLIP, StyleGAN-NADA, Anycost, BasicSR, GFPGAN and CodeFormer.

    from cagc_kernels.compat import rosinality
    rosinality.install()
    from op import FusedLeakyReLU, conv2d_gradfix, fused_leaky_relu, upfirdn2d

Nothing is compiled, neither on import nor later.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..ops import bias_act as _bias_act
from ..ops import checks
from ..ops import upfirdn2d as _upfirdn2d
from . import hook
from .families import Layer, as_dtype, op, real, serve, whole
from .gradfix import CONV2D_GRADFIX, conv2d, conv_transpose2d, no_weight_gradients
from .stand_in import Installation


def fused_leaky_relu(
    input: torch.Tensor,
    bias: torch.Tensor | None = None,
    negative_slope: float = 0.2,
    scale: float = 2**0.5,
) -> torch.Tensor:
    """Call :func:`cagc_kernels.fused_leaky_relu`; on the CPU, ``negative_slope`` is used, where rosinality has 0.2.

    ``bias`` is cast to the dtype of ``input``. For ``input`` [N, L, C] it is added along axis 1, or along the last axis
    if only that fits. Raises TypeError and ValueError as the op does.
    """
    return leaky_relu_along(input, bias, negative_slope, scale)


def leaky_relu_along(input, bias=None, negative_slope=0.2, scale=2**0.5, bias_axis=None) -> torch.Tensor:
    """Call :func:`fused_leaky_relu` with the axis of [N, L, C] along which a copy adds its bias, 1 or -1."""
    axis, bias = 1, as_dtype(bias, input)
    if isinstance(bias, torch.Tensor) and isinstance(input, torch.Tensor) and input.ndim == 3:
        fits = [i for i in (1, -1) if bias.shape == input.shape[i : i + 1 or None]]
        axis = bias_axis or (fits or [1])[0]
    return _bias_act(input, bias, axis, "lrelu", real(negative_slope), real(scale))


class FusedLeakyReLU(nn.Module):
    """:func:`fused_leaky_relu` with a learned bias [channel], which is ``bias`` in the state dict."""

    def __init__(self, channel: int, bias: bool = True, negative_slope: float = 0.2, scale: float = 2**0.5) -> None:
        super().__init__()
        (channel,) = checks.integers("channel", whole("channel", channel), (), 0)
        checks.flag("bias", bias)  # an older signature has negative_slope in this place
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
    pad: int | Sequence[int] = (0, 0),
) -> torch.Tensor:
    """Call :func:`cagc_kernels.upfirdn2d` on [N, C, H, W] with ``kernel`` [kh, kw].

    ``pad`` is (before, after) for both axes, or (x0, x1, y0, y1), or one number for all. NumPy numbers, tensors of one
    element and floats with whole values are accepted as numbers. Raises ValueError and TypeError as the op does.
    """
    given, pad = pad, whole("pad", pad)
    if isinstance(pad, list) and len(pad) not in (2, 4):
        raise ValueError(f"pad: got {given!r}, expected one number, (before, after) or (x0, x1, y0, y1)")
    if isinstance(kernel, torch.Tensor):
        if kernel.ndim != 2:
            raise ValueError(f"kernel: got shape {list(kernel.shape)}, expected [kh, kw]")
        kernel = kernel if kernel.is_floating_point() else as_dtype(kernel, input)
    padding = [*pad, *pad] if isinstance(pad, list) and len(pad) == 2 else pad
    return _upfirdn2d(input, kernel, whole("up", up), whole("down", down), padding)


def upfirdn2d_native(input, kernel, up_x, up_y, down_x, down_y, pad_x0, pad_x1, pad_y0, pad_y1) -> torch.Tensor:
    """Call :func:`upfirdn2d` with separate factors and paddings; it runs kernels on every device."""
    return upfirdn2d(input, kernel, (up_x, up_y), (down_x, down_y), (pad_x0, pad_x1, pad_y0, pad_y1))


def forward_of_copy(module: nn.Module, input: torch.Tensor, sliced: bool) -> torch.Tensor:
    """Compute the forward pass of a copy's class; ``sliced`` uses as much of the bias as the input has channels."""
    bias = module.bias[: input.shape[1]] if sliced and module.bias is not None else module.bias
    return fused_leaky_relu(input, bias, module.negative_slope, module.scale)


_FUSED = {
    "fused_leaky_relu": op(leaky_relu_along, has_bias_axis=True, x="input", b="bias"),
    "FusedLeakyReLU": Layer(forward_of_copy, ("bias", "negative_slope", "scale"), FusedLeakyReLU),
}
serve(
    "fused_act",
    {
        "fused_act": _FUSED,
        "upfirdn2d": {
            "upfirdn2d": op(upfirdn2d, x="input", k="kernel", padding="pad"),
            "upfirdn2d_native": op(upfirdn2d_native),
        },
        "conv2d_gradfix": {f.__name__: op(f) for f in (conv2d, conv_transpose2d, no_weight_gradients)},
    },
)


def _stand_in(package: str) -> Installation:
    functions = {"fused_leaky_relu": fused_leaky_relu, "FusedLeakyReLU": FusedLeakyReLU}
    return Installation(
        "rosinality",
        {
            package: {**functions, "upfirdn2d": upfirdn2d},
            f"{package}.fused_act": functions,
            f"{package}.upfirdn2d": {"upfirdn2d": upfirdn2d, "upfirdn2d_native": upfirdn2d_native},
            f"{package}.conv2d_gradfix": CONV2D_GRADFIX,
        },
        packages=(package,),
        marks=((package, "FusedLeakyReLU"), (package, "upfirdn2d")),
    )


_installation = _stand_in("op")


def install(package: str = "op") -> hook.Installation | Installation:
    """Set our functions in ``package``, imported or not; create the package ``op`` if there is none.

    Packages other than ``op`` are handled by :func:`cagc_kernels.compat.install`, which can also find them by itself.

    Returns a context manager that undoes it. Raises ImportError if another ``package`` cannot be found, and
    RuntimeError if an imported ``op`` is not rosinality's, or was replaced since an earlier install.
    """
    if package != "op" or (not _installation.installed and hook.serves("op")):
        return hook.install(package)
    return _installation.install()


def uninstall() -> None:
    """Undo the last :func:`install`. Raises RuntimeError if it is not installed, or was replaced since."""
    (_installation if _installation.installed else hook).uninstall()
