"""SN-GAN: a ResNet generator with batch normalisation, and a discriminator with spectral normalisation.

Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018; the layers and their order are
those of the public PyTorch version for CIFAR-10. z plays the part of w: there is no mapping network and no noise.
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

from ..channels import ChannelAxis, ChannelGroup
from ..checks import at_least_one
from .layers import check_latents, ordered_channels
from .sngan_folded import FoldedSynthesis
from .stylegan2 import Noise, block_resolutions


def layer_names(resolution: int) -> list[str]:
    """Names of the channel groups from the projected latent to the output of the last block."""
    return ["b4"] + [f"b{r}.{conv}" for r in block_resolutions(resolution)[1:] for conv in ("conv0", "conv1")]


@dataclass(frozen=True)
class SNGANConfig:
    """What an SN-GAN generator is made of.

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

    @property
    def style_dim(self) -> int:
        """Length of w, which is z."""
        return self.z_dim

    @property
    def mapping_layers(self) -> int:
        """There is no mapping network."""
        return 0

    @property
    def num_ws(self) -> int:
        """All layers share one w."""
        return 1

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
        hidden = self.conv0(F.interpolate(F.relu(self.norm0(x)), scale_factor=2))
        features[f"{name}.conv0"] = hidden
        # A 1×1 convolution commutes with nearest up-sampling, at a quarter of the work.
        out = self.conv1(F.relu(self.norm1(hidden))) + F.interpolate(self.skip(x), scale_factor=2)
        features[f"{name}.conv1"] = out
        return out


