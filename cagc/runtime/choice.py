"""Which compiled program runs a generator, or why none does."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from cagc_kernels import backend
from cagc_kernels.synthesis import GeneratorWeights, SynthesisProgram

from ..models import AnyGenerator
from ..models.stylegan2_frozen import FoldedMapping


def mapping_of(generator: AnyGenerator, program: SynthesisProgram) -> Callable[..., Tensor]:
    """What computes w: the program, or the mapping network's own layers, frozen, where the program has none."""
    if maps(generator):
        return program.map
    return FoldedMapping(generator.mapping).to(program.device, program.dtype)


def maps(generator: AnyGenerator) -> bool:
    """Whether the compiled programs compute w of ``generator``: SN-GAN's w is z, and StyleGAN3's is not theirs."""
    if hasattr(generator, "filtered_weights"):
        return False
    return hasattr(generator, "residual_weights") or generator.not_compiled() is None


def weights_of(generator: AnyGenerator) -> GeneratorWeights:
    """Weights of StyleGAN2's compiled programs, without the mapping network if they do not run it."""
    return generator.frozen_weights(mapping=maps(generator))


def program_of(
    generator: AnyGenerator, batch: int, dtype: torch.dtype, device: torch.device
) -> tuple[SynthesisProgram | None, str | None]:
    """The compiled program for this generator, or None and the reason why there is none."""
    name = "triton" if device.type == "cuda" or backend.preferred() == "triton" else "native"
    if dtype == torch.float64:
        return None, "the compiled program computes in float32, not float64"
    residual, filtered = hasattr(generator, "residual_weights"), hasattr(generator, "filtered_weights")
    if not residual and not filtered and not hasattr(generator, "frozen_weights"):
        return None, "the compiled programs run StyleGAN2, StyleGAN3 and SN-GAN alone"
    if (residual or filtered) and name != "native":
        return None, f"the compiled program of {'SN-GAN' if residual else 'StyleGAN3'} runs on the CPU alone"
    if reason := backend.refusal(name, "modulated_conv2d", device.type):
        return None, reason
    if backend.preferred() not in (None, name):
        return None, f"the {backend.preferred()} backend is preferred"
    if residual:
        return import_module("cagc_kernels.native.sngan").Program(generator.residual_weights(), batch), None
    if filtered:
        if reason := generator.no_filtered_weights():
            return None, reason
        return import_module("cagc_kernels.native.stylegan3").Program(generator.filtered_weights(), batch), None
    if reason := generator.not_compiled(mapping=False):
        return None, reason
    weights = weights_of(generator)
    if len(weights.fir) != 4:
        return None, f"the compiled program filters with 4 taps, not {len(weights.fir)}"
    module = import_module(f"cagc_kernels.{name}.synthesis")
    return module.Program(weights, batch, *(() if name == "native" else (dtype, device))), None
