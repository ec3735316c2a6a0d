"""Weights of a frozen StyleGAN2 generator, and the protocol of the programs with which backends run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from .arguments import Filtering


class Part(NamedTuple):
    """Profile of one part of a synthesis: seconds, multiplications, bytes moved and name of the kernel.

    Attributes:
        multiplications: of the matrix products.
        elementwise: the other operations, of transforms, filters, activations and toRGB, where they are counted; a
            multiplication with an addition is one.
    """

    seconds: float
    multiplications: int
    bytes: int
    kernel: str
    elementwise: int = 0


STORAGE = ("float32", "float16", "int8")


class Storage(NamedTuple):
    """How the weights of fully connected layers are stored, each one of :data:`STORAGE`; all compute in float32.

    int8 has a float scale for each output: the row's largest magnitude / 127. float16 has one scale for a layer;
    it takes up the gain of weights that a checkpoint holds as float16, so that those are kept exactly.

    Attributes:
        mapping: of the mapping network.
        styles: of the affine layers.
    """

    mapping: str = "float32"
    styles: str = "float32"


class SynthesisProgram(Protocol):
    """A generator's mapping and synthesis networks with frozen weights, packed from :class:`GeneratorWeights`.

    ``cagc_kernels.native.synthesis.Program`` and ``cagc_kernels.triton.synthesis.Program`` implement it, and
    ``cagc_kernels.native.sngan.Program`` for :class:`ResidualWeights`, both of which also draw images from latents in
    one call, ``generate``; ``cagc_kernels.native.stylegan3.Program`` for :class:`FilteredWeights`, whose ``map`` takes
    and returns w. Calls are not thread-safe.

    Attributes:
        dtype, device: dtype and device of latents, noise and images.
        memory: bytes of packed weights and buffers.
        widths: (input, output) channels of each convolution, including the kernels' padding.
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
        """Return w [N, style_dim] for latents ``z`` [N, style_dim]."""
        ...

    def draw(self, batch: int, shapes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Return standard normal noise [batch, 1, height, width] for each (height, width) of ``shapes``."""
        ...

    def images(self, ws: torch.Tensor, noise: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Return new images [N, 3, R, R] for ``ws`` [N, L, style_dim].

        ``noise``: [1 or N, 1, r, r] or None for each convolution, before multiplication by its noise strength.
        """
        ...

    def describe(self, batch: int) -> list[tuple[str, str]]:
        """Return the kernel of every convolution for ``batch`` images, and the reason for its choice."""
        ...

    def profile(self, z: torch.Tensor, num_ws: int, noise: Sequence[torch.Tensor | None]) -> list[Part]:
        """Run one call on ``z`` [N, style_dim] and return one Part per stage.

        The stages are the mapping network, the styles, and each convolution with its toRGB. ``num_ws`` is L of
        :meth:`images`.
        """
        ...


@dataclass(frozen=True)
class ToRGBWeights:
    """Weights of one toRGB layer, with their gains multiplied in.

    weight [3, O], affine [O, style_dim], affine_bias [O], bias [3]; ``w`` is the index of its input in the ws.
    """

    weight: torch.Tensor
    affine: torch.Tensor
    affine_bias: torch.Tensor
    bias: torch.Tensor
    w: int


@dataclass(frozen=True)
class ConvWeights:
    """Weights of one styled 3x3 convolution, with their gains multiplied in, and of the toRGB after it.

    weight [O, I, 3, 3], affine [I, style_dim], affine_bias [I], bias [O]; ``resolution`` is the output's in pixels,
    ``up`` the up-sampling factor (1 or 2), ``w`` the index of its input in the ws.
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
    """All weights of a StyleGAN2 generator, as float64 tensors on the CPU with their gains multiplied in.

    Attributes:
        convs: convolutions in order of execution; the last has a ``to_rgb``.
        mapping: (weight [F, F], bias [F]) of each layer of the mapping network.
        constant: the learned input [C, 4, 4].
        fir: four taps of the up-sampling filter with sum 1, in the order of the generator's ``resample_filter``.
        style_dim: F.
        clamp: bound of the absolute output of every convolution and toRGB; None does not clamp.
    """

    convs: Sequence[ConvWeights]
    mapping: Sequence[tuple[torch.Tensor, torch.Tensor]]
    constant: torch.Tensor
    fir: Sequence[float]
    style_dim: int
    clamp: float | None


@dataclass(frozen=True)
class ResidualConvWeights:
    """Weights of one 3x3 convolution of an SN-GAN generator behind a ReLU, and of what follows it.

    weight [O, I, 3, 3], bias [O]; ``resolution`` is the output's in pixels. The second convolution of a block has a 1x1
    ``shortcut`` [O, I of the block], whose bias is part of ``bias``, and the normalisation of the sum: ``scale`` and
    ``shift``, each [O].
    """

    weight: torch.Tensor
    bias: torch.Tensor
    resolution: int
    shortcut: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None


@dataclass(frozen=True)
class ResidualWeights:
    """All weights of an SN-GAN generator at inference, as float64 tensors on the CPU.

    Attributes:
        projection, projection_bias: from z to the 4x4 image, [C, 4, 4, z_dim] and [C, 4, 4].
        scale, shift: of the first normalisation, each [C].
        convs: for each block the up-sampling convolution, with the normalisation behind it folded in, and the second
            one; then the convolution to the image.
    """

    projection: torch.Tensor
    projection_bias: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor
    convs: Sequence[ResidualConvWeights]


@dataclass(frozen=True)
class FilteredConvWeights:
    """Weights of one modulated convolution of a StyleGAN3 generator with its filtered leaky ReLU, gains multiplied in.

    weight [O, I, k, k] with k 1 or 3, affine [I, style_dim], affine_bias [I], bias [O]. ``input_gain`` is a factor on
    the input that demodulation does not cancel, ``filtering`` what follows the convolution, which is padded by k - 1.
    """

    weight: torch.Tensor
    affine: torch.Tensor
    affine_bias: torch.Tensor
    bias: torch.Tensor
    input_gain: float
    demodulate: bool
    filtering: Filtering


@dataclass(frozen=True)
class FilteredWeights:
    """All weights of a StyleGAN3 synthesis network, as float64 tensors on the CPU, and what makes its first features.

    Attributes:
        input: w [N, style_dim] → float32 [N, C, h, w], of the first of ws.
        convs: in order of execution, of the following ws; the last one is toRGB.
        output_scale: factor on the image.
    """

    input: Callable[[torch.Tensor], torch.Tensor]
    convs: Sequence[FilteredConvWeights]
    output_scale: float


def bytes_of(storage: str) -> int:
    """Return the bytes of one weight in a storage of :data:`STORAGE`."""
    return getattr(torch, storage).itemsize


def check_storage(weights: GeneratorWeights, storage: Storage) -> None:
    """Raise ValueError unless ``storage`` names storages of :data:`STORAGE` that can hold ``weights``.

    float16 and int8 hold finite weights.
    """
    parts = {"mapping": [weight for weight, _ in weights.mapping], "styles": []}
    for conv in weights.convs:
        parts["styles"] += [layer.affine for layer in (conv, conv.to_rgb) if layer is not None]
    for part, stored in storage._asdict().items():
        if stored not in STORAGE:
            raise ValueError(f"weights: got {stored!r}, expected one of {', '.join(STORAGE)}")
        if stored == "float32":
            continue
        # The compiled module multiplies the activation's gain, the square root of two, into the mapping network.
        bound = float(torch.finfo(torch.float32).max) / 2
        most = max(
            (float(weight.abs().max()) for weight in parts[part]),
            key=lambda m: m if m == m else float("inf"),
            default=0.0,
        )
        if not most <= bound:
            raise ValueError(
                f"weights: got {stored}, but a weight of {part} is {most}, expected finite ones up to {bound:.6g}"
            )
