"""SN-GAN: a ResNet generator with batch normalisation, and a discriminator with spectral normalisation.

Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018; the layers and their order are
those of the public PyTorch version for CIFAR-10. There is no mapping network (w is z) and no noise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from cagc_kernels import bias_act
from cagc_kernels.profiling import layer_range
from cagc_kernels.synthesis import ResidualWeights

from ..common.checks import at_least_one
from .base import BaseGenerator, BaseMapping, BaseSynthesis
from .labels import check_labels
from .layers import ordered_channels
from .protocol import LayerSpec, Noise
from .sngan_folded import FoldedSynthesis, residual_weights
from .stylegan2_config import block_resolutions


def layer_names(resolution: int) -> list[str]:
    """Names of the channel groups from the projected latent to the output of the last block."""
    return ["b4"] + [f"b{r}.{conv}" for r in block_resolutions(resolution)[1:] for conv in ("conv0", "conv1")]


@dataclass(frozen=True)
class SNGANConfig:
    """Configuration of an SN-GAN generator.

    Attributes:
        resolution: image height and width, a power of two from 8 on; 32 as published.
        channels: width of each layer of :func:`layer_names`; "conv1" is the output of a block.
        z_dim: length of z.
        architecture: name of this model in a checkpoint.
    """

    resolution: int
    channels: dict[str, int]
    z_dim: int = 128
    architecture: str = "sngan"

    def __post_init__(self) -> None:
        layers = layer_names(self.resolution)
        if self.resolution < 8:
            raise ValueError(f"resolution: got {self.resolution}, expected a power of two from 8 on")
        object.__setattr__(self, "channels", ordered_channels(self.channels, layers))
        at_least_one(z_dim=self.z_dim)

    @classmethod
    def uniform(cls, resolution: int = 32, width: int = 256, **options: Any) -> SNGANConfig:
        """Every layer of the same width; 32 px and 256 are the published ones."""
        return cls(resolution, dict.fromkeys(layer_names(resolution), width), **options)

    c_dim = 0
    num_ws = 1
    img_channels = 3

    @property
    def w_dim(self) -> int:
        """Length of w, which is z."""
        return self.z_dim

    @property
    def img_resolution(self) -> int:
        """Longer side of an image in pixels."""
        return self.resolution

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        return self.resolution, self.resolution

    def layers(self) -> tuple[LayerSpec, ...]:
        """Every layer in the order of execution; a shortcut is counted at the resolution of the sum it joins."""
        below, blocks = "b4", block_resolutions(self.resolution)[1:]
        width = self.channels
        specs = [
            LayerSpec("fc", "projection", "synthesis.fc", self.z_dim, width["b4"], (4, 4), (1, 1), positions=1,
                      writes="b4", row="fc"),
        ]  # fmt: skip
        norm = "b4.norm", "fc"
        for r in blocks:
            half, size, hidden, out, skip = (r // 2, r // 2), (r, r), f"b{r}.conv0", f"b{r}.conv1", f"b{r}.skip"
            specs += [
                self._norm(*norm, f"b{r}.norm0", below, half),
                LayerSpec(hidden, "conv", f"synthesis.{hidden}", width[below], width[hidden], size, half, 3, up=2,
                          positions=r * r, reads=below, writes=hidden, row=hidden),
                self._norm(f"{hidden}.norm", hidden, f"b{r}.norm1", hidden, size),
                LayerSpec(out, "conv", f"synthesis.{out}", width[hidden], width[out], size, size, 3,
                          positions=r * r, reads=hidden, writes=out, added=half, row=out),
                LayerSpec(skip, "conv", f"synthesis.{skip}", width[below], width[out], half, half,
                          positions=r * r, reads=below, writes=out, row=skip),
            ]  # fmt: skip
            below, norm = out, (f"{out}.norm", out)
        r = self.resolution
        specs += [
            self._norm(*norm, "norm", below, (r, r)),
            LayerSpec("to_rgb", "to_rgb", "synthesis.to_rgb", width[below], self.img_channels, (r, r), kernel=3,
                      positions=r * r, reads=below, row="to_rgb"),
        ]  # fmt: skip
        return tuple(specs)

    def _norm(self, name: str, row: str, module: str, group: str, size: tuple[int, int]) -> LayerSpec:
        width = self.channels[group]
        return LayerSpec(name, "norm", f"synthesis.{module}", width, width, size, reads=group, writes=group, row=row)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready containers."""
        return asdict(self)


