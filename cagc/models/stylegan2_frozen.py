"""Weights of a StyleGAN2 generator in the form that the compiled programs take: with gains, in float64 on the CPU."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cagc_kernels import bias_act
from cagc_kernels.synthesis import ConvWeights, GeneratorWeights, ToRGBWeights

from .layers import unit_mean_square


class FoldedMapping(nn.Module):
    """A frozen mapping network, :class:`cagc.models.stylegan2.MappingNetwork`, with its gains in its weights.

    The network itself multiplies all of its weights by their gains in every call.
    """

    @torch.no_grad()
    def __init__(self, mapping: Any) -> None:
        super().__init__()
        self.acts = []
        for i, layer in enumerate([mapping.embed] if mapping.c_dim else [], start=-1):
            self._fold(i, layer)
        for i in range(mapping.depth):
            layer = getattr(mapping, f"fc{i}")
            self.acts.append(layer.act)
            self._fold(i, layer)

    def _fold(self, index: int, layer: Any) -> None:
        weight = (layer.weight.double() * layer.weight_gain).t().contiguous()
        self.register_buffer(f"weight{index}", weight.to(layer.weight.dtype))
        self.register_buffer(f"bias{index}", (layer.bias.double() * layer.bias_gain).to(layer.bias.dtype))

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """w [N, w_dim] of ``z`` [N, z_dim] and labels ``c`` [N, c_dim]."""
        x, weights = unit_mean_square(z), dict(self.named_buffers())
        if c is not None and "weight-1" in weights:
            embedded = torch.addmm(weights["bias-1"], c, weights["weight-1"])
            x = torch.cat([x, unit_mean_square(embedded)], dim=1)
        for i, act in enumerate(self.acts):
            x = bias_act(x @ weights[f"weight{i}"], weights[f"bias{i}"], act=act)
        return x


def not_compiled(config: Any) -> str | None:
    """Why the compiled programs do not run a generator of ``config``; None if they do."""
    if config.block_architecture != "skip":
        return f"the compiled program runs the skip architecture, not {config.block_architecture}"
    if config.const_size != (4, 4):
        return f"the compiled program draws square images from 4 × 4, not {config.img_size[0]} × {config.img_size[1]}"
    if config.img_channels != 3:
        return f"the compiled program draws images of 3 channels, not {config.img_channels}"
    if config.upsampling != "fir":
        return f"the compiled program up-samples by FIR, not {config.upsampling}"
    if config.activation != "lrelu":
        return f"the compiled program has leaky ReLU, not {config.activation}"
    return None


def mapping_not_compiled(config: Any) -> str | None:
    """Why the compiled programs do not run the mapping network of ``config``; None if they do."""
    if config.c_dim:
        return "the compiled mapping network takes no labels"
    if config.mapping_layers == 0:
        return "the compiled program needs a mapping network"
    if any(inputs != outputs for inputs, outputs in config.mapping_sizes()):
        return "the compiled mapping network has one width, that of z and w"
    if config.mapping_activation != "lrelu":
        return f"the compiled mapping network has leaky ReLU, not {config.mapping_activation}"
    return None


@torch.no_grad()
def frozen_weights(generator: Any, mapping: bool) -> GeneratorWeights:
    """Weights of ``generator``, a :class:`cagc.models.stylegan2.Generator`, with gains, in float64 on the CPU.

    Without ``mapping`` they have no mapping network.
    """
    cpu, config = copy.deepcopy(generator).to("cpu", torch.float64), generator.config
    taps = torch.tensor(config.resample_filter, dtype=torch.float64)
    layers = [getattr(cpu.mapping, f"fc{i}") for i in range(cpu.mapping.depth)] if mapping else []
    return GeneratorWeights(
        convs=_convs(cpu.synthesis),
        mapping=[(layer.weight * layer.weight_gain, layer.bias * layer.bias_gain) for layer in layers],
        constant=cpu.synthesis.b4.const,
        fir=(taps / taps.sum()).tolist(),
        style_dim=config.w_dim,
        clamp=config.conv_clamp,
    )


def _convs(synthesis: Any) -> list[ConvWeights]:
    convs: list[ConvWeights] = []
    for resolution in synthesis.resolutions:
        block = getattr(synthesis, f"b{resolution}")
        if resolution > 4:
            convs.append(_conv(block.conv0, len(convs), None))
        convs.append(_conv(block.conv1, len(convs), block.to_rgb))
    return convs


def _conv(layer: Any, index: int, to_rgb: Any | None) -> ConvWeights:
    affine, affine_bias = _affine(layer)
    rgb = None
    if to_rgb is not None:
        rgb = ToRGBWeights((to_rgb.weight * to_rgb.weight_gain).flatten(1), *_affine(to_rgb), to_rgb.bias, index + 1)
    return ConvWeights(
        weight=layer.weight * layer.weight_gain,
        affine=affine,
        affine_bias=affine_bias,
        bias=layer.bias,
        noise_strength=float(layer.noise_strength),
        resolution=layer.size[0],
        up=layer.up,
        w=index,
        to_rgb=rgb,
    )


def _affine(layer: Any) -> tuple[Tensor, Tensor]:
    affine = layer.affine
    return affine.weight * affine.weight_gain, affine.bias * affine.bias_gain
