"""StyleGAN2 generator (skip architecture) with a width per layer.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020. Weights are stored
unscaled and multiplied by 1/sqrt(fan_in) at run time (equalised learning rate), as in the public code bases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from cagc_kernels import bias_act, modulated_conv2d, setup_filter, styled_conv2d, upsample2d
from cagc_kernels.profiling import layer_range

from ..channels import ChannelAxis, ChannelGroup
from ..checks import at_least_one
from .layers import FullyConnected, bounded, check_clamp, check_latents, ordered_channels, wide

Noise = str | Sequence[torch.Tensor]


def block_resolutions(resolution: int) -> list[int]:
    """``[4, 8, ..., resolution]``.

    Raises:
        ValueError: ``resolution`` is not a power of two from 4 on.
    """
    if not isinstance(resolution, int) or resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"resolution: got {resolution!r}, expected a power of two from 4 on")
    return [2**i for i in range(2, resolution.bit_length())]


def layer_names(resolution: int) -> list[str]:
    """Names of the channel groups from the constant input to the last convolution."""
    names = ["b4.const", "b4.conv1"]
    for r in block_resolutions(resolution)[1:]:
        names += [f"b{r}.conv0", f"b{r}.conv1"]
    return names


@dataclass(frozen=True)
class GeneratorConfig:
    """What a generator is made of.

    Attributes:
        resolution: image height and width, a power of two from 4 on.
        channels: width of each layer of :func:`layer_names`, in that order.
        style_dim: length of z and w.
        mapping_layers: depth of the mapping network.
        lr_multiplier: of the mapping network; part of the function, because stored weights are divided by it.
        resample_filter: taps of the FIR used for up-sampling, normalised when used.
        conv_clamp: bound of the absolute value of every layer's output, for float16 (256 in the public code); None is
            no bound.
    """

    resolution: int
    channels: dict[str, int]
    style_dim: int = 512
    mapping_layers: int = 8
    lr_multiplier: float = 0.01
    resample_filter: tuple[float, ...] = field(default=(1, 3, 3, 1))
    conv_clamp: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", ordered_channels(self.channels, layer_names(self.resolution)))
        at_least_one(style_dim=self.style_dim)
        if self.mapping_layers < 0:
            raise ValueError(f"mapping_layers: got {self.mapping_layers}, expected at least 0")
        check_clamp(self.conv_clamp)
        object.__setattr__(self, "resample_filter", tuple(self.resample_filter))

    @classmethod
    def uniform(
        cls, resolution: int, channel_base: int = 32768, channel_max: int = 512, **options: Any
    ) -> GeneratorConfig:
        """Widths ``min(channel_base / r, channel_max)`` at resolution r, the published configurations."""
        width = {
            name: min(channel_base // int(name[1:].split(".")[0]), channel_max) for name in layer_names(resolution)
        }
        return cls(resolution, width, **options)

    @property
    def num_ws(self) -> int:
        """Number of w vectors that one image takes."""
        return len(self.channels)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready containers, without a ``conv_clamp`` of None: the checkpoints written before it had none."""
        return {name: value for name, value in asdict(self).items() if name != "conv_clamp" or value is not None}


