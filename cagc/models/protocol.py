"""What every generator offers, and the description of its layers that everything else is computed from.

The names and the order of arguments are those of NVlabs' code (StyleGAN2-ADA, StyleGAN3), so that a generator of this
package takes the place of ``G`` in scripts written for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from .channels import ChannelAxis, ChannelGroup
from .labels import Labels

Size = tuple[int, int]
"""Height and width in pixels."""

Noise = str | Sequence[torch.Tensor]
"""A noise mode, or one map [1 or N, 1, h, w] per noisy layer."""

NOISE_MODES = ("random", "const", "none")


@dataclass(frozen=True)
class LayerSpec:
    """Describes one layer of a generator: everything that cost, pruning and timing need.

    Attributes:
        name: in tables, scores and plans, such as "b8.conv0"; unique in its network.
        kind: "mapping" (fully connected layer from z to w), "const" (learned input), "projection" (fully connected
            layer from z to an image-shaped input), "fourier" (matrix from Fourier features to the channels of the
            input), "conv", "to_rgb" (convolution to the image) or "norm" (batch normalisation).
        module: path of its module below the generator.
        in_width, out_width: input and output channels (or features); ``in_width`` is 0 without an input.
        size: height and width of the output; (1, 1) for vectors.
        in_size: height and width of the input; None: as ``size``.
        kernel: height and width of the kernel.
        up, down: factors between ``in_size`` and ``size``.
        positions: multiplications per weight and image, by the convention of the paper's code.
        reads, writes: names of the channel groups of the input and of the output; None where the channels
            are fixed (z, w, the image).
        w: index of the w that modulates this layer; None: no modulation.
        w_dim: length of that w, which an affine layer maps to styles.
        styles: outputs of the affine layer; None: one per input channel.
        demodulate: whether the weights are normalised after modulation.
        equalised: whether the weight is multiplied by 1/√fan_in at run time, which pruning then makes larger.
        bias: whether a bias is added.
        noise: whether a noise map of ``size`` is added, times a learned strength.
        added: size of an image of ``out_width`` channels that is added to the output; None: nothing is added.
        row: row of the tables of time and work that counts this layer; None: it is not counted.
    """

    name: str
    kind: str
    module: str
    in_width: int
    out_width: int
    size: Size = (1, 1)
    in_size: Size | None = None
    kernel: int = 1
    up: int = 1
    down: int = 1
    positions: int = 0
    reads: str | None = None
    writes: str | None = None
    w: int | None = None
    w_dim: int = 0
    styles: int | None = None
    demodulate: bool = False
    equalised: bool = False
    bias: bool = True
    noise: bool = False
    added: Size | None = None
    row: str | None = None

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight (for "const": of the constant), output channels first, then input channels."""
        if self.kind == "norm":
            return (self.out_width,)
        if self.kind == "const":
            return (self.out_width, *self.size)
        if self.kind == "projection":
            return (self.out_width, *self.size, self.in_width)
        taps = () if self.kind in ("mapping", "fourier") else (self.kernel, self.kernel)
        return (self.out_width, self.in_width, *taps)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, without the affine layer."""
        return math.prod(self.weight_shape) * self.positions

    @property
    def affine_macs(self) -> int:
        """Multiply-accumulates of the affine layer from w to styles; 0 without one."""
        return 0 if self.w is None else self.w_dim * (self.styles or self.in_width)

    @property
    def parameters(self) -> int:
        """Trainable numbers, without the affine layer: weight, bias and noise strength."""
        biases = {"const": 0, "projection": self.out_width * math.prod(self.size)}.get(self.kind, self.out_width)
        return math.prod(self.weight_shape) + biases * self.bias + self.noise

    @property
    def affine_parameters(self) -> int:
        """Trainable numbers of the affine layer; 0 without one."""
        return 0 if self.w is None else (self.w_dim + 1) * (self.styles or self.in_width)

    @property
    def activations(self) -> int:
        """Numbers read and written for one image: input, output, noise map and the added image.

        Vectors of the mapping network are too small to count, and normalisation is part of the layers beside it.
        """
        if self.kind in ("mapping", "norm"):
            return 0
        read = self.in_width * math.prod(self.in_size or self.size)
        added = self.out_width * math.prod(self.added) if self.added else 0
        return read + (self.out_width + self.noise) * math.prod(self.size) + added

    @property
    def leads_on(self) -> bool:
        """Whether this is a convolution of the main path, whose name is also that of the channel group it writes."""
        return self.kind == "conv" and self.name == self.writes

    @property
    def weight(self) -> str:
        """Name of this layer's weight among the generator's parameters."""
        return self.module if self.kind == "const" else f"{self.module}.weight"

    @property
    def affine(self) -> str:
        """Name of this layer's affine layer in tables."""
        return f"{self.name}.affine"

    def at(self, widths: Mapping[str, int]) -> LayerSpec:
        """This layer with its input and output as wide as ``widths`` (group → width) says; fixed channels stay."""
        return replace(
            self,
            in_width=widths.get(self.reads, self.in_width),
            out_width=widths.get(self.writes, self.out_width),
        )

    def written_axes(self) -> list[ChannelAxis]:
        """Axes of this layer's tensors that run over its output channels."""
        if self.kind == "const":
            return [ChannelAxis(self.module, 0)]
        parts = ["weight", *(["bias"] if self.bias else [])]
        parts += ["running_mean", "running_var"] if self.kind == "norm" else []
        return [ChannelAxis(f"{self.module}.{part}", 0) for part in parts]

    def read_axes(self) -> list[ChannelAxis]:
        """Axes of this layer's tensors that run over its input channels."""
        if self.kind == "norm":
            return []  # its input and output channels are the same
        affine = [] if self.w is None else [f"{self.module}.affine.{part}" for part in ("weight", "bias")]
        return [ChannelAxis(self.weight, 1), *(ChannelAxis(name, 0) for name in affine)]


