"""Configuration of StyleGAN2 generators: the sizes and options of every layer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..common.checks import at_least_one, choice
from .layers import check_activation, check_clamp, ordered_channels
from .protocol import LayerSpec, Size

BLOCKS = ("skip", "resnet", "orig")
UPSAMPLING = ("fir", "bilinear")
MAX_CONST = 64
# Lengths of the mapping network that are that of w where a configuration does not say them.
MAPPING_WIDTHS = ("z_dim", "embed_dim", "mapping_width")


def block_resolutions(resolution: int) -> list[int]:
    """``[4, 8, ..., resolution]``.

    Raises:
        ValueError: ``resolution`` is not a power of two from 4 on.
    """
    if not isinstance(resolution, int) or resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"resolution: got {resolution!r}, expected a power of two from 4 on")
    return [2**i for i in range(2, resolution.bit_length())]


def layer_names(resolution: int) -> list[str]:
    """Names of the channel groups from the constant input to the last convolution."""
    names = ["b4.const", "b4.conv1"]
    for r in block_resolutions(resolution)[1:]:
        names += [f"b{r}.conv0", f"b{r}.conv1"]
    return names


def check_const_size(value: Any) -> Size:
    """``value`` as a tuple (height, width). Raises ValueError unless both are from 1 to :data:`MAX_CONST`."""
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(type(v) is int for v in value):
        raise ValueError(f"const_size: got {value!r}, expected a height and a width")
    if not all(1 <= v <= MAX_CONST for v in value):
        raise ValueError(f"const_size: got {value!r}, expected numbers from 1 to {MAX_CONST}")
    return tuple(value)


def size_at(const_size: Size, resolution: int) -> Size:
    """Height and width in the block ``resolution``, which is 4 where they are ``const_size`` and doubles each time."""
    return const_size[0] * resolution // 4, const_size[1] * resolution // 4


def without_defaults(config: Any, always: int) -> dict[str, Any]:
    """Fields of a dataclass; those after the first ``always`` are left out at their defaults.

    Checkpoints that were written before a field existed keep their configuration, and with it the hash.
    """
    values = asdict(config)
    for field in fields(config)[always:]:
        if values[field.name] == field.default:
            del values[field.name]
    return values


class MappingConfig:
    """What configurations say of a StyleGAN mapping network: base of dataclasses that have its fields."""

    @property
    def w_dim(self) -> int:
        """Length of w."""
        return self.style_dim

    def mapping_sizes(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each layer of the mapping network, without the embedding of labels."""
        widths = [self.z_dim + (self.embed_dim if self.c_dim else 0)]
        widths += [self.mapping_width] * (self.mapping_layers - 1) + [self.style_dim]
        return list(zip(widths, widths[1:])) if self.mapping_layers else []

    def _mapping_layers(self) -> list[LayerSpec]:
        sizes = {"mapping.embed": (self.c_dim, self.embed_dim)} if self.c_dim else {}
        sizes.update((f"mapping.fc{i}", size) for i, size in enumerate(self.mapping_sizes()))
        return [LayerSpec(name, "mapping", name, *size, positions=1, row="mapping") for name, size in sizes.items()]

    def _set_widths(self, **defaults: int) -> None:
        """Replace None by a default, and check that each of these fields is an integer of at least 1."""
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
            at_least_one(**{name: getattr(self, name)})

    def _without_defaults(self, always: int) -> dict[str, Any]:
        """:func:`without_defaults`, and without widths of the mapping network that are that of w."""
        derived = {name for name in MAPPING_WIDTHS if getattr(self, name) == self.style_dim}
        return {name: value for name, value in without_defaults(self, always).items() if name not in derived}


