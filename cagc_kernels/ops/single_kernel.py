"""Modulated convolution for backends with a single kernel for the whole layer, registered with PyTorch.

The backward pass runs the reference on the saved inputs and differentiates it, any number of times.
"""

from __future__ import annotations

import torch

from .. import layout
from ..arguments import ACTIVATION_SCHEMA, RESAMPLING_SCHEMA, Epilogue, Resampling
from ..reference import modulated_conv2d as reference
from .dispatch import kernels
from .registration import register


def _gathered(x, weight, styles, f, noise, bias, next_styles, demodulate, modulate, flip_weight, *rest):
    """Convert the arguments of the schema to those of :func:`single_kernel`, without the backend."""
    resampling, epilogue = Resampling.of_numbers(f, *rest[:10]), Epilogue(noise, bias, next_styles, *rest[10:])
    return x, weight, styles, demodulate, modulate, flip_weight, resampling, epilogue


def _run(*arguments_backend):
    *arguments, backend = arguments_backend
    return kernels("modulated_conv2d", backend).layer(*_gathered(*arguments))


def _fake(*arguments_backend):
    x, weight, *_, resampling, _ = _gathered(*arguments_backend[:-1])
    return layout.empty_images(x, *resampling.output_size(x, weight.shape[2:]), channels=weight.shape[0])


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.options = inputs[7:-1]


def _backward(ctx, g):
    again = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(g.device.type, enabled=False):
        # Views: if one saved tensor was computed from another, autograd must not follow that path as well.
        inputs = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
        wanted = [t for t in inputs if t is not None and t.requires_grad]
        y = reference.layer(*_gathered(*inputs, *ctx.options))
        found = iter(torch.autograd.grad(y, wanted, g, create_graph=again, allow_unused=True))
    gradients = (next(found) if t is not None and t.requires_grad else None for t in inputs)
    return *gradients, *[None] * (len(ctx.options) + 1)


_call = register(
    "modulated_conv2d(Tensor x, Tensor weight, Tensor styles, Tensor? f, Tensor? noise, Tensor? bias, "
    f"Tensor? next_styles, bool demodulate, bool modulate, bool flip_weight, {RESAMPLING_SCHEMA}, "
    f"{ACTIVATION_SCHEMA}, str backend) -> Tensor",
    _run, _fake, _save, _backward,
)  # fmt: skip


def single_kernel(
    x, weight, styles, demodulate, modulate, flip_weight, resampling: Resampling, epilogue: Epilogue, backend: str
) -> torch.Tensor:
    """Return the same as :func:`cagc_kernels.ops.composed.composed`, computed by one kernel of ``backend``."""
    noise, bias, next_styles, *activation = epilogue
    return _call(
        x, weight, styles, resampling.filter, noise, bias, next_styles, demodulate, modulate, flip_weight,
        *resampling.numbers, *activation, backend,
    )  # fmt: skip