class Conv2d(nn.Conv2d):
    """Convolution that keeps the size, Xavier-initialised; its weight, and so its output, has channels last in memory,
    which takes a quarter off a training step on the CPU."""

    weight_gain = 1.0

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        nn.init.xavier_uniform_(self.weight)
        self.to(memory_format=torch.channels_last)


class Projection(nn.Module):
    """z [N, z_dim] → x [N, C, 4, 4]. The weight is [C, 4, 4, z_dim], so that channels are an axis of their own."""

    def __init__(self, z_dim: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 4, 4, z_dim))
        self.bias = nn.Parameter(torch.zeros(channels, 4, 4))
        nn.init.xavier_uniform_(self.weight.data.view(-1, z_dim))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return F.linear(z, self.weight.flatten(0, 2), self.bias.flatten()).unflatten(1, self.bias.shape)


class ToRGB(Conv2d):
    """3×3 convolution to an image in [-1, 1] by tanh: x [N, I, h, w] → [N, 3, h, w]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return bias_act(F.conv2d(x, self.weight, padding=1), self.bias, act="tanh", gain=1)


class LatentMapping(BaseMapping):
    """Mapping without layers: w is z, whose mean ``w_avg`` is 0 unless it is set, so truncation multiplies it by ψ."""

    def w(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """``z`` itself."""
        return z


class SynthesisBlock(nn.Module):
    """Pre-activation residual block with nearest up-sampling: x [N, I, h, w] → [N, O, 2h, 2w]."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.norm0 = nn.BatchNorm2d(in_channels)
        self.conv0 = Conv2d(in_channels, hidden)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.conv1 = Conv2d(hidden, out_channels)
        self.skip = Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor, features: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        with layer_range(f"synthesis.{name}.conv0"):
            hidden = self.conv0(F.interpolate(F.relu(self.norm0(x)), scale_factor=2))
        features[f"{name}.conv0"] = hidden
        with layer_range(f"synthesis.{name}.conv1"):
            out = self.conv1(F.relu(self.norm1(hidden)))
        # A 1×1 convolution commutes with nearest up-sampling, at a quarter of the work.
        with layer_range(f"synthesis.{name}.skip"):
            out = out + F.interpolate(self.skip(x), scale_factor=2)
        features[f"{name}.conv1"] = out
        return out


