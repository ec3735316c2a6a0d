"""The networks of a generator as a program of frozen weights: compiled for the CPU, or of Triton launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cagc_kernels import backend
from cagc_kernels.frozen import GeneratorWeights
from cagc_kernels.native.synthesis import Program

from ..models import AnyConfig, AnyGenerator, LayerSpec
from ..models.base import BaseMapping, BaseSynthesis

if TYPE_CHECKING:
    from cagc_kernels.triton.synthesis import Program as TritonProgram

WHY = {
    "direct3": "few pixels: transformed weights would cost more to read than they save",
    "winograd43": "Winograd F(4x4, 3x3): a quarter of the multiplications",
    "transposed2": "few pixels: transformed weights would cost more to read than they save",
    "winograd42": "transposed convolution by F(4, 2) per parity: 81 multiplications where 144 are due",
}


def program(generator: AnyGenerator, batch: int = 1, instructions: str | None = None) -> Program:
    """The packed CPU program of a generator with frozen weights; ``instructions`` as in :class:`Program`."""
    return Program(generator.frozen_weights(), batch, instructions)


def triton_program(weights: GeneratorWeights, batch: int, dtype: torch.dtype, device: torch.device) -> TritonProgram:
    """The program in Triton launches; see :class:`cagc_kernels.triton.synthesis.Program`."""
    return import_module("cagc_kernels.triton.synthesis").Program(weights, batch, dtype, device)


def convolutions(config: AnyConfig) -> list[LayerSpec]:
    """The convolutions on the main path, which explanations and profiles have a row for."""
    return [spec for spec in config.layers() if spec.leads_on]


class CompiledMapping(BaseMapping):
    """A mapping network whose w is ``function(z)``, with the checks and the truncation of all others."""

    def __init__(self, config: AnyConfig, function: Callable[[Tensor], Tensor], w_avg: Tensor) -> None:
        super().__init__(config)
        self.function, self.w_avg = function, w_avg

    def w(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """One w [N, w_dim] for each ``z`` [N, z_dim]; compiled programs know no labels ``c``."""
        return self.function(z)


class ProgramSynthesis(BaseSynthesis):
    """A synthesis network that runs a compiled program, with the checks and noise modes of all others."""

    def __init__(self, generator: AnyGenerator, compiled: Program | TritonProgram) -> None:
        super().__init__()
        self.config, self.compiled = generator.config, compiled
        noisy = [generator.get_submodule(spec.module) for spec in self.config.layers() if spec.noise]
        maps = [layer.noise_const.to(compiled.device, compiled.dtype, copy=True) for layer in noisy]
        self.constants = [noise[None, None] for noise in maps]

    def forward(
        self,
        ws: Tensor,
        noise_mode: str = "random",
        noise: str | Sequence[Tensor] | None = None,
        seconds: Tensor | None = None,
    ) -> Tensor:
        self.check_ws(ws)
        noise = noise_mode if noise is None else noise
        noises = self.check_noise(noise_mode, noise, len(ws))
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
        """Standard normal noise for each convolution, views of one tensor."""
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


def eager_kernels(generator: AnyGenerator, batch: int, device: torch.device) -> dict[str, tuple[str, str]]:
    """By the name of each styled convolution of ``generator``: "by BACKEND", and whether it is fused or why not."""
    backend_name = backend.select("modulated_conv2d", None, backend.preferred(), device.type)
    found = {}
    for spec in convolutions(generator.config):
        layer = generator.get_submodule(spec.module)
        if hasattr(layer, "composed_because"):
            because = layer.composed_because(backend_name, batch)
            found[spec.name] = f"by {backend_name}", f"(composed: {because})" if because else "(fused)"
    return found


def profile_rows(
    config: AnyConfig, compiled: Program, batch: int, mapping: float, seconds: Sequence[float]
) -> list[dict[str, Any]]:
    """Rows of :meth:`cagc.runtime.CompiledGenerator.profile` from times in seconds."""
    layers = config.layers()
    macs = sum(spec.macs for spec in layers if spec.kind == "mapping")
    rows = [("mapping", mapping, macs * batch, *compiled.mapping_cost(batch), "gemm")]
    affine = sum(spec.affine_macs for spec in layers)
    rows.append(("styles", seconds[0], affine * batch, *compiled.styles_cost(batch), "gemm"))
    for i, (conv, algorithm) in enumerate(zip(convolutions(config), compiled.algorithms)):
        images = [spec for spec in layers if spec.kind == "to_rgb" and spec.reads == conv.writes]
        count = sum(spec.macs for spec in (conv, *images))
        rows.append((conv.name, seconds[1 + i], count * batch, *compiled.conv_cost(i, batch), algorithm))
    keys = ("name", "ms", "macs", "multiplications", "bytes", "kernel")
    return [dict(zip(keys, (name, time * 1e3, *rest))) for name, time, *rest in rows]