class SynthesisNetwork(nn.Module):
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
        self.to_rgb = Conv2d(width, 3)

    def forward(
        self,
        ws: torch.Tensor,
        noise: Noise = "none",
        return_rgbs: bool = False,
        features: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Image [N, 3, resolution, resolution] in [-1, 1] from ``ws`` [N, 1, z_dim].

        Args:
            ws: z, one for all layers.
            noise: accepted and without effect: this model has none.
            return_rgbs: return a list, which holds the image alone.
            features: a dict to fill with the output [N, C, h, w] of each layer, by its name in ``config.channels``.

        Raises:
            ValueError: the shape of ``ws`` is not as above.
        """
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (1, self.config.z_dim):
            raise ValueError(f"ws: got shape {list(ws.shape)}, expected [N, 1, {self.config.z_dim}]")
        features = {} if features is None else features
        with layer_range("synthesis.fc"):
            x = features["b4"] = self.fc(ws[:, 0])
        for r in self.resolutions:
            with layer_range(f"synthesis.b{r}"):
                x = getattr(self, f"b{r}")(x, features, f"b{r}")
        with layer_range("synthesis.to_rgb"):
            x = F.conv2d(F.relu(self.norm(x)), self.to_rgb.weight, padding=1)
            image = bias_act(x, self.to_rgb.bias, act="tanh", gain=1)
        return [image] if return_rgbs else image

    def styles(self, ws: torch.Tensor) -> dict[str, torch.Tensor]:
        """Ones [N, I] for every convolution: nothing is modulated."""
        return {
            name: ws.new_ones(len(ws), layer.in_channels)
            for name, layer in self.named_modules()
            if isinstance(layer, Conv2d)
        }

    def noise_shapes(self) -> list[tuple[int, int]]:
        """None."""
        return []

    def folded(self) -> FoldedSynthesis:
        """For inference: the same images up to rounding in about half the time of a narrow one."""
        return FoldedSynthesis(self)


class SNGANGenerator(nn.Module):
    """SN-GAN generator, with the interface of the StyleGAN2 one. Truncation pulls z towards ``w_avg``, which is 0."""

    def __init__(self, config: SNGANConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = nn.Identity()
        self.synthesis = SynthesisNetwork(config)
        self.register_buffer("w_avg", torch.zeros(config.z_dim))

    def forward(
        self,
        z: torch.Tensor,
        z_mix: torch.Tensor | None = None,
        mixing_index: int | None = None,
        truncation: float = 1.0,
        noise: Noise = "none",
        return_rgbs: bool = False,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Image [N, 3, R, R] in [-1, 1] from ``z`` [N, z_dim]; see :meth:`ws` and :meth:`SynthesisNetwork.forward`."""
        return self.synthesis(self.ws(z, z_mix, mixing_index, truncation), noise, return_rgbs)

    def ws(
        self,
        z: torch.Tensor,
        z_mix: torch.Tensor | None = None,
        mixing_index: int | None = None,
        truncation: float = 1.0,
    ) -> torch.Tensor:
        """``ws`` [N, 1, z_dim] of ``z`` [N, z_dim], times ``truncation``.

        Raises:
            ValueError: ``z`` or ``truncation`` is not as above, or ``z_mix`` is given: of one w nothing can be mixed.
        """
        check_latents(z, None, self.config.z_dim, truncation)
        if z_mix is not None or mixing_index is not None:
            raise ValueError("z_mix: got one, expected None: this model has a single w")
        return (z if truncation == 1 else z * truncation)[:, None]

    def estimate_w_avg(self, samples: int = 10_000, seed: int = 0) -> None:
        """The mean of z is known to be 0."""

    def make_noise(self, batch: int = 1, seed: int | None = None, device: Any = None) -> list[torch.Tensor]:
        """No noise maps."""
        return []

    def channel_groups(self) -> list[ChannelGroup]:
        """Outputs of the projection, of each block's first convolution, and of each block.

        The output of a block is the sum of its second convolution and its shortcut, which ties the channels of both.
        """
        names = [f"b{r}" for r in self.synthesis.resolutions]
        groups = [self._group("b4", ["fc"], self._readers(names[0]))]
        for name, following in zip(names, [*names[1:], None]):
            groups.append(self._group(f"{name}.conv0", [f"{name}.conv0"], [f"{name}.norm1", f"{name}.conv1"]))
            groups.append(self._group(f"{name}.conv1", [f"{name}.conv1", f"{name}.skip"], self._readers(following)))
        return groups

    @staticmethod
    def _readers(block: str | None) -> list[str]:
        return ["norm", "to_rgb"] if block is None else [f"{block}.norm0", f"{block}.conv0", f"{block}.skip"]

    def _group(self, name: str, producers: list[str], readers: list[str]) -> ChannelGroup:
        axes = [ChannelAxis(f"synthesis.{p}.{part}", 0) for p in producers for part in ("weight", "bias")]
        norm, *convs = (f"synthesis.{reader}" for reader in readers)
        axes += [ChannelAxis(f"{norm}.{part}", 0) for part in ("weight", "bias", "running_mean", "running_var")]
        axes += [ChannelAxis(f"{conv}.weight", 1) for conv in convs]
        return ChannelGroup(name, self.config.channels[name], f"synthesis.{producers[0]}", tuple(convs), tuple(axes))


@dataclass(frozen=True)
class SNGANDiscriminatorConfig:
    """What an SN-GAN discriminator is made of.

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
            raise ValueError(f"got {self}, expected a resolution of at least 8 and a width of at least 1")

    def group_size(self, batch: int) -> int:
        """Images that the discriminator judges together: each alone."""
        return 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready containers."""
        return asdict(self)


class DiscriminatorBlock(nn.Module):
    """Residual block; ``down`` averages 2×2 pixels; the ``first`` one begins with the image and not a ReLU."""

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
    """Images [N, 3, R, R] in [-1, 1] → logits [N, 1]. Its spectral norms move one power iteration per training call."""

    def __init__(self, config: SNGANDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        width, halvings = config.width, len(block_resolutions(config.resolution)) - 2
        blocks = [DiscriminatorBlock(3, width, down=True, first=True)]
        blocks += [DiscriminatorBlock(width, width, down=i < halvings - 1) for i in range(halvings + 1)]
        self.blocks = nn.Sequential(*blocks)
        self.fc = spectral_norm(nn.Linear(width, 1, bias=False))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, 1].

        Raises:
            ValueError: ``images`` is not [N, 3, R, R].
        """
        side = self.config.resolution
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise ValueError(f"images: got shape {list(images.shape)}, expected [N, 3, {side}, {side}]")
        return self.fc(F.relu(self.blocks(images)).sum(dim=(2, 3)))