def channel_groups(layers: Sequence[LayerSpec]) -> list[ChannelGroup]:
    """Groups of channels that are kept or removed together, in the order in which layers first write them.

    Among the consumers of a group, convolutions of the main path come first and toRGB last.
    """
    groups = []
    for name in dict.fromkeys(spec.writes for spec in layers if spec.writes is not None):
        written = [spec for spec in layers if spec.writes == name]
        read = [spec for spec in layers if spec.reads == name]
        consumers = sorted((spec for spec in read if spec.kind != "norm"), key=lambda spec: spec.kind == "to_rgb")
        axes = [axis for spec in written for axis in spec.written_axes()]
        axes += [axis for spec in read for axis in spec.read_axes()]
        producer, width = written[0].module, written[0].out_width
        groups.append(ChannelGroup(name, width, producer, tuple(spec.module for spec in consumers), tuple(axes)))
    return groups


def noise_shapes(config: Config) -> list[Size]:
    """Height and width of each noise map that the network of ``config`` takes, in the order of its layers."""
    return [spec.size for spec in config.layers() if spec.noise]


class Sizes(Protocol):
    """Sizes that a configuration and its generator have.

    Attributes:
        z_dim, c_dim, w_dim: lengths of z, of a class label (0: none) and of w.
        num_ws: number of w vectors per image.
        img_resolution, img_channels: longer side in pixels and channels of an image.
        img_size: height and width of an image.
    """

    z_dim: int
    c_dim: int
    w_dim: int
    num_ws: int
    img_resolution: int
    img_channels: int
    img_size: Size


class Config(Sizes, Protocol):
    """Configuration of a generator: a frozen dataclass that the model is built from and that checkpoints store.

    Attributes:
        architecture: name of the model in a checkpoint.
        channels: width of each channel group, by its name.
    """

    architecture: str
    channels: dict[str, int]

    def layers(self) -> tuple[LayerSpec, ...]:
        """Every layer, in the order of execution."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready containers, for a checkpoint."""


class MappingNetwork(Protocol):
    """Maps latents z to the w of each layer."""

    w_avg: torch.Tensor

    def w(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """One w [N, w_dim] for each ``z`` [N, z_dim], neither truncated nor repeated."""

    def __call__(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None = None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
    ) -> torch.Tensor:
        """``ws`` [N, num_ws, w_dim]."""


class Generator(Sizes, Protocol):
    """Attributes that every generator has, whatever its architecture."""

    config: Config
    mapping: MappingNetwork
    synthesis: Any
    w_avg: torch.Tensor
    labels: Labels | None
