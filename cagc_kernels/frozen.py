"""Weights of a frozen generator as the programs of the backends take them: gains included, [O, I, ...] in any dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ToRGBWeights:
    """weight [3, O] with its gain; affine [O, style_dim], affine_bias [O]; bias [3]; w: which of the ws it takes."""

    weight: torch.Tensor
    affine: torch.Tensor
    affine_bias: torch.Tensor
    bias: torch.Tensor
    w: int


@dataclass(frozen=True)
class ConvWeights:
    """One styled 3x3 convolution: weight [O, I, 3, 3] with its gain; affine [I, style_dim], affine_bias [I]; bias [O].

    resolution: of the output; w: which of the ws it takes.
    """

    weight: torch.Tensor
    affine: torch.Tensor
    affine_bias: torch.Tensor
    bias: torch.Tensor
    noise_strength: float
    resolution: int
    up: int
    w: int
    to_rgb: ToRGBWeights | None = None


@dataclass(frozen=True)
class GeneratorWeights:
    """All of a StyleGAN2 generator.

    convs: in the order of execution; the last has a ``to_rgb``. mapping: (weight [F, F], bias [F]) of each layer.
    constant: [C, 4, 4]. fir: four taps of the up-sampling filter, of sum 1, in the order that the user gives them.
    style_dim: F. clamp: bound of what every convolution and toRGB gives; None for none.
    """

    convs: Sequence[ConvWeights]
    mapping: Sequence[tuple[torch.Tensor, torch.Tensor]]
    constant: torch.Tensor
    fir: Sequence[float]
    style_dim: int
    clamp: float | None
