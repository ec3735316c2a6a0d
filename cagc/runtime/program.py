"""A StyleGAN2 generator as a program of frozen weights: compiled for the CPU, or of Triton launches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cagc_kernels import backend
from cagc_kernels.frozen import ConvWeights, GeneratorWeights, ToRGBWeights
from cagc_kernels.native.synthesis import Program
from cagc_kernels.ops.modulated_conv2d import composed_because

from ..metrics.macs import count_macs
from ..models import Generator, GeneratorConfig
from ..models.stylegan2 import SynthesisLayer, SynthesisNetwork, ToRGB

if TYPE_CHECKING:
    from cagc_kernels.triton.synthesis import Program as TritonProgram

WHY = {
    "direct3": "few pixels: transformed weights would cost more to read than they save",
    "winograd43": "Winograd F(4x4, 3x3): a quarter of the multiplications",
    "transposed2": "few pixels: transformed weights would cost more to read than they save",
    "winograd42": "transposed convolution by F(4, 2) per parity: 81 multiplications where 144 are due",
}


def program(generator: Generator, batch: int = 1, instructions: str | None = None) -> Program:
    """The packed CPU program of a StyleGAN2 generator; ``instructions`` as in :class:`Program`."""
    return Program(_weights(generator), batch, instructions)


def triton_program(generator: Generator, batch: int, dtype: torch.dtype, device: torch.device) -> TritonProgram:
    """The program of a StyleGAN2 generator in Triton launches; see :class:`cagc_kernels.triton.synthesis.Program`."""
    return import_module("cagc_kernels.triton.synthesis").Program(_weights(generator), batch, dtype, device)


@torch.no_grad()
def _weights(generator: Generator) -> GeneratorWeights:
    cpu = copy.deepcopy(generator).to("cpu", torch.float64)
    taps = torch.tensor(generator.config.resample_filter, dtype=torch.float64)
    mapping = [getattr(cpu.mapping, f"fc{i}") for i in range(cpu.mapping.depth)]
    return GeneratorWeights(
        _convs(cpu.synthesis),
        [(layer.weight * layer.weight_gain, layer.bias * layer.bias_gain) for layer in mapping],
        cpu.synthesis.b4.const,
        (taps / taps.sum()).tolist(),
        generator.config.style_dim,
        generator.config.conv_clamp,
    )


def _convs(synthesis: SynthesisNetwork) -> list[ConvWeights]:
    convs = []
    for resolution in synthesis.resolutions:
        block = getattr(synthesis, f"b{resolution}")
        if resolution > 4:
            convs.append(_conv(block.conv0, len(convs), None))
        convs.append(_conv(block.conv1, len(convs), block.to_rgb))
    return convs


def _conv(layer: SynthesisLayer, index: int, to_rgb: ToRGB | None) -> ConvWeights:
    affine = _affine(layer)
    rgb = None
    if to_rgb is not None:
        rgb = ToRGBWeights((to_rgb.weight * to_rgb.weight_gain).flatten(1), *_affine(to_rgb), to_rgb.bias, index + 1)
    return ConvWeights(
        layer.weight * layer.weight_gain, *affine, layer.bias, float(layer.noise_strength), layer.resolution, layer.up,
        index, rgb,
    )  # fmt: skip


def _affine(layer: SynthesisLayer | ToRGB) -> tuple[Tensor, Tensor]:
    affine = layer.affine
    return affine.weight * affine.weight_gain, affine.bias * affine.bias_gain


def shell(generator: Generator, compiled: Program | TritonProgram) -> Generator:
    """A generator without weights whose two networks are the compiled program; it keeps the checks and truncation."""
    result = Generator.__new__(Generator)
    nn.Module.__init__(result)
    result.config = generator.config
    result.mapping = ProgramMapping(compiled)
    synthesis = ProgramSynthesis if isinstance(compiled, Program) else TritonSynthesis
    result.synthesis = synthesis(generator.synthesis, compiled)
    result.register_buffer("w_avg", generator.w_avg.to(compiled.device, compiled.dtype, copy=True))
    return result.eval()


class ProgramMapping(nn.Module):
    """The mapping network: z [N, style_dim] → w [N, style_dim]."""

    def __init__(self, compiled: Program | TritonProgram) -> None:
        super().__init__()
        self.compiled = compiled

    def forward(self, z: Tensor) -> Tensor:
        return self.compiled.map(z)


class ProgramSynthesis(nn.Module):
    """The synthesis network, with the checks and noise modes of the original."""

    noise_shapes = SynthesisNetwork.noise_shapes
    _check_ws = SynthesisNetwork._check_ws
    _check_noise = SynthesisNetwork._check_noise

    def __init__(self, synthesis: SynthesisNetwork, compiled: Program | TritonProgram) -> None:
        super().__init__()
        self.config, self.resolutions, self.compiled = synthesis.config, synthesis.resolutions, compiled
        layers = [module for module in synthesis.modules() if isinstance(module, SynthesisLayer)]
        maps = [layer.noise_const.to(compiled.device, compiled.dtype, copy=True) for layer in layers]
        self.constants = [noise[None, None] for noise in maps]

    def forward(self, ws: Tensor, noise: str | Sequence[Tensor] = "random", seconds: Tensor | None = None) -> Tensor:
        self._check_ws(ws)
        noises = self._check_noise(noise, len(ws))
        if noise == "const":
            noises = self.constants
        elif noise == "none":
            noises = [None] * len(noises)
        elif noise == "random":
            noises = self.draw(len(ws))
        return self.compiled.images(ws, noises) if seconds is None else self.compiled.images(ws, noises, seconds)

    def draw(self, batch: int) -> list[Tensor]:
        """Standard normal noise for each convolution, as the generator draws it."""
        return [torch.empty(batch, 1, *shape).normal_() for shape in self.noise_shapes()]


class TritonSynthesis(ProgramSynthesis):
    """:class:`ProgramSynthesis` whose random noise is one launch."""

    def draw(self, batch: int) -> list[Tensor]:
        shapes = self.noise_shapes()
        flat = self.constants[0].new_empty(batch * sum(h * w for h, w in shapes)).normal_()
        parts = flat.split([batch * h * w for h, w in shapes])
        return [part.view(batch, 1, *shape) for part, shape in zip(parts, shapes, strict=True)]


def described(compiled: Program | TritonProgram, batch: int) -> list[tuple[str, str]]:
    """Kernel of every convolution and why it is that one."""
    if isinstance(compiled, Program):
        return [(f"{name} ({compiled.instructions})", WHY[name]) for name in compiled.algorithms]
    graph = "in a CUDA graph" if compiled.device.type == "cuda" else "interpreted"
    return [(f"{kernel} by triton, {graph}", why) for kernel, why in compiled.describe(batch)]


def eager_kernels(generator: nn.Module, batch: int, device: torch.device) -> dict[str, tuple[str, str]]:
    """By the name of each styled convolution of ``generator``: "by BACKEND", and whether it is fused or why not."""
    backend_name = backend.select("modulated_conv2d", None, backend.preferred(), device.type)
    found = {}
    for name, layer in generator.named_modules():
        if isinstance(layer, SynthesisLayer):
            x = torch.empty(batch, layer.weight.shape[1], *2 * [layer.resolution // layer.up], device="meta")
            because = composed_because(
                backend_name, x, layer.weight, up=layer.up, resample_filter=layer.resample_filter, act="lrelu"
            )
            how = f"(composed: {because})" if because else "(fused)"
            found[".".join(name.split(".")[-2:])] = f"by {backend_name}", how
    return found


def profile_rows(
    config: GeneratorConfig, compiled: Program, batch: int, mapping: float, seconds: Sequence[float]
) -> list[dict[str, Any]]:
    """Rows of :meth:`cagc.runtime.CompiledGenerator.profile` from times in seconds."""
    macs = count_macs(config)
    rows = [("mapping", mapping, macs["mapping"] * batch, *compiled.mapping_cost(batch), "gemm")]
    affine = sum(count for name, count in macs.items() if name.endswith(".affine"))
    rows.append(("styles", seconds[0], affine * batch, *compiled.styles_cost(batch), "gemm"))
    names = list(config.channels)[1:]
    for i, (name, algorithm) in enumerate(zip(names, compiled.algorithms)):
        count = macs[name] + (macs[name.replace("conv1", "to_rgb")] if name.endswith("conv1") else 0)
        rows.append((name, seconds[1 + i], count * batch, *compiled.conv_cost(i, batch), algorithm))
    keys = ("name", "ms", "macs", "multiplications", "bytes", "kernel")
    return [dict(zip(keys, (name, time * 1e3, *rest))) for name, time, *rest in rows]
