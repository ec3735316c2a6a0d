"""The public ops: argument checks, choice of backend, registration with PyTorch."""

from .bias_act import bias_act, fused_leaky_relu
from .filtered_lrelu import filtered_lrelu
from .modulated_conv2d import modulated_conv2d, styled_conv2d
from .sparse_channel_conv2d import sparse_channel_conv2d
from .upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = [
    "bias_act",
    "downsample2d",
    "filter2d",
    "filtered_lrelu",
    "fused_leaky_relu",
    "modulated_conv2d",
    "setup_filter",
    "sparse_channel_conv2d",
    "styled_conv2d",
    "upfirdn2d",
    "upsample2d",
]
