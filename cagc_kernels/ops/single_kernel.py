"""Modulated convolution where a backend has it in one kernel, registered with PyTorch.

The backward pass runs the reference's formula on the saved inputs and differentiates it, as often as is asked for.
"""

from __future__ import annotations

import torch

from .. import layout
from ..reference import modulated_conv2d as reference
from ..reference.bias_act import ACTIVATIONS
from ..reference.upfirdn2d import parse_padding
from .dispatch import kernels
from .registration import register

# Arguments of every function here, in this order: x, weight, styles, bias, noise, f, next_styles (the last four may be
# None); up, down, x0, x1, y0, y1, demodulate, flip_weight, modulate; act, alpha, gain, clamp (< 0: none); backend.
# Without bias it is cagc_kernels.modulated_conv2d, with bias cagc_kernels.styled_conv2d.


def _apply(module, x, weight, styles, bias, noise, f, following, *options):
    """The function of ``module`` that the arguments ask for."""
    up, down, x0, x1, y0, y1, demodulate, flip_weight, modulate, act, alpha, gain, clamp, _ = options
    if bias is None:
        padding = [x0, x1, y0, y1]
        return module.modulated_conv2d(x, weight, styles, noise, up, down, padding, f, demodulate, flip_weight)
    clamp = None if clamp < 0 else clamp
    return module.styled_conv2d(
        x, weight, styles, bias, noise, up, f, demodulate, act, alpha, gain, clamp, following, modulate
    )


def _run(*arguments):
    return _apply(kernels("modulated_conv2d", arguments[-1]), *arguments)


def _fake(x, weight, styles, bias, noise, f, following, up, down, x0, x1, y0, y1, *_):
    height = (x.shape[2] * up + y0 + y1 - weight.shape[2]) // down + 1
    width = (x.shape[3] * up + x0 + x1 - weight.shape[3]) // down + 1
    return layout.empty_images(x, height, width, channels=weight.shape[0])


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.options = inputs[7:]


def _backward(ctx, g):
    again = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(g.device.type, enabled=False):
        # Views, so that a path from one saved tensor to another is not counted twice.
        inputs = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
        wanted = [t for t in inputs if t is not None and t.requires_grad]
        y = _apply(reference, *inputs, *ctx.options)
        found = torch.autograd.grad(y, wanted, g, create_graph=again, allow_unused=True)
    found = iter(found)
    return *(next(found) if t is not None and t.requires_grad else None for t in inputs), *[None] * len(ctx.options)


_call = register(
    "modulated_conv2d(Tensor x, Tensor weight, Tensor styles, Tensor? bias, Tensor? noise, Tensor? f, "
    "Tensor? following, SymInt up, SymInt down, SymInt x0, SymInt x1, SymInt y0, SymInt y1, bool demodulate, "
    "bool flip_weight, bool modulate, str act, float alpha, float gain, float clamp, str backend) -> Tensor",
    _run, _fake, _save, _backward,
)  # fmt: skip


def single_kernel(x, weight, styles, noise, demodulate, modulate, conv, finish, backend) -> torch.Tensor:
    """As :func:`cagc_kernels.ops.composed.composed`, by one kernel of ``backend``."""
    f, up, down, padding, flip_weight = conv
    bias, following, act, alpha, gain, clamp = finish
    alpha = ACTIVATIONS[act].alpha if alpha is None else float(alpha)
    gain = ACTIVATIONS[act].gain if gain is None else float(gain)
    clamp = -1.0 if clamp is None else float(clamp)
    return _call(
        x, weight, styles, bias, noise, f, following, up, down, *parse_padding(padding), bool(demodulate),
        bool(flip_weight), bool(modulate), act, alpha, gain, clamp, backend,
    )  # fmt: skip