class MappingNetwork(nn.Module):
    """z [N, style_dim] → w [N, style_dim]: normalisation to unit mean square, then fully connected layers."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.depth = config.mapping_layers
        for i in range(self.depth):
            layer = FullyConnected(config.style_dim, config.style_dim, "lrelu", config.lr_multiplier)
            self.add_module(f"fc{i}", layer)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.depth):
            x = getattr(self, f"fc{i}")(x)
        return x


class SynthesisLayer(nn.Module):
    """Styled 3×3 convolution, optionally up-sampling by two: x [N, I, h, w] → [N, O, up·h, up·w]."""

    def __init__(
        self, config: GeneratorConfig, in_channels: int, out_channels: int, resolution: int, up: int = 1
    ) -> None:
        super().__init__()
        self.up = up
        self.resolution = resolution
        self.clamp = config.conv_clamp
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.weight_gain = 1 / math.sqrt(in_channels * 9)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.affine = FullyConnected(config.style_dim, in_channels, bias_init=1)
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", setup_filter(config.resample_filter), persistent=False)

    def styles(self, w: torch.Tensor) -> torch.Tensor:
        """[N, I]; with the gain of the weight, which demodulation takes out of both alike."""
        return self.affine(w) * self.weight_gain

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        noise: str | torch.Tensor,
        styles: torch.Tensor | None = None,
        next_styles: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``styles`` [N, I]: those that ``x`` carries already, as the ``next_styles`` [N, O] of the layer before."""
        return styled_conv2d(
            x,
            self.weight,
            self.styles(w) if styles is None else styles,
            self.bias,
            noise=self._noise(x.shape[0], noise),
            up=self.up,
            resample_filter=self.resample_filter if self.up > 1 else None,
            clamp=self.clamp,
            next_styles=next_styles,
            modulate=styles is None,
        )

    def _noise(self, batch: int, noise: str | torch.Tensor) -> torch.Tensor | None:
        if isinstance(noise, torch.Tensor):
            return noise * self.noise_strength
        if noise == "none":
            return None
        if noise == "const":
            return (self.noise_const * self.noise_strength)[None, None]
        return self.noise_const.new_empty(batch, 1, *self.noise_const.shape).normal_() * self.noise_strength


class ToRGB(nn.Module):
    """Modulated 1×1 convolution to RGB without demodulation: x [N, I, h, w] → [N, 3, h, w]."""

    def __init__(self, config: GeneratorConfig, in_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, in_channels, 1, 1))
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.clamp = config.conv_clamp
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = FullyConnected(config.style_dim, in_channels, bias_init=1)

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        styles = self.affine(w) * self.weight_gain
        return bias_act(modulated_conv2d(x, self.weight, styles, demodulate=False), self.bias, clamp=self.clamp)


class SynthesisBlock(nn.Module):
    """All layers of one resolution. The 4 px block starts from a learned constant [C, 4, 4] and has no ``conv0``."""

    def __init__(self, config: GeneratorConfig, resolution: int) -> None:
        super().__init__()
        width = config.channels
        if resolution == 4:
            in_channels = width["b4.const"]
            self.const = nn.Parameter(torch.randn(in_channels, 4, 4))
        else:
            in_channels = width[f"b{resolution}.conv0"]
            below = width[f"b{resolution // 2}.conv1"]
            self.conv0 = SynthesisLayer(config, below, in_channels, resolution, up=2)
        self.conv1 = SynthesisLayer(config, in_channels, width[f"b{resolution}.conv1"], resolution)
        self.to_rgb = ToRGB(config, width[f"b{resolution}.conv1"])