@dataclass(frozen=True)
class GeneratorConfig(MappingConfig):
    """Configuration of a StyleGAN2 generator.

    Attributes:
        resolution: number of the last block, a power of two from 4 on; the longer side of the image where the longer
            side of ``const_size`` is 4.
        channels: width of each layer of :func:`layer_names`, in that order.
        style_dim: length of w.
        mapping_layers: depth of the mapping network.
        lr_multiplier: learning rate multiplier of the mapping network, by which its stored weights are multiplied
            at run time.
        resample_filter: taps of the FIR used for up-sampling, normalised when used.
        conv_clamp: bound of the absolute value of every layer's output, for float16 (256 in the public code); None:
            no bound.
        z_dim: length of z; None: ``style_dim``.
        c_dim: length of a label; 0: no labels.
        embed_dim: length of an embedded label; None: ``style_dim``.
        mapping_width: features between the mapping network's layers; None: ``style_dim``.
        img_channels: channels of an image.
        block_architecture: how the blocks add up to an image: "skip" (the sum of every block's toRGB, up-sampled),
            "resnet" (blocks with a shortcut, one toRGB at the end) or "orig" (neither).
        const_size: height and width of the learned constant; each block but the first doubles them.
        activation: of the convolutions, a name of :func:`cagc_kernels.bias_act`.
        mapping_activation: of the mapping network.
        upsampling: by the FIR filter, or "bilinear" (GFPGAN), then ``resample_filter`` is not used.
    """

    resolution: int
    channels: dict[str, int]
    style_dim: int = 512
    mapping_layers: int = 8
    lr_multiplier: float = 0.01
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    conv_clamp: float | None = None
    z_dim: int | None = None
    c_dim: int = 0
    embed_dim: int | None = None
    mapping_width: int | None = None
    img_channels: int = 3
    block_architecture: str = "skip"
    const_size: Size = (4, 4)
    activation: str = "lrelu"
    mapping_activation: str = "lrelu"
    upsampling: str = "fir"

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", ordered_channels(self.channels, layer_names(self.resolution)))
        at_least_one(style_dim=self.style_dim, img_channels=self.img_channels)
        self._set_widths(**dict.fromkeys(MAPPING_WIDTHS, self.style_dim))
        if type(self.c_dim) is not int or self.c_dim < 0:
            raise ValueError(f"c_dim: got {self.c_dim!r}, expected an integer of at least 0")
        if self.mapping_layers < 0:
            raise ValueError(f"mapping_layers: got {self.mapping_layers}, expected at least 0")
        if self.mapping_layers == 0 and (self.c_dim or self.z_dim != self.style_dim):
            raise ValueError("mapping_layers: got 0, expected at least 1 with labels or z of another length than w")
        check_clamp(self.conv_clamp)
        if not isinstance(self.lr_multiplier, (int, float)) or not 0 < self.lr_multiplier < math.inf:
            raise ValueError(f"lr_multiplier: got {self.lr_multiplier!r}, expected a finite number above 0")
        choice("block_architecture", self.block_architecture, BLOCKS)
        choice("upsampling", self.upsampling, UPSAMPLING)
        check_activation("activation", self.activation)
        check_activation("mapping_activation", self.mapping_activation)
        object.__setattr__(self, "const_size", check_const_size(self.const_size))
        object.__setattr__(self, "resample_filter", tuple(self.resample_filter))

    @classmethod
    def uniform(
        cls, resolution: int, channel_base: int = 32768, channel_max: int = 512, **options: Any
    ) -> GeneratorConfig:
        """Widths ``min(channel_base / r, channel_max)`` at resolution r, the published configurations."""
        width = {
            name: min(channel_base // int(name[1:].split(".")[0]), channel_max) for name in layer_names(resolution)
        }
        return cls(resolution, width, **options)

    architecture = "stylegan2"

    @property
    def img_size(self) -> Size:
        """Height and width of an image in pixels."""
        return size_at(self.const_size, self.resolution)

    @property
    def img_resolution(self) -> int:
        """Longer side of an image in pixels."""
        return max(self.img_size)

    @property
    def num_ws(self) -> int:
        """Number of w vectors that one image takes: one per convolution, and one for the last toRGB."""
        return len(self.channels)

    def layers(self) -> tuple[LayerSpec, ...]:
        """Every layer in the order of execution; a toRGB shares its w with the next up-sampling convolution."""
        specs = self._mapping_layers()
        const = "b4.const"
        module = f"synthesis.{const}"
        specs.append(LayerSpec(const, "const", module, 0, self.channels[const], self.const_size, writes=const))
        below, index = const, 0
        for r in block_resolutions(self.resolution):
            before = below
            if r > 4:
                specs.append(self._conv(f"b{r}.conv0", below, r, index, up=2))
                below, index = f"b{r}.conv0", index + 1
            specs.append(self._conv(f"b{r}.conv1", below, r, index, joins=r > 4))
            below, index = f"b{r}.conv1", index + 1
            if r > 4 and self.block_architecture == "resnet":
                specs.append(self._shortcut(f"b{r}.skip", before, below, r))
            if r == self.resolution or self.block_architecture == "skip":
                specs.append(self._to_rgb(f"b{r}.to_rgb", below, r, index))
        return tuple(specs)

    def _conv(self, name: str, below: str, r: int, index: int, up: int = 1, joins: bool = False) -> LayerSpec:
        """A styled 3×3 convolution; the paper's code counts an up-sampling one at its input's resolution."""
        size, in_size = size_at(self.const_size, r), size_at(self.const_size, r // up)
        convolved = size if self.upsampling == "bilinear" else in_size  # up-sampled before the convolution
        return LayerSpec(
            name, "conv", f"synthesis.{name}", self.channels[below], self.channels[name], size, in_size,
            kernel=3, up=up, positions=math.prod(convolved), reads=below, writes=name, w=index, w_dim=self.style_dim,
            demodulate=True, equalised=True, noise=True, row=name,
            added=size_at(self.const_size, r // 2) if joins and self.block_architecture == "resnet" else None,
        )  # fmt: skip

    def _shortcut(self, name: str, below: str, out: str, r: int) -> LayerSpec:
        """The 1×1 convolution around a block, counted at its input's resolution like other up-sampling ones."""
        height, width = size_at(self.const_size, r // 2)
        return LayerSpec(
            name, "conv", f"synthesis.{name}", self.channels[below], self.channels[out], size_at(self.const_size, r),
            (height, width), up=2, positions=height * width, reads=below, writes=out, equalised=True, bias=False,
            row=name,
        )  # fmt: skip

    def _to_rgb(self, name: str, below: str, r: int, index: int) -> LayerSpec:
        height, width = size_at(self.const_size, r)
        summed = r > 4 and self.block_architecture == "skip"
        return LayerSpec(
            name, "to_rgb", f"synthesis.{name}", self.channels[below], self.img_channels, (height, width),
            positions=height * width, reads=below, w=index, w_dim=self.style_dim, equalised=True,
            added=size_at(self.const_size, r // 2) if summed else None, row=name,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready containers; options that older checkpoints lack are left out at their defaults."""
        return self._without_defaults(always=6)
