"""Kernels of style-based generators: bias and activation, resampling, modulated convolution.

Attributes load on first use, so that ``python -m cagc_kernels.doctor`` runs where PyTorch is missing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "bias_act": "ops.bias_act",
    "fused_leaky_relu": "ops.bias_act",
    "setup_filter": "ops.upfirdn2d",
    "upfirdn2d": "ops.upfirdn2d",
    "filter2d": "ops.upfirdn2d",
    "upsample2d": "ops.upfirdn2d",
    "downsample2d": "ops.upfirdn2d",
    "modulated_conv2d": "ops.modulated_conv2d",
    "styled_conv2d": "ops.modulated_conv2d",
    "filtered_lrelu": "ops.filtered_lrelu",
    "sparse_channel_conv2d": "ops.sparse_channel_conv2d",
    "BACKENDS": "backend",
    "explain": "backend",
    "use_backend": "backend",
    "without_packing": "backend",
    "verify": "verification",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from .backend import BACKENDS, explain, use_backend, without_packing
    from .ops.bias_act import bias_act, fused_leaky_relu
    from .ops.filtered_lrelu import filtered_lrelu
    from .ops.modulated_conv2d import modulated_conv2d, styled_conv2d
    from .ops.sparse_channel_conv2d import sparse_channel_conv2d
    from .ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
    from .verification import verify


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__():
    return sorted(__all__)
