"""A generator with frozen weights as a backend runs it: what it is made of, and what every backend's program does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch


class Part(NamedTuple):
    """What one part of an image took: seconds, multiplications done, bytes moved, name of the kernel."""

    seconds: float
    multiplications: int
    bytes: int
    kernel: str


class SynthesisProgram(Protocol):
    """A generator's mapping and synthesis networks with frozen weights: :class:`GeneratorWeights`, packed.

    ``cagc_kernels.native.synthesis.Program`` and ``cagc_kernels.triton.synthesis.Program`` implement it. Calls are not
    safe from several threads at once.

    Attributes:
        dtype, device: of latents, noise and images.
        memory: bytes of packed weights and buffers.
        widths: input and output channels of each convolution, with the padding of the kernels.
        layouts: memory order of each convolution's activations.
    """

    dtype: torch.dtype
    device: torch.device

    @property
    def memory(self) -> int: ...

    @property
    def widths(self) -> list[tuple[int, int]]: ...

    @property
    def layouts(self) -> list[str]: ...

    def map(self, z: torch.Tensor) -> torch.Tensor:
        """w [N, style_dim] of ``z`` [N, style_dim]."""
        ...

    def draw(self, batch: int, shapes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Standard normal noise [batch, 1, height, width] for each of ``shapes``."""
        ...

    def images(self, ws: torch.Tensor, noise: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """[N, 3, R, R], a new tensor, from ``ws`` [N, L, style_dim].

        ``noise``: [1 or N, 1, r, r] or None for each convolution, not scaled by its strength.
        """
        ...

    def describe(self, batch: int) -> list[tuple[str, str]]:
        """Kernel of every convolution for ``batch`` images, and why it is that one."""
        ...

    def profile(self, z: torch.Tensor, num_ws: int, noise: Sequence[torch.Tensor | None]) -> list[Part]:
        """The mapping network, the styles, and each convolution with its toRGB, of one call on ``z`` [N, style_dim].

        ``num_ws`` is L of :meth:`images`.
        """
        ...


@dataclass(frozen=True)
class ToRGBWeights:
    """weight [3, O] with its gain; affine [O, style_dim], affine_bias [O]; bias [3]; w: which of the ws it takes."""

    weight: torch.Tensor
    affine: torch.Tensor
    affine_bias: torch.Tensor
    bias: torch.Tensor
    w: int


@dataclass(frozen=True)
class ConvWeights:
    """One styled 3x3 convolution: weight [O, I, 3, 3] with its gain; affine [I, style_dim], affine_bias [I]; bias [O].

    resolution: of the output; w: which of the ws it takes.
    """

    weight: torch.Tensor
    affine: torch.Tensor
    affine_bias: torch.Tensor
    bias: torch.Tensor
    noise_strength: float
    resolution: int
    up: int
    w: int
    to_rgb: ToRGBWeights | None = None


@dataclass(frozen=True)
class GeneratorWeights:
    """All of a StyleGAN2 generator.

    convs: in the order of execution; the last has a ``to_rgb``. mapping: (weight [F, F], bias [F]) of each layer.
    constant: [C, 4, 4]. fir: four taps of the up-sampling filter, of sum 1, in the order that the user gives them.
    style_dim: F. clamp: bound of what every convolution and toRGB gives; None for none.
    """

    convs: Sequence[ConvWeights]
    mapping: Sequence[tuple[torch.Tensor, torch.Tensor]]
    constant: torch.Tensor
    fir: Sequence[float]
    style_dim: int
    clamp: float | None
