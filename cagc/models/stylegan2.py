"""StyleGAN2 generator with a width per layer.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020. Weights are stored
unscaled and multiplied by 1/sqrt(fan_in) at run time (equalised learning rate), as in the public code bases.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cagc_kernels import bias_act, modulated_conv2d, setup_filter, styled_conv2d, upsample2d
from cagc_kernels.ops.modulated_conv2d import composed_because
from cagc_kernels.profiling import layer_range
from cagc_kernels.reference.bias_act import ACTIVATIONS
from cagc_kernels.synthesis import GeneratorWeights

from .base import BaseGenerator, BaseMapping, BaseSynthesis, has_hooks
from .layers import FullyConnected, bounded, enlarged, unit_mean_square, wide
from .protocol import Noise
from .stylegan2_config import GeneratorConfig, block_resolutions, size_at
from .stylegan2_frozen import frozen_weights, mapping_not_compiled, not_compiled


class MappingNetwork(BaseMapping):
    """z and labels → ws by way of w: each normalised to unit mean square, then fully connected layers."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        self.depth = config.mapping_layers
        if config.c_dim:
            self.embed = FullyConnected(config.c_dim, config.embed_dim)
        for i, size in enumerate(config.mapping_sizes()):
            layer = FullyConnected(*size, config.mapping_activation, config.lr_multiplier)
            self.add_module(f"fc{i}", layer)

    def w(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """One w [N, w_dim] for each ``z`` [N, z_dim] with its label of ``c`` [N, c_dim]."""
        x = unit_mean_square(z)
        if self.c_dim:
            with layer_range("mapping.embed"):
                x = torch.cat([x, unit_mean_square(self.embed(c.to(x.dtype))).to(x.dtype)], dim=1)
        for i in range(self.depth):
            x = getattr(self, f"fc{i}")(x)
        return x


class SynthesisLayer(nn.Module):
    """Styled 3×3 convolution, optionally up-sampling by two: x [N, I, h, w] → [N, O, up·h, up·w].

    ``scale``: factor of the output, where a block adds it to its shortcut.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        in_channels: int,
        out_channels: int,
        resolution: int,
        up: int = 1,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.bilinear = up > 1 and config.upsampling == "bilinear"
        self.up = 1 if self.bilinear else up  # of the convolution itself
        self.size = size_at(config.const_size, resolution)
        self.act = config.activation
        self.gain = ACTIVATIONS[self.act].gain * scale
        self.clamp = None if config.conv_clamp is None else config.conv_clamp * scale
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.weight_gain = 1 / math.sqrt(in_channels * 9)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.affine = FullyConnected(config.style_dim, in_channels, bias_init=1)
        self.register_buffer("noise_const", torch.randn(self.size))
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
            enlarged(x) if self.bilinear else x,
            self.weight,
            self.styles(w) if styles is None else styles,
            self.bias,
            noise=self._noise(x.shape[0], noise),
            up=self.up,
            resample_filter=self.resample_filter if self.up > 1 else None,
            act=self.act,
            gain=self.gain,
            clamp=self.clamp,
            next_styles=next_styles,
            modulate=styles is None,
        )

    def composed_because(self, backend: str, batch: int) -> str | None:
        """Why ``backend`` runs this layer as several kernels for ``batch`` images; None for one fused kernel."""
        height, width = self.size
        x = torch.empty(batch, self.weight.shape[1], height // self.up, width // self.up, device="meta")
        return composed_because(backend, x, self.weight, up=self.up, resample_filter=self.resample_filter, act=self.act)

    def _noise(self, batch: int, noise: str | torch.Tensor) -> torch.Tensor | None:
        if isinstance(noise, torch.Tensor):
            return noise * self.noise_strength
        if noise == "none":
            return None
        if noise == "const":
            return (self.noise_const * self.noise_strength)[None, None]
        return self.noise_const.new_empty(batch, 1, *self.noise_const.shape).normal_() * self.noise_strength


class ToRGB(nn.Module):
    """Modulated 1×1 convolution to the image without demodulation: x [N, I, h, w] → [N, img_channels, h, w]."""

    def __init__(self, config: GeneratorConfig, in_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(config.img_channels, in_channels, 1, 1))
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.clamp = config.conv_clamp
        self.bias = nn.Parameter(torch.zeros(config.img_channels))
        self.affine = FullyConnected(config.style_dim, in_channels, bias_init=1)

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        styles = self.affine(w) * self.weight_gain
        return bias_act(modulated_conv2d(x, self.weight, styles, demodulate=False), self.bias, clamp=self.clamp)


class Shortcut(nn.Module):
    """1×1 convolution around a block of the "resnet" architecture, then up-sampling: x [N, I, h, w] → [N, O, 2h, 2w].

    Without modulation and bias; the output is scaled by √½, as the block's is that it is added to.
    """

    def __init__(self, config: GeneratorConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.bilinear = config.upsampling == "bilinear"
        self.register_buffer("resample_filter", setup_filter(config.resample_filter), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.upsampled(F.conv2d(x, self.weight * (self.weight_gain * math.sqrt(0.5))))

    def upsampled(self, x: torch.Tensor) -> torch.Tensor:
        return enlarged(x) if self.bilinear else upsample2d(x, self.resample_filter)


class SynthesisBlock(nn.Module):
    """All layers of one resolution. The first block starts from a learned constant [C, h, w] and has no ``conv0``.

    Attributes:
        fuses_styles: whether ``conv0`` can multiply its output by the styles of ``conv1``.
        skip: the shortcut around the block; None where the architecture has none.
        to_rgb: None where the block has no image of its own.
    """

    fuses_styles = True

    def __init__(self, config: GeneratorConfig, resolution: int) -> None:
        super().__init__()
        width, out_channels = config.channels, config.channels[f"b{resolution}.conv1"]
        self.skip = self.to_rgb = None
        scale = 1.0
        if resolution == 4:
            in_channels = width["b4.const"]
            self.const = nn.Parameter(torch.randn(in_channels, *config.const_size))
        else:
            in_channels = width[f"b{resolution}.conv0"]
            below = width[f"b{resolution // 2}.conv1"]
            self.conv0 = SynthesisLayer(config, below, in_channels, resolution, up=2)
            if config.block_architecture == "resnet":
                self.skip, scale = Shortcut(config, below, out_channels), math.sqrt(0.5)
        self.conv1 = SynthesisLayer(config, in_channels, out_channels, resolution, scale=scale)
        if resolution == config.resolution or config.block_architecture == "skip":
            self.to_rgb = ToRGB(config, out_channels)


class SynthesisNetwork(BaseSynthesis):
    """ws → image: the sum of every block's toRGB, up-sampled (skip), or the last block's alone (resnet, orig)."""

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
        """Image [N, img_channels, *img_size], nominally in [-1, 1], from ``ws`` [N, num_ws, w_dim].

        Args:
            ws: one w per layer; the toRGB of a resolution shares its w with the next up-sampling convolution.
            noise_mode: "random" (fresh per image), "const" (the stored maps) or "none".
            noise: instead of ``noise_mode``: one tensor [1 or N, 1, h, w] per convolution in the order of
                :meth:`BaseGenerator.make_noise`, or a mode.
            return_rgbs: return the accumulated RGB of every resolution instead, lowest first; only the image where the
                blocks have no toRGB of their own.
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
            block, shortcut = getattr(self, f"b{resolution}"), None
            conv0_options, conv1_options = {}, {}
            if resolution == 4:
                x = block.const.expand(ws.shape[0], -1, -1, -1)
                _record(features, "b4.const", x)
            else:
                if block.skip is not None:
                    with layer_range(f"synthesis.b{resolution}.skip"):
                        shortcut = block.skip(x)
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
                x = x if shortcut is None else shortcut + x
            _record(features, f"b{resolution}.conv1", x)
            index += 1
            if block.to_rgb is not None:
                with layer_range(f"synthesis.b{resolution}.to_rgb"):
                    out = wide(block.to_rgb(x, ws[:, index]))
                    rgb = out if rgb is None else self._upsampled(rgb) + out
                rgbs.append(rgb)
        return rgbs if return_rgbs else rgb

    def _upsampled(self, rgb: torch.Tensor) -> torch.Tensor:
        return enlarged(rgb) if self.config.upsampling == "bilinear" else upsample2d(rgb, self.resample_filter)

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
            if block.to_rgb is not None:
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

    def not_compiled(self, mapping: bool = True) -> str | None:
        """Why the compiled programs do not run this generator, with or without its ``mapping``; None if they do."""
        if type(self) is not Generator or type(self.synthesis) is not SynthesisNetwork:
            return "the compiled program runs StyleGAN2 alone"
        return not_compiled(self.config) or (mapping_not_compiled(self.config) if mapping else None)

    def frozen_weights(self, mapping: bool = True) -> GeneratorWeights | None:
        """Weights for the compiled programs, in float64 on the CPU; None where :meth:`not_compiled` has a reason.

        Without ``mapping`` they have no mapping network, which then runs by its own layers.
        """
        return None if self.not_compiled(mapping) else frozen_weights(self, mapping)
