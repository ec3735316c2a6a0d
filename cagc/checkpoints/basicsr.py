"""Reads StyleGAN2 generators of BasicSR and GFPGAN: rosinality's network under other names, without its filters."""

from __future__ import annotations

import re
from dataclasses import replace

from ..common.errors import CagcError
from ..common.wrappings import Part
from ..models import Generator
from .rosinality import generator_from_rosinality

LAYOUT = "BasicSR's StyleGAN2 layout"


def generator_from_basicsr(part: Part, source: str = "state dict") -> Generator:
    """Build the float32 generator of "params_ema" or "params"; see :func:`.rosinality.generator_from_rosinality`.

    Raises:
        CagcError: it is GFPGAN's "clean" variant, which has other layers, or a tensor is missing or has another shape.
    """
    if "style_conv1.bias" in part.tensors and "style_conv1.activate.bias" not in part.tensors:
        raise CagcError(f'{source}: GFPGAN\'s "clean" variant of StyleGAN2, which is not supported')
    renamed = {rosinality_name(name): tensor for name, tensor in part.tensors.items()}
    return generator_from_rosinality(replace(part, tensors=renamed), source)


def rosinality_name(name: str) -> str:
    """Translate BasicSR's ``name`` of a tensor to rosinality's."""
    for theirs, ours in (("style_mlp.", "style."), ("constant_input.weight", "input.input")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    name = re.sub(r"^noises\.noise(\d+)$", r"noises.noise_\1", name)
    name = re.sub(r"^(style_conv1|style_convs\.\d+)\.weight$", r"\1.noise.weight", name)
    return name.removeprefix("style_").replace(".modulated_conv.", ".conv.")
