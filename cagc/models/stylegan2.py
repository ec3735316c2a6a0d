"""StyleGAN2 generator (skip architecture) with a width per layer.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020. Weights are stored
unscaled and multiplied by 1/sqrt(fan_in) at run time (equalised learning rate), as in the public code bases.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from cagc_kernels import bias_act, modulated_conv2d, setup_filter, styled_conv2d, upsample2d
from cagc_kernels.ops.modulated_conv2d import composed_because
from cagc_kernels.profiling import layer_range
from cagc_kernels.synthesis import GeneratorWeights

from ..common.checks import at_least_one
from .base import BaseGenerator, BaseMapping, BaseSynthesis, has_hooks
from .layers import FullyConnected, bounded, check_clamp, ordered_channels, wide
from .protocol import LayerSpec, Noise
from .stylegan2_frozen import frozen_weights


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
    """Configuration of a StyleGAN2 generator.

    Attributes:
        resolution: image height and width, a power of two from 4 on.
        channels: width of each layer of :func:`layer_names`, in that order.
        style_dim: length of z and w.
        mapping_layers: depth of the mapping network.
        lr_multiplier: learning rate multiplier of the mapping network, by which its stored weights are multiplied
            at run time.
        resample_filter: taps of the FIR used for up-sampling, normalised when used.
        conv_clamp: bound of the absolute value of every layer's output, for float16 (256 in the public code); None:
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
        if not isinstance(self.lr_multiplier, (int, float)) or not 0 < self.lr_multiplier < math.inf:
            raise ValueError(f"lr_multiplier: got {self.lr_multiplier!r}, expected a finite number above 0")
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

    architecture = "stylegan2"
    c_dim = 0
    img_channels = 3

    @property
    def z_dim(self) -> int:
        """Length of z."""
        return self.style_dim

    @property
    def w_dim(self) -> int:
        """Length of w."""
        return self.style_dim

    @property
    def img_resolution(self) -> int:
        """Height and width of an image."""
        return self.resolution

    @property
    def num_ws(self) -> int:
        """Number of w vectors that one image takes: one per convolution, and one for the last toRGB."""
        return len(self.channels)

    def layers(self) -> tuple[LayerSpec, ...]:
        """Every layer in the order of execution; a toRGB shares its w with the next up-sampling convolution."""
        specs = [
            LayerSpec(
                f"mapping.fc{i}", "mapping", f"mapping.fc{i}", self.style_dim, self.style_dim, positions=1,
                row="mapping",
            )
            for i in range(self.mapping_layers)
        ]  # fmt: skip
        const = "b4.const"
        specs.append(LayerSpec(const, "const", f"synthesis.{const}", 0, self.channels[const], (4, 4), writes=const))
        below, index = const, 0
        for r in block_resolutions(self.resolution):
            if r > 4:
                specs.append(self._conv(f"b{r}.conv0", below, r, index, up=2))
                below, index = f"b{r}.conv0", index + 1
            specs.append(self._conv(f"b{r}.conv1", below, r, index))
            below, index = f"b{r}.conv1", index + 1
            specs.append(
                LayerSpec(
                    f"b{r}.to_rgb", "to_rgb", f"synthesis.b{r}.to_rgb", self.channels[below], self.img_channels,
                    (r, r), positions=r * r, reads=below, w=index, w_dim=self.style_dim,
                    added=(r // 2, r // 2) if r > 4 else None, row=f"b{r}.to_rgb",
                )
            )  # fmt: skip
        return tuple(specs)

    def _conv(self, name: str, below: str, r: int, index: int, up: int = 1) -> LayerSpec:
        """A styled 3×3 convolution; the paper's code counts an up-sampling one at its input's resolution."""
        side = r // up
        return LayerSpec(
            name, "conv", f"synthesis.{name}", self.channels[below], self.channels[name], (r, r), (side, side),
            kernel=3, up=up, positions=side * side, reads=below, writes=name, w=index, w_dim=self.style_dim,
            demodulate=True, noise=True, row=name,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready containers; a ``conv_clamp`` of None is left out, as older checkpoints lack it."""
        return {name: value for name, value in asdict(self).items() if name != "conv_clamp" or value is not None}


class MappingNetwork(BaseMapping):
    """z → ws by way of w: normalisation to unit mean square, then fully connected layers."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        self.depth = config.mapping_layers
        for i in range(self.depth):
            layer = FullyConnected(config.style_dim, config.style_dim, "lrelu", config.lr_multiplier)
            self.add_module(f"fc{i}", layer)

    def w(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """One w [N, w_dim] for each ``z`` [N, z_dim]; there are no labels ``c``."""
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
        """Styles [N, I] times the gain of the weight; demodulation cancels the gain either way."""
        return self.affine(w) * self.weight_gain

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        noise: str | torch.Tensor,
        styles: torch.Tensor | None = None,
        next_styles: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Output [N, O, up·h, up·w].

        Args:
            styles: [N, I] when ``x`` is already multiplied by them, as ``next_styles`` of the layer before.
            next_styles: [N, O] of the layer after, by which the output is multiplied.
        """
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

    def composed_because(self, backend: str, batch: int) -> str | None:
        """Why ``backend`` runs this layer as several kernels for ``batch`` images; None for one fused kernel."""
        x = torch.empty(batch, self.weight.shape[1], *2 * [self.resolution // self.up], device="meta")
        return composed_because(backend, x, self.weight, up=self.up, resample_filter=self.resample_filter, act="lrelu")

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
    """All layers of one resolution. The 4 px block starts from a learned constant [C, 4, 4] and has no ``conv0``.

    Attributes:
        fuses_styles: whether ``conv0`` can multiply its output by the styles of ``conv1``.
    """

    fuses_styles = True

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


class SynthesisNetwork(BaseSynthesis):
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
        noise_mode: str = "random",
        noise: Noise | None = None,
        return_rgbs: bool = False,
        features: dict[str, torch.Tensor] | None = None,
        **options: Any,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Image [N, 3, resolution, resolution], nominally in [-1, 1], from ``ws`` [N, num_ws, w_dim].

        Args:
            ws: one w per layer; the toRGB of a resolution shares its w with the next up-sampling convolution.
            noise_mode: "random" (fresh per image), "const" (the stored maps) or "none".
            noise: instead of ``noise_mode``: one tensor [1 or N, 1, h, w] per convolution in the order of
                :meth:`BaseGenerator.make_noise`, or a mode.
            return_rgbs: return the accumulated RGB of every resolution instead, lowest first.
            features: a dict to fill with the output [N, C, h, w] of each layer, by its name in ``config.channels``.
            options: ``force_fp32``, ``fused_modconv`` and ``update_emas`` of NVlabs' scripts, without effect.

        Raises:
            ValueError: the shape of ``ws``, or the kind, number or shape of ``noise``, is not as above.
            TypeError: another option.
        """
        self.check_options(options)
        self.check_ws(ws)
        noises = self.check_noise(noise_mode, noise, ws.shape[0])
        rgb, rgbs, index, x = None, [], 0, None
        for resolution in self.resolutions:
            block = getattr(self, f"b{resolution}")
            conv0_options, conv1_options = {}, {}
            if resolution == 4:
                x = block.const.expand(ws.shape[0], -1, -1, -1)
                _record(features, "b4.const", x)
            else:
                if features is None and block.fuses_styles and not has_hooks(block.conv0, block.conv1):
                    # Only conv1 reads the output of conv0, so its modulation is fused into conv0's last pass.
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
        self.check_ws(ws)
        styles, index = {}, 0
        for resolution in self.resolutions:
            block = getattr(self, f"b{resolution}")
            for name in ("conv0", "conv1"):
                if hasattr(block, name):
                    styles[f"b{resolution}.{name}"] = getattr(block, name).affine(ws[:, index])
                    index += 1
            styles[f"b{resolution}.to_rgb"] = block.to_rgb.affine(ws[:, index])
        return styles


def _record(features: dict[str, torch.Tensor] | None, name: str, x: torch.Tensor) -> None:
    if features is not None:
        features[name] = x


class Generator(BaseGenerator):
    """StyleGAN2 generator."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config)
        self.synthesis = SynthesisNetwork(config)

    def frozen_weights(self) -> GeneratorWeights | None:
        """Weights for the compiled programs, in float64 on the CPU; None for a subclass, which they do not support."""
        known = type(self) is Generator and type(self.synthesis) is SynthesisNetwork
        return frozen_weights(self) if known else None
