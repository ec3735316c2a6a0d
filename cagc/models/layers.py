"""Layers and checks shared by generators and discriminators."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cagc_kernels import bias_act
from cagc_kernels.reference.bias_act import ACTIVATIONS

from ..common.checks import at_least_one, choice


def check_clamp(value: object) -> None:
    """Raise ValueError if ``conv_clamp`` is neither None nor a number above 0."""
    valid = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0)
    if not valid:
        raise ValueError(f"conv_clamp: got {value!r}, expected a number above 0, or None")


def check_activation(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is the name of an activation of :func:`cagc_kernels.bias_act`."""
    choice(name, value, ACTIVATIONS)


def ordered_channels(channels: Mapping[str, int], layers: Sequence[str]) -> dict[str, int]:
    """``channels`` in the order of ``layers``.

    Raises TypeError or ValueError unless the names are exactly these layers and each width is an integer of at least 1.
    """
    if sorted(channels) != sorted(layers):
        raise ValueError(f"channels: got layers {list(channels)}, expected {list(layers)}")
    at_least_one(**{f"channels of {name}": channels[name] for name in layers})
    return {name: channels[name] for name in layers}


def autocasting(device_type: str) -> bool:
    """Whether ``torch.autocast`` is on for a type of device; False for "meta", which autocast does not support."""
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


def wide(x: torch.Tensor) -> torch.Tensor:
    """``x`` in float32 under ``torch.autocast`` (float64 stays), else unchanged."""
    return x.float() if autocasting(x.device.type) and x.dtype != torch.float64 else x


def bounded(styles: torch.Tensor) -> torch.Tensor:
    """``styles`` [N, I] of a demodulated layer; in float16 scaled to a maximum of 1 per sample, against overflow.

    Demodulation cancels the scale.
    """
    kind = styles.device.type
    dtype = torch.get_autocast_dtype(kind) if autocasting(kind) else styles.dtype
    if dtype != torch.float16:
        return styles
    return styles / styles.detach().abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(styles.dtype).tiny)


def unit_mean_square(x: torch.Tensor) -> torch.Tensor:
    """``x`` [N, F] scaled so that the mean square of each row is 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def enlarged(x: torch.Tensor) -> torch.Tensor:
    """``x`` [N, C, h, w] up-sampled bilinearly to [N, C, 2h, 2w]."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class FullyConnected(nn.Module):
    """Linear layer with equalised learning rate: x [N, in] → [N, out], in the dtype of its weight, autocast or not."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.act = act
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if autocasting(x.device.type):
            # Latents, styles and logits stay in float32, which costs little; images depend on their precision.
            with torch.autocast(x.device.type, enabled=False):
                return self._forward(x.to(self.weight.dtype))
        return self._forward(x)

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.bias if self.bias_gain == 1 else self.bias * self.bias_gain
        if self.act == "linear":
            return torch.addmm(bias, x, self.weight.t(), alpha=self.weight_gain)
        return bias_act(x @ (self.weight * self.weight_gain).t(), bias, act=self.act)
