"""Weights of a StyleGAN3 generator in the form that its compiled program takes: with gains, in float64 on the CPU."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from cagc_kernels.arguments import Filtering
from cagc_kernels.synthesis import FilteredConvWeights, FilteredWeights


def not_compiled(config: Any) -> str | None:
    """Why the compiled program does not run a generator of ``config``; None if it does."""
    if config.conv_kernel not in (1, 3):
        return f"the compiled program has 1x1 and 3x3 kernels, not {config.conv_kernel}x{config.conv_kernel}"
    return None


@torch.no_grad()
def filtered_weights(synthesis: Any) -> FilteredWeights:
    """Weights of a :class:`cagc.models.stylegan3.SynthesisNetwork`, which may be changed afterwards."""
    single = copy.deepcopy(synthesis.input).to("cpu", torch.float32).requires_grad_(False)
    return FilteredWeights(
        input=single,
        convs=[_conv(copy.deepcopy(getattr(synthesis, name)).to("cpu", torch.float64)) for name in synthesis.layers],
        output_scale=synthesis.config.output_scale,
    )


def _conv(layer: Any) -> FilteredConvWeights:
    plan, affine = layer.plan, layer.affine
    gain = layer.weight_gain if layer.rgb else 1  # toRGB multiplies its styles by it, and does not demodulate
    taps = [None if f is None else f.float() for f in (layer.up_filter, layer.down_filter)]
    return FilteredConvWeights(
        weight=layer.weight.detach(),
        affine=affine.weight * affine.weight_gain * gain,
        affine_bias=affine.bias * affine.bias_gain * gain,
        bias=layer.bias.detach(),
        input_gain=float(layer.input_gain),
        demodulate=not layer.rgb,
        filtering=Filtering(
            *taps,
            up=plan.up,
            down=plan.down,
            padding=tuple(plan.padding),
            gain=1.0 if layer.rgb else math.sqrt(2),
            slope=1.0 if layer.rgb else 0.2,
            clamp=-1.0 if layer.clamp is None else float(layer.clamp),
        ),
    )