class SynthesisNetwork(nn.Module):
    """ws → image, with the sum over resolutions of up-sampled RGB (skip architecture)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.resolutions = block_resolutions(config.resolution)
        for resolution in self.resolutions:
            self.add_module(f"b{resolution}", SynthesisBlock(config, resolution))
        self.register_buffer("resample_filter", setup_filter(config.resample_filter), persistent=False)

    def forward(
        self,
        ws: torch.Tensor,
        noise: Noise = "random",
        return_rgbs: bool = False,
        features: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Image [N, 3, resolution, resolution], nominally in [-1, 1], from ``ws`` [N, num_ws, style_dim].

        Args:
            ws: one w per layer; the toRGB of a resolution shares its w with the next up-sampling convolution.
            noise: "random" (fresh per image), "const" (the stored maps), "none", or one tensor [1 or N, 1, h, w] per
                convolution in the order of :meth:`Generator.make_noise`.
            return_rgbs: return the accumulated RGB of every resolution instead, lowest first.
            features: a dict to fill with the output [N, C, h, w] of each layer, by its name in ``config.channels``.

        Raises:
            ValueError: the shape of ``ws``, or the kind, number or shape of ``noise``, is not as above.
        """
        self._check_ws(ws)
        noises = self._check_noise(noise, ws.shape[0])
        rgb, rgbs, index, x = None, [], 0, None
        for resolution in self.resolutions:
            block = getattr(self, f"b{resolution}")
            conv0_options, conv1_options = {}, {}
            if resolution == 4:
                x = block.const.expand(ws.shape[0], -1, -1, -1)
                _record(features, "b4.const", x)
            else:
                if features is None and isinstance(block, SynthesisBlock):
                    # conv1 alone reads what conv0 writes: its modulation joins conv0's last pass over memory.
                    styles = bounded(block.conv1.styles(ws[:, index + 1]))
                    conv0_options, conv1_options = {"next_styles": styles}, {"styles": styles}
                with layer_range(f"synthesis.b{resolution}.conv0"):
                    x = block.conv0(x, ws[:, index], noises[index], **conv0_options)
                _record(features, f"b{resolution}.conv0", x)
                index += 1
            with layer_range(f"synthesis.b{resolution}.conv1"):
                x = block.conv1(x, ws[:, index], noises[index], **conv1_options)
            _record(features, f"b{resolution}.conv1", x)
            index += 1
            with layer_range(f"synthesis.b{resolution}.to_rgb"):
                out = wide(block.to_rgb(x, ws[:, index]))
                rgb = out if rgb is None else upsample2d(rgb, self.resample_filter) + out
            if return_rgbs:
                rgbs.append(rgb)
        return rgbs if return_rgbs else rgb

    def styles(self, ws: torch.Tensor) -> dict[str, torch.Tensor]:
        """Styles [N, I] of every modulated convolution, by its module name ("b8.conv0", "b8.to_rgb", ...)."""
        self._check_ws(ws)
        styles, index = {}, 0
        for resolution in self.resolutions:
            block = getattr(self, f"b{resolution}")
            for name in ("conv0", "conv1"):
                if hasattr(block, name):
                    styles[f"b{resolution}.{name}"] = getattr(block, name).affine(ws[:, index])
                    index += 1
            styles[f"b{resolution}.to_rgb"] = block.to_rgb.affine(ws[:, index])
        return styles

    def noise_shapes(self) -> list[tuple[int, int]]:
        """Height and width of the noise of each convolution."""
        return [(4, 4)] + [(r, r) for r in self.resolutions[1:] for _ in range(2)]

    def _check_ws(self, ws: torch.Tensor) -> None:
        expected = (self.config.num_ws, self.config.style_dim)
        if ws.ndim != 3 or tuple(ws.shape[1:]) != expected:
            raise ValueError(f"ws: got shape {list(ws.shape)}, expected [N, {expected[0]}, {expected[1]}]")

    def _check_noise(self, noise: Noise, batch: int) -> Sequence[str | torch.Tensor]:
        shapes = self.noise_shapes()
        if noise is None or isinstance(noise, str):
            if noise not in ("random", "const", "none"):
                raise ValueError(f"noise: got {noise!r}, expected 'random', 'const', 'none' or {len(shapes)} tensors")
            return [noise] * len(shapes)
        if len(noise) != len(shapes):
            raise ValueError(f"noise: got {len(noise)} tensors, expected {len(shapes)}")
        for i, (tensor, (h, w)) in enumerate(zip(noise, shapes)):
            if tensor.ndim != 4 or tensor.shape[0] not in (1, batch) or tuple(tensor.shape[1:]) != (1, h, w):
                raise ValueError(f"noise[{i}]: got shape {list(tensor.shape)}, expected [1 or {batch}, 1, {h}, {w}]")
        return noise


def _record(features: dict[str, torch.Tensor] | None, name: str, x: torch.Tensor) -> None:
    if features is not None:
        features[name] = x


