"""Mapping and synthesis networks that run a compiled program: on the CPU, or as Triton launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cagc_kernels import backend
from cagc_kernels.native.synthesis import Program
from cagc_kernels.synthesis import Part, SynthesisProgram

from ..models import AnyConfig, AnyGenerator, LayerSpec
from ..models.base import BaseMapping, BaseSynthesis


def program(generator: AnyGenerator, batch: int = 1, instructions: str | None = None) -> Program:
    """The packed CPU program of a generator with frozen weights; ``instructions`` as in :class:`Program`."""
    return Program(generator.frozen_weights(), batch, instructions)


def convolutions(config: AnyConfig) -> list[LayerSpec]:
    """The convolutions of the main path: explanations and profiles have one row for each."""
    return [spec for spec in config.layers() if spec.leads_on]


class CompiledMapping(BaseMapping):
    """Mapping network that computes w by ``function``, with the checks and truncation of :class:`BaseMapping`.

    ``function``: (z) → w [N, w_dim], or (z, c) → w for a generator with labels.
    """

    def __init__(self, config: AnyConfig, function: Callable[..., Tensor], w_avg: Tensor) -> None:
        super().__init__(config)
        self.function, self.w_avg = function, w_avg

    def w(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """One w [N, w_dim] for each ``z`` [N, z_dim] with its label of ``c`` [N, c_dim]."""
        return self.function(z, c) if self.c_dim else self.function(z)


class ProgramSynthesis(BaseSynthesis):
    """Synthesis network that runs ``program``, with the checks and noise modes of :class:`BaseSynthesis`."""

    def __init__(self, generator: AnyGenerator, program: SynthesisProgram) -> None:
        super().__init__()
        self.config, self.program = generator.config, program
        noisy = [generator.get_submodule(spec.module) for spec in self.config.layers() if spec.noise]
        maps = [layer.noise_const.to(program.device, program.dtype, copy=True) for layer in noisy]
        self.constants = [noise[None, None] for noise in maps]

    def forward(self, ws: Tensor, noise_mode: str = "random", noise: str | Sequence[Tensor] | None = None) -> Tensor:
        self.check_ws(ws)
        return self.program.images(ws, self.maps(len(ws), noise_mode if noise is None else noise))

    def maps(self, batch: int, noise: str | Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Noise map of each convolution; None for each with ``noise`` "none"."""
        if isinstance(noise, str) and noise == "const":  # the usual case, in which every microsecond shows
            return self.constants
        given = self.check_noise("const", noise, batch)
        if noise == "random":
            return self.program.draw(batch, self.noise_shapes())
        return [None] * len(given) if noise == "none" else given


def eager_kernels(generator: AnyGenerator, batch: int, device: torch.device) -> dict[str, tuple[str, str]]:
    """Styled convolution → ("by BACKEND", "(fused)" or the reason why it is composed of several kernels)."""
    backend_name = backend.select("modulated_conv2d", None, backend.preferred(), device.type)
    found = {}
    for spec in convolutions(generator.config):
        layer = generator.get_submodule(spec.module)
        if hasattr(layer, "composed_because"):
            because = layer.composed_because(backend_name, batch)
            found[spec.name] = f"by {backend_name}", f"(composed: {because})" if because else "(fused)"
    return found


def profile_rows(config: AnyConfig, parts: Sequence[Part], batch: int) -> list[dict[str, Any]]:
    """Rows of :meth:`cagc.runtime.CompiledGenerator.profile`."""
    layers = config.layers()
    counted = [("mapping", sum(spec.macs for spec in layers if spec.kind in ("mapping", "projection")))]
    counted.append(("styles", sum(spec.affine_macs for spec in layers)))
    for conv in convolutions(config):
        images = [spec for spec in layers if spec.kind == "to_rgb" and spec.reads == conv.writes]
        shortcuts = [spec for spec in layers if spec.kind == "conv" and spec.writes == conv.writes and spec != conv]
        counted.append((conv.name, sum(spec.macs for spec in (conv, *shortcuts, *images))))
    return [
        {"name": name, "ms": part.seconds * 1e3, "macs": macs * batch, "multiplications": part.multiplications,
         "elementwise": part.elementwise, "bytes": part.bytes, "kernel": part.kernel}
        for (name, macs), part in zip(counted, parts, strict=True)
    ]  # fmt: skip
