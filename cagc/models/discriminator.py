"""StyleGAN2 discriminator with minibatch standard deviation, and with labels by projection.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cagc_kernels import bias_act, downsample2d, setup_filter, upfirdn2d

from ..common.checks import at_least_one, choice, integer
from .labels import check_labels
from .layers import FullyConnected, check_activation, check_clamp, unit_mean_square, wide
from .protocol import Size
from .stylegan2_config import BLOCKS, block_resolutions, check_const_size, size_at, without_defaults

_LABEL_WIDTHS = ("cmap_dim", "mapping_width", "embed_dim")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Configuration of a StyleGAN2 discriminator.

    Attributes:
        resolution: number of the first block, as in a generator's configuration.
        channels: width at each resolution, from ``resolution`` down to 4.
        mbstd_group_size: images that share one minibatch standard deviation; the largest divisor of the batch up to it.
        resample_filter: taps of the FIR used for down-sampling.
        conv_clamp: bound of the absolute value of every convolution's output, for float16; None: no bound.
        c_dim: length of a label; 0: no labels.
        img_channels: channels of an image.
        block_architecture: "resnet" (blocks with a shortcut), "skip" (each block also reads the down-sampled image) or
            "orig" (neither).
        const_size: height and width of the last features, 4 × 4 for square images.
        activation: of the convolutions and of the first fully connected layer.
        mbstd_channels: features that the minibatch standard deviation adds.
        cmap_dim: length of a mapped label, which is projected on the features; None: the width at 4.
        mapping_layers, mapping_width, embed_dim, lr_multiplier: of the mapping network of labels, as in a generator's
            configuration; a width of None is ``cmap_dim``.
    """

    resolution: int
    channels: dict[int, int]
    mbstd_group_size: int = 4
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    conv_clamp: float | None = None
    c_dim: int = 0
    img_channels: int = 3
    block_architecture: str = "resnet"
    const_size: Size = (4, 4)
    activation: str = "lrelu"
    mbstd_channels: int = 1
    cmap_dim: int | None = None
    mapping_layers: int = 8
    mapping_width: int | None = None
    embed_dim: int | None = None
    lr_multiplier: float = 0.01

    def __post_init__(self) -> None:
        channels = {int(resolution): int(width) for resolution, width in self.channels.items()}
        expected = block_resolutions(self.resolution)
        if sorted(channels) != expected:
            raise ValueError(f"channels: got resolutions {sorted(channels)}, expected {expected}")
        check_clamp(self.conv_clamp)
        choice("block_architecture", self.block_architecture, BLOCKS)
        check_activation("activation", self.activation)
        at_least_one(img_channels=self.img_channels)
        for name in ("c_dim", "mapping_layers", "mbstd_channels"):
            if not integer(getattr(self, name)):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected an integer of at least 0")
        if channels[4] % max(self.mbstd_channels, 1):
            raise ValueError(f"mbstd_channels: got {self.mbstd_channels}, expected a divisor of {channels[4]} channels")
        if self.c_dim:
            features = self.cmap_dim or channels[4]
            for name in _LABEL_WIDTHS:
                object.__setattr__(self, name, getattr(self, name) or features)
                at_least_one(**{name: getattr(self, name)})
        object.__setattr__(self, "channels", {r: channels[r] for r in reversed(expected)})
        object.__setattr__(self, "resample_filter", tuple(self.resample_filter))
        object.__setattr__(self, "const_size", check_const_size(self.const_size))

    @property
    def img_size(self) -> Size:
        """Height and width of an image in pixels."""
        return size_at(self.const_size, self.resolution)

    @property
    def label_features(self) -> int:
        """Length of a mapped label; 0 without labels."""
        return self.cmap_dim if self.c_dim else 0

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
        """The fields as JSON-ready containers; options that older checkpoints lack are left out at their defaults."""
        values, default = without_defaults(self, always=4), self.channels[4]
        return {name: value for name, value in values.items() if name not in _LABEL_WIDTHS or value != default}


