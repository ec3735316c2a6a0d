"""StyleGAN2 discriminator (residual architecture) with minibatch standard deviation.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cagc_kernels import bias_act, setup_filter, upfirdn2d

from .layers import FullyConnected, check_clamp, wide
from .stylegan2 import block_resolutions


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Configuration of a StyleGAN2 discriminator.

    Attributes:
        resolution: image height and width, a power of two from 4 on.
        channels: width at each resolution, from ``resolution`` down to 4.
        mbstd_group_size: images that share one minibatch standard deviation; the largest divisor of the batch up to it.
        resample_filter: taps of the FIR used for down-sampling.
        conv_clamp: bound of the absolute value of every convolution's output, for float16; None: no bound.
    """

    resolution: int
    channels: dict[int, int]
    mbstd_group_size: int = 4
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    conv_clamp: float | None = None

    def __post_init__(self) -> None:
        channels = {int(resolution): int(width) for resolution, width in self.channels.items()}
        expected = block_resolutions(self.resolution)
        if sorted(channels) != expected:
            raise ValueError(f"channels: got resolutions {sorted(channels)}, expected {expected}")
        check_clamp(self.conv_clamp)
        object.__setattr__(self, "channels", {r: channels[r] for r in reversed(expected)})
        object.__setattr__(self, "resample_filter", tuple(self.resample_filter))

    @classmethod
    def uniform(
        cls, resolution: int, channel_base: int = 32768, channel_max: int = 512, **options: Any
    ) -> DiscriminatorConfig:
        """Widths ``min(channel_base / r, channel_max)`` at resolution r."""
        widths = {r: min(channel_base // r, channel_max) for r in block_resolutions(resolution)}
        return cls(resolution, widths, **options)

    def group_size(self, batch: int) -> int:
        """Images that share one minibatch standard deviation in a batch of ``batch``."""
        return minibatch_group(batch, self.mbstd_group_size)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready containers; a ``conv_clamp`` of None is left out, as older checkpoints lack it."""
        return {name: value for name, value in asdict(self).items() if name != "conv_clamp" or value is not None}


class Conv2d(nn.Module):
    """Convolution with equalised learning rate, optionally down-sampling by two: x [N, I, h, w] → [N, O, h, w]."""

    def __init__(
        self,
        config: DiscriminatorConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        act: str = "lrelu",
        down: bool = False,
    ) -> None:
        super().__init__()
        self.act = act
        self.clamp = config.conv_clamp
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if act != "linear" else None
        taps = setup_filter(config.resample_filter) if down else None
        self.register_buffer("resample_filter", taps, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight * self.weight_gain
        if self.resample_filter is None:
            x = F.conv2d(x, weight, padding=self.padding)
        else:
            taps = self.resample_filter.shape[0]
            before, after = self.padding + (taps - 1) // 2, self.padding + (taps - 2) // 2
            down = 2 if self.padding == 0 else 1  # a 1×1 convolution commutes with dropping pixels
            x = upfirdn2d(x, self.resample_filter, down=down, padding=[before, after, before, after])
            x = F.conv2d(x, weight, stride=2 // down)
        if self.bias is None and self.clamp is None:
            return x
        return bias_act(x, self.bias, act=self.act, clamp=self.clamp)


class DiscriminatorBlock(nn.Module):
    """Residual block: x [N, I, h, w] → [N, O, h/2, w/2]."""

    def __init__(self, config: DiscriminatorConfig, resolution: int) -> None:
        super().__init__()
        in_channels, out_channels = config.channels[resolution], config.channels[resolution // 2]
        self.conv0 = Conv2d(config, in_channels, in_channels, 3)
        self.conv1 = Conv2d(config, in_channels, out_channels, 3, down=True)
        self.skip = Conv2d(config, in_channels, out_channels, 1, "linear", down=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.conv1(self.conv0(x)) + self.skip(x)) * math.sqrt(0.5)


class Discriminator(nn.Module):
    """Images [N, 3, R, R] in [-1, 1] → logits [N, 1], positive for real."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.from_rgb = Conv2d(config, 3, width[config.resolution], 1)
        for resolution in list(width)[:-1]:
            self.add_module(f"b{resolution}", DiscriminatorBlock(config, resolution))
        self.conv = Conv2d(config, width[4] + 1, width[4], 3)
        self.fc = FullyConnected(width[4] * 16, width[4], "lrelu")
        self.out = FullyConnected(width[4], 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, 1].

        Raises:
            ValueError: ``images`` is not [N, 3, R, R].
        """
        resolution = self.config.resolution
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, resolution, resolution):
            raise ValueError(f"images: got shape {list(images.shape)}, expected [N, 3, {resolution}, {resolution}]")
        x = self.from_rgb(images)
        for r in list(self.config.channels)[:-1]:
            x = getattr(self, f"b{r}")(x)
        x = self.conv(append_minibatch_std(x, self.config.mbstd_group_size))
        return self.out(self.fc(x.flatten(1)))


def minibatch_group(batch: int, group_size: int) -> int:
    """The largest divisor of ``batch`` up to ``group_size``."""
    return max(size for size in range(1, min(group_size, batch) + 1) if batch % size == 0)


def append_minibatch_std(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """[N, C, h, w] → [N, C + 1, h, w]: the mean standard deviation over images that are N / group apart.

    Karras et al., "Progressive Growing of GANs", ICLR 2018, section 3.
    """
    n, c, h, w = x.shape
    if n == 0:
        return x.new_empty(0, c + 1, h, w)
    group = minibatch_group(n, group_size)
    grouped = wide(x).reshape(group, n // group, c, h, w)
    std = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3)).to(x.dtype)
    return torch.cat([x, std.repeat(group).reshape(n, 1, 1, 1).expand(n, 1, h, w)], dim=1)
