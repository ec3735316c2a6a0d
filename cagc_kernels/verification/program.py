"""Checks each backend's program for whole generators against a float64 reference that is composed of the ops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from math import nan

import torch
from torch import Tensor

from ..backend import refusal
from ..reference.bias_act import bias_act
from ..reference.modulated_conv2d import modulated_conv2d, styled_conv2d
from ..reference.upfirdn2d import setup_filter, upfirdn2d
from ..synthesis import ConvWeights, GeneratorWeights, SynthesisProgram, ToRGBWeights
from ..tolerances import TOLERANCES
from .measure import Check, compare, one_line, timing

OP = "synthesis"
BATCH = 2
CLAMP = 8.0
STYLE_DIM = 32
# (resolution, width of each convolution below and from 64 px) of the generator.
GENERATORS = {"tiny": (8, 5, 3), "quick": (64, 77, 39), "full": (256, 154, 77)}
# Roundings of all layers in sequence; in float32, the CPU's program also uses Winograd transforms, which enlarge them.
ROUNDINGS = {"native": 10, "triton": 6}


def generator_weights(size: str) -> GeneratorWeights:
    """Return random weights of a StyleGAN2 generator, the same in every call."""
    random = torch.Generator().manual_seed(3)
    resolution, low, high = GENERATORS[size]

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=random, dtype=torch.float64)

    def affine(width: int) -> tuple[Tensor, Tensor]:
        return draw(width, STYLE_DIM, scale=0.3 * STYLE_DIM**-0.5), 1 + draw(width, scale=0.1)

    def conv(inputs: int, outputs: int, side: int, up: int, last: bool) -> ConvWeights:
        index = len(convs)
        rgb = (
            ToRGBWeights(draw(3, outputs, scale=outputs**-0.5), *affine(outputs), draw(3), index + 1) if last else None
        )
        weight = draw(outputs, inputs, 3, 3, scale=(9 * inputs) ** -0.5)
        return ConvWeights(weight, *affine(inputs), draw(outputs, scale=0.3), 0.3, side, up, index, rgb)

    convs: list[ConvWeights] = []
    convs.append(conv(low, low, 4, 1, True))
    side, width = 4, low
    while side < resolution:
        side *= 2
        wider, width = width, low if side < 64 else high
        convs.append(conv(wider, width, side, 2, False))
        convs.append(conv(width, width, side, 1, True))
    mapping = [(draw(STYLE_DIM, STYLE_DIM, scale=STYLE_DIM**-0.5), draw(STYLE_DIM, scale=0.1)) for _ in range(2)]
    return GeneratorWeights(convs, mapping, draw(low, 4, 4), [0.125, 0.375, 0.375, 0.125], STYLE_DIM, CLAMP)


def reference_ws(weights: GeneratorWeights, z: Tensor) -> Tensor:
    """Return w [N, style_dim] of ``z`` in float64."""
    x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for weight, bias in weights.mapping:
        x = bias_act(x @ weight.t(), bias, act="lrelu")
    return x


def reference_images(weights: GeneratorWeights, w: Tensor, noise: Sequence[Tensor]) -> Tensor:
    """Return images [N, 3, R, R] of ``w`` [N, style_dim], used for every layer, in float64."""
    f, rgb = setup_filter(weights.fir), None
    x = weights.constant.expand(len(w), -1, -1, -1)
    for conv, drawn in zip(weights.convs, noise, strict=True):
        styles = w @ conv.affine.t() + conv.affine_bias
        given = drawn * conv.noise_strength
        x = styled_conv2d(x, conv.weight, styles, conv.bias, given, conv.up, f, clamp=weights.clamp)
        if conv.to_rgb is None:
            continue
        to_rgb = conv.to_rgb
        styles = w @ to_rgb.affine.t() + to_rgb.affine_bias
        y = modulated_conv2d(x, to_rgb.weight[:, :, None, None], styles, demodulate=False)
        y = bias_act(y, to_rgb.bias, clamp=weights.clamp)
        rgb = y if rgb is None else upfirdn2d(rgb, f, 2, padding=(2, 1, 2, 1), gain=4) + y
    return rgb


def make(backend: str, weights: GeneratorWeights, dtype: torch.dtype, device: torch.device) -> SynthesisProgram:
    """Build the program of ``backend``."""
    program = import_module(f"cagc_kernels.{backend}.synthesis").Program
    return program(weights, BATCH) if backend == "native" else program(weights, BATCH, dtype, device)


def refused(backend: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return the reason why ``backend`` has no program for ``dtype`` on ``device``, or None."""
    if backend == "reference":
        return "no program of its own"
    if dtype == torch.float64:
        return "no program in float64"
    if backend == "native" and (device.type != "cpu" or dtype != torch.float32):
        return "float32 on the CPU only"
    return refusal(backend, "modulated_conv2d", device.type)


@torch.no_grad()
def verify_program(backend: str, dtype: torch.dtype, device: torch.device, size: str) -> Iterator[Check]:
    """Return a check of w, and one of the images from the same w."""
    weights = generator_weights(size)
    resolution, *widths = GENERATORS[size]
    case = f"{resolution} px, {widths[0]} and {widths[1]} channels, batch {BATCH}"
    check = {"op": OP, "case": case, "backend": backend, "dtype": str(dtype).removeprefix("torch."), "order": "forward"}
    random = torch.Generator().manual_seed(4)
    z = torch.randn(BATCH, STYLE_DIM, generator=random).to(dtype)
    noise = [torch.randn(BATCH, 1, c.resolution, c.resolution, generator=random).to(dtype) for c in weights.convs]
    roundings = ROUNDINGS[backend]
    limit = roundings * TOLERANCES[dtype].relative
    try:
        program = make(backend, weights, dtype, device)
        w = program.map(z.to(device))
        ws = w[:, None].expand(-1, len(weights.convs) + 1, -1)
        given = [t.to(device) for t in noise]
        image = program.images(ws, given)
        wanted = reference_images(weights, w.double().cpu(), [t.double() for t in noise])
        results = [w.cpu(), image.cpu()], [reference_ws(weights, z.double()), wanted]
        error, wrong = compare(*results, TOLERANCES[dtype], roundings)
        moved = program.memory + image.nbytes
        took = timing(
            partial(program.images, ws, given), device, dtype, size != "full", moved, multiplications(weights)
        )
    except Exception as failure:
        yield Check(**check, limit=limit, error=nan, wrong=one_line(failure))
        return
    yield Check(**check, limit=limit, error=error, wrong=wrong, **took)


def multiplications(weights: GeneratorWeights) -> int:
    """Return the multiplications of a batch's convolutions; up-sampling ones count at their input's resolution."""
    return BATCH * sum(c.weight.numel() * (c.resolution // c.up) ** 2 for c in weights.convs)