class Generator(nn.Module):
    """StyleGAN2 generator. ``w_avg`` [style_dim] is the mean of w, towards which truncation pulls."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config)
        self.synthesis = SynthesisNetwork(config)
        self.register_buffer("w_avg", torch.zeros(config.style_dim))

    def forward(
        self,
        z: torch.Tensor,
        z_mix: torch.Tensor | None = None,
        mixing_index: int | None = None,
        truncation: float = 1.0,
        noise: Noise = "random",
        return_rgbs: bool = False,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Image [N, 3, R, R] from ``z`` [N, style_dim]; see :meth:`ws` and :meth:`SynthesisNetwork.forward`."""
        ws = self.ws(z, z_mix, mixing_index, truncation)
        return self.synthesis(ws, noise=noise, return_rgbs=return_rgbs)

    def ws(
        self,
        z: torch.Tensor,
        z_mix: torch.Tensor | None = None,
        mixing_index: int | None = None,
        truncation: float = 1.0,
    ) -> torch.Tensor:
        """``ws`` [N, num_ws, style_dim] of ``z`` [N, style_dim].

        Args:
            z: standard normal latents.
            z_mix: as many latents, whose w replaces that of ``z`` from layer ``mixing_index`` on (style mixing).
            mixing_index: in 1 … num_ws - 1; required with ``z_mix``.
            truncation: ψ in ``w_avg + ψ (w - w_avg)``.

        Raises:
            ValueError: a shape, ``mixing_index`` or ``truncation`` is not as above.
        """
        check_latents(z, z_mix, self.config.style_dim, truncation)
        num_ws = self.config.num_ws
        ws = self._truncated_w(z, truncation)[:, None].expand(-1, num_ws, -1)
        if z_mix is None:
            return ws
        if mixing_index is None or not 1 <= mixing_index < num_ws:
            raise ValueError(f"mixing_index: got {mixing_index}, expected 1 to {num_ws - 1} with z_mix")
        mixed = self._truncated_w(z_mix, truncation)[:, None]
        return torch.cat([ws[:, :mixing_index], mixed.expand(-1, num_ws - mixing_index, -1)], dim=1)

    def _truncated_w(self, z: torch.Tensor, truncation: float) -> torch.Tensor:
        with layer_range("mapping"):
            w = self.mapping(z)
        return w if truncation == 1 else torch.lerp(self.w_avg.to(w.dtype).expand_as(w), w, truncation)

    @torch.no_grad()
    def estimate_w_avg(self, samples: int = 10_000, seed: int = 0) -> None:
        """Set ``w_avg`` to the mean w of ``samples`` latents drawn from ``seed``."""
        z = torch.randn(samples, self.config.style_dim, generator=torch.Generator().manual_seed(seed))
        self.w_avg.copy_(self.mapping(z.to(self.w_avg)).mean(dim=0))

    def make_noise(
        self, batch: int = 1, seed: int | None = None, device: torch.device | str | None = None
    ) -> list[torch.Tensor]:
        """Standard normal noise [batch, 1, h, w] for each convolution: b4.conv1, b8.conv0, b8.conv1, ..."""
        rng = None if seed is None else torch.Generator().manual_seed(seed)
        device = self.w_avg.device if device is None else device
        return [
            torch.randn(batch, 1, h, w, generator=rng).to(device, self.w_avg.dtype)
            for h, w in self.synthesis.noise_shapes()
        ]

    def at(self, plan: Any, **options: Any) -> Generator:
        """This generator at the widths of a ``ChannelPlan``, its weights shared; see :func:`cagc.elastic.at`."""
        from ..elastic import at

        return at(self, plan, **options)

    def channel_groups(self) -> list[ChannelGroup]:
        """The constant input's and every convolution's channels, in the order of ``config.channels``."""
        names = list(self.config.channels)
        groups = []
        for i, name in enumerate(names):
            producer = f"synthesis.{name}"
            axes = [ChannelAxis(producer if i == 0 else f"{producer}.weight", 0)]
            if i > 0:
                axes.append(ChannelAxis(f"{producer}.bias", 0))
            consumers = [f"synthesis.{names[i + 1]}"] if i + 1 < len(names) else []
            if name.endswith("conv1"):
                consumers.append(f"synthesis.{name.removesuffix('conv1')}to_rgb")
            for consumer in consumers:
                axes += [ChannelAxis(f"{consumer}.weight", 1)]
                axes += [ChannelAxis(f"{consumer}.affine.{part}", 0) for part in ("weight", "bias")]
            groups.append(ChannelGroup(name, self.config.channels[name], producer, tuple(consumers), tuple(axes)))
        return groups
