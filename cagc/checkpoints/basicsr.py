"""Reads StyleGAN2 generators of BasicSR and GFPGAN: rosinality's network under other names, without its filters.

GFPGAN has two relatives that up-sample bilinearly: one whose tensors have the same names, and the "clean" one, whose
gains are multiplied into its weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..common.wrappings import Part
from ..models import Generator
from .rosinality import generator_from_rosinality
from .states import width_of

LAYOUT = "BasicSR's StyleGAN2 layout"
CLEAN = 'GFPGAN\'s "clean" StyleGAN2 layout'


def generator_from_basicsr(part: Part, source: str = "state dict") -> Generator:
    """Build the float32 generator of "params_ema" or "params"; see :func:`.rosinality.generator_from_rosinality`.

    Whether it up-samples by FIR or bilinearly (GFPGANBilinear) does not show in its tensors: FIR is assumed.

    Raises:
        CagcError: a tensor is missing or has another shape.
    """
    renamed = {rosinality_name(name): tensor for name, tensor in part.tensors.items()}
    return generator_from_rosinality(replace(part, tensors=renamed), source, part.assume("upsampling", "fir"))


def rosinality_name(name: str) -> str:
    """Translate BasicSR's ``name`` of a tensor to rosinality's."""
    for theirs, ours in (("style_mlp.", "style."), ("constant_input.weight", "input.input")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    name = re.sub(r"^noises\.noise(\d+)$", r"noises.noise_\1", name)
    name = re.sub(r"^(style_conv1|style_convs\.\d+)\.weight$", r"\1.noise.weight", name)
    return name.removeprefix("style_").replace(".modulated_conv.", ".conv.")


def generator_from_clean(part: Part, source: str = "state dict") -> Generator:
    """Build the float32 generator of GFPGAN's "clean" variant, whose layers have no equalised learning rate.

    Raises:
        CagcError: a tensor is missing or has another shape.
    """
    features = width_of(part, "style_mlp.1.weight", 1, 2, source, CLEAN)
    lr_multiplier = 0.01  # any value serves: it divides what it multiplies at run time
    gains: list[tuple[str, Callable[[Tensor], float]]] = [
        (r"style_mlp\.\d+\.weight", lambda w: math.sqrt(features / 2) / lr_multiplier),
        (r"style_mlp\.\d+\.bias", lambda b: math.sqrt(0.5) / lr_multiplier),
        (r".*\.modulated_conv\.weight", lambda w: math.sqrt(w[0, 0].numel())),
        (r".*\.modulation\.weight", lambda w: math.sqrt(w.shape[1])),
        # The square root of 2 of leaky ReLU comes before noise and bias there, and after them here.
        (r"style_conv(1|s\.\d+)\.(weight|bias)", lambda b: math.sqrt(0.5)),
    ]
    tensors = {}
    for name in part.tensors:
        tensor = part.fetch(name)
        gain = next((gain for pattern, gain in gains if re.fullmatch(pattern, name) and tensor.ndim), None)
        tensors[_clean_name(name)] = tensor if gain is None else tensor * gain(tensor)
    part = replace(part, tensors=tensors, options={"style.1.lr_mul": lr_multiplier})
    return generator_from_rosinality(part, source, "bilinear")


def _clean_name(name: str) -> str:
    """Translate a "clean" name to rosinality's; activations count among its fully connected layers."""
    if match := re.fullmatch(r"style_mlp\.(\d+)\.(weight|bias)", name):
        return f"style.{(int(match[1]) + 1) // 2}.{match[2]}"
    return rosinality_name(re.sub(r"^(style_conv1|style_convs\.\d+)\.bias$", r"\1.activate.bias", name))