class Conv2d(nn.Module):
    """Convolution with equalised learning rate, optionally down-sampling by two: x [N, I, h, w] → [N, O, h, w]."""

    def __init__(
        self,
        config: DiscriminatorConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        act: str | None = None,
        down: bool = False,
    ) -> None:
        super().__init__()
        self.act = config.activation if act is None else act
        self.clamp = config.conv_clamp
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if self.act != "linear" else None
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
    """The layers of one resolution: x [N, I, h, w] → [N, O, h/2, w/2].

    Attributes:
        skip: the shortcut around the block; None where the architecture has none.
        from_rgb: reads the image at this resolution, into x; None where the block reads none.
    """

    def __init__(self, config: DiscriminatorConfig, resolution: int) -> None:
        super().__init__()
        in_channels, out_channels = config.channels[resolution], config.channels[resolution // 2]
        self.skip = self.from_rgb = None
        if config.block_architecture == "skip" and resolution < config.resolution:
            self.from_rgb = Conv2d(config, config.img_channels, in_channels, 1)
        self.conv0 = Conv2d(config, in_channels, in_channels, 3)
        self.conv1 = Conv2d(config, in_channels, out_channels, 3, down=True)
        if config.block_architecture == "resnet":
            self.skip = Conv2d(config, in_channels, out_channels, 1, "linear", down=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(self.conv0(x))
        return out if self.skip is None else (out + self.skip(x)) * math.sqrt(0.5)


class LabelMapping(nn.Module):
    """Labels [N, c_dim] → [N, cmap_dim]: an embedding, normalised, then fully connected layers."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        features, width, embedded = config.label_features, config.mapping_width, config.embed_dim
        self.embed = FullyConnected(config.c_dim, embedded if config.mapping_layers else features)
        self.depth = config.mapping_layers
        widths = [embedded, *[width] * (self.depth - 1), features]
        for i in range(self.depth):
            self.add_module(f"fc{i}", FullyConnected(widths[i], widths[i + 1], "lrelu", config.lr_multiplier))

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        x = unit_mean_square(self.embed(c))
        for i in range(self.depth):
            x = getattr(self, f"fc{i}")(x)
        return x


class Discriminator(nn.Module):
    """Images [N, img_channels, *img_size] in [-1, 1], and their labels → logits [N, 1], positive for real.

    Labels enter by projection (Miyato and Koyama, "cGANs with Projection Discriminator", ICLR 2018): the mapped label
    times the features.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        width, (height, length) = config.channels, config.const_size
        self.from_rgb = Conv2d(config, config.img_channels, width[config.resolution], 1)
        for resolution in list(width)[:-1]:
            self.add_module(f"b{resolution}", DiscriminatorBlock(config, resolution))
        self.mapping = LabelMapping(config) if config.c_dim else None
        self.last_from_rgb = None
        if config.block_architecture == "skip" and config.resolution > 4:
            self.last_from_rgb = Conv2d(config, config.img_channels, width[4], 1)
            self.last_from_rgb.clamp = None  # as in the public code
        self.conv = Conv2d(config, width[4] + config.mbstd_channels, width[4], 3)
        self.fc = FullyConnected(width[4] * height * length, width[4], config.activation)
        self.out = FullyConnected(width[4], config.label_features or 1)
        self.register_buffer("resample_filter", setup_filter(config.resample_filter), persistent=False)

    def forward(self, images: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [N, 1] of ``images`` with labels ``c`` [N, c_dim]; None where c_dim is 0.

        Raises:
            ValueError: ``images`` is not [N, img_channels, *img_size], or ``c`` is not as above.
        """
        shape = (self.config.img_channels, *self.config.img_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != shape:
            raise ValueError(f"images: got shape {list(images.shape)}, expected [N, {', '.join(map(str, shape))}]")
        check_labels(c, len(images), self.config.c_dim)
        x = self.from_rgb(images)
        for r in list(self.config.channels)[:-1]:
            block = getattr(self, f"b{r}")
            if block.from_rgb is not None:
                images = downsample2d(images, self.resample_filter)
                x = x + block.from_rgb(images)
            x = block(x)
        if self.last_from_rgb is not None:
            x = x + self.last_from_rgb(downsample2d(images, self.resample_filter))
        x = self.conv(append_minibatch_std(x, self.config.mbstd_group_size, self.config.mbstd_channels))
        x = self.out(self.fc(x.flatten(1)))
        if self.mapping is None:
            return x
        return (x * self.mapping(c)).sum(dim=1, keepdim=True) / math.sqrt(x.shape[1])


def minibatch_group(batch: int, group_size: int) -> int:
    """The largest divisor of ``batch`` up to ``group_size``."""
    return max(size for size in range(1, min(group_size, batch) + 1) if batch % size == 0)


def append_minibatch_std(x: torch.Tensor, group_size: int, features: int = 1) -> torch.Tensor:
    """[N, C, h, w] → [N, C + features, h, w]: the mean standard deviation over images that are N / group apart.

    Each of ``features`` is the mean over an equal share of the channels. Karras et al., "Progressive Growing of GANs",
    ICLR 2018, section 3.
    """
    n, c, h, w = x.shape
    if n == 0 or features == 0:
        return x.new_empty(n, c + features, h, w) if n == 0 else x
    group = minibatch_group(n, group_size)
    grouped = wide(x).reshape(group, n // group, features, c // features, h, w)
    std = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(2, 3, 4)).to(x.dtype)
    return torch.cat([x, std.repeat(group, 1).reshape(n, features, 1, 1).expand(n, features, h, w)], dim=1)