class SynthesisNetwork(BaseSynthesis):
    """ws [N, 1, z_dim] → image."""

    def __init__(self, config: SNGANConfig) -> None:
        super().__init__()
        self.config = config
        self.resolutions = block_resolutions(config.resolution)[1:]
        width = config.channels["b4"]
        self.fc = Projection(config.z_dim, width)
        for r in self.resolutions:
            hidden, out = config.channels[f"b{r}.conv0"], config.channels[f"b{r}.conv1"]
            self.add_module(f"b{r}", SynthesisBlock(width, hidden, out))
            width = out
        self.norm = nn.BatchNorm2d(width)
        self.to_rgb = ToRGB(width, 3)

    def forward(
        self,
        ws: torch.Tensor,
        noise_mode: str = "none",
        noise: Noise | None = None,
        return_rgbs: bool = False,
        features: dict[str, torch.Tensor] | None = None,
        **options: Any,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Image [N, 3, resolution, resolution] in [-1, 1] from ``ws`` [N, 1, z_dim].

        Args:
            ws: z, one for all layers.
            noise_mode, noise: accepted and without effect: this model has none.
            return_rgbs: return a list, which holds the image alone.
            features: a dict to fill with the output [N, C, h, w] of each layer, by its name in ``config.channels``.
            options: ``force_fp32``, ``fused_modconv`` and ``update_emas`` of NVlabs' scripts, without effect.

        Raises:
            ValueError: the shape of ``ws`` is not as above.
            TypeError: another option.
        """
        self.check_options(options)
        self.check_ws(ws)
        features = {} if features is None else features
        with layer_range("synthesis.fc"):
            x = features["b4"] = self.fc(ws[:, 0])
        for r in self.resolutions:
            x = getattr(self, f"b{r}")(x, features, f"b{r}")
        with layer_range("synthesis.to_rgb"):
            image = self.to_rgb(F.relu(self.norm(x)))
        return [image] if return_rgbs else image

    def folded(self) -> FoldedSynthesis:
        """For inference: the same images up to rounding in about half the time of a narrow one."""
        return FoldedSynthesis(self)


class SNGANGenerator(BaseGenerator):
    """SN-GAN generator: one w, which is z, for all layers."""

    def __init__(self, config: SNGANConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = LatentMapping(config)
        self.synthesis = SynthesisNetwork(config)

    def estimate_w_avg(self, samples: int = 10_000, seed: int = 0) -> None:
        """The mean of z is known to be 0."""

    def residual_weights(self) -> ResidualWeights:
        """Weights for the compiled program, in float64 on the CPU, with batch normalisation as at inference."""
        return residual_weights(self.synthesis)


@dataclass(frozen=True)
class SNGANDiscriminatorConfig:
    """Configuration of an SN-GAN discriminator.

    Attributes:
        resolution: image height and width, a power of two from 8 on.
        width: of every layer; 128 as published.
        architecture: name of this model in a checkpoint.
    """

    resolution: int = 32
    width: int = 128
    architecture: str = "sngan"

    def __post_init__(self) -> None:
        block_resolutions(self.resolution)
        if self.resolution < 8 or self.width < 1:
            raise ValueError(
                f"discriminator: got {self}, expected a resolution of at least 8 and a width of at least 1"
            )

    c_dim = 0
    img_channels = 3

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        return self.resolution, self.resolution

    def group_size(self, batch: int) -> int:
        """Images that share a minibatch statistic: 1, as this discriminator has none."""
        return 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready containers."""
        return asdict(self)


class DiscriminatorBlock(nn.Module):
    """Residual block; ``down`` averages 2×2 pixels; the ``first`` block has no ReLU before its first convolution."""

    def __init__(self, in_channels: int, out_channels: int, down: bool, first: bool = False) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.conv0 = spectral_norm(Conv2d(in_channels, out_channels))
        self.conv1 = spectral_norm(Conv2d(out_channels, out_channels))
        self.skip = spectral_norm(Conv2d(in_channels, out_channels, 1)) if down or in_channels != out_channels else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.conv0(x if self.first else F.relu(x))))
        if self.down:
            # A 1×1 convolution commutes with averaging, at a quarter of the work.
            y, x = F.avg_pool2d(y, 2), F.avg_pool2d(x, 2)
        return y + (x if self.skip is None else self.skip(x))


class SNGANDiscriminator(nn.Module):
    """Images [N, 3, R, R] in [-1, 1] → logits [N, 1]; in training mode each call does one power iteration."""

    def __init__(self, config: SNGANDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        width, halvings = config.width, len(block_resolutions(config.resolution)) - 2
        blocks = [DiscriminatorBlock(3, width, down=True, first=True)]
        blocks += [DiscriminatorBlock(width, width, down=i < halvings - 1) for i in range(halvings + 1)]
        self.blocks = nn.Sequential(*blocks)
        self.fc = spectral_norm(nn.Linear(width, 1, bias=False))

    def forward(self, images: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [N, 1]; there are no labels ``c``.

        Raises:
            ValueError: ``images`` is not [N, 3, R, R], or ``c`` is not None.
        """
        check_labels(c, len(images), 0)
        side = self.config.resolution
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise ValueError(f"images: got shape {list(images.shape)}, expected [N, 3, {side}, {side}]")
        return self.fc(F.relu(self.blocks(images)).sum(dim=(2, 3)))
