"""Configuration of StyleGAN3 generators, and the sampling rates, sizes and filters of their layers.

Karras et al., "Alias-Free Generative Adversarial Networks", NeurIPS 2021, section 3 and appendix C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from ..common.checks import at_least_one, integer, number
from .layers import check_activation, check_clamp, ordered_channels
from .protocol import LayerSpec, Size
from .stylegan2_config import MAPPING_WIDTHS, MappingConfig, block_resolutions

MAX_LAYERS, MAX_MARGIN, MAX_FILTER, MAX_SIDE, MAX_FACTOR = 64, 64, 16, 4096, 16


class LayerPlan(NamedTuple):
    """Sampling of one layer; frequencies in cycles per image, sizes in pixels.

    Attributes:
        in_size, out_size: height and width of the input and of the output.
        in_rate, out_rate: sampling rates; rate: that of the leaky ReLU.
        in_cutoff, out_cutoff: cutoff frequencies of the filters before and after it.
        in_half_width, out_half_width: half widths of their transition bands.
        up, down: factors between the rates. up_taps, down_taps: lengths of the filters; 1: none.
        padding: pixels (x0, x1, y0, y1) around the up-sampled image.
        radial: whether the second filter is radially symmetric.
    """

    in_size: Size
    out_size: Size
    in_rate: int
    out_rate: int
    rate: int
    in_cutoff: float
    out_cutoff: float
    in_half_width: float
    out_half_width: float
    up: int
    down: int
    up_taps: int
    down_taps: int
    padding: tuple[int, int, int, int]
    radial: bool


def layer_names(num_layers: int) -> list[str]:
    """Names of the channel groups from the Fourier features to the last convolution."""
    return ["input", *(f"L{i}" for i in range(num_layers))]


@dataclass(frozen=True)
class StyleGAN3Config(MappingConfig):
    """Configuration of a StyleGAN3 generator; the defaults are those of configuration T.

    Attributes:
        resolution: image height, a power of two from 16 on.
        channels: width of each layer of :func:`layer_names`, in that order.
        style_dim: length of w.
        mapping_layers, lr_multiplier, z_dim, c_dim, embed_dim, mapping_width, mapping_activation: of the mapping
            network, as in :class:`cagc.models.GeneratorConfig`.
        img_channels: channels of an image.
        num_layers: convolutions before toRGB. num_critical: those at the end that are critically sampled.
        first_cutoff, first_stopband: cutoff and least stopband frequency of the first layer.
        last_stopband_rel: least stopband frequency of the last layer, divided by its cutoff.
        margin_size: pixels around the image that are drawn and cropped.
        output_scale: factor on the image.
        conv_kernel: side of the kernels; 1 in configuration R.
        filter_size: taps of the filters at the lower of their two rates.
        lrelu_upsampling: rate of the leaky ReLU divided by the larger of its layer's two rates.
        use_radial_filters: whether filters that down-sample are radially symmetric, as in configuration R; critically
            sampled layers keep separable ones.
        conv_clamp: bound of the absolute value after the leaky ReLU; None: no bound.
        square: False halves the width of the image and of every layer, as in StyleGAN-Human.
        frequencies: Fourier features; None: as many as the input has channels.
        architecture: name of this model in a checkpoint.
    """

    resolution: int
    channels: dict[str, int]
    style_dim: int = 512
    mapping_layers: int = 2
    lr_multiplier: float = 0.01
    z_dim: int | None = None
    c_dim: int = 0
    embed_dim: int | None = None
    mapping_width: int | None = None
    mapping_activation: str = "lrelu"
    img_channels: int = 3
    num_layers: int = 14
    num_critical: int = 2
    first_cutoff: float = 2
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin_size: int = 10
    output_scale: float = 0.25
    conv_kernel: int = 3
    filter_size: int = 6
    lrelu_upsampling: int = 2
    use_radial_filters: bool = False
    conv_clamp: float | None = 256
    square: bool = True
    frequencies: int | None = None
    architecture: str = "stylegan3"

    def __post_init__(self) -> None:
        block_resolutions(self.resolution)
        if not 16 <= self.resolution <= MAX_SIDE:
            raise ValueError(f"resolution: got {self.resolution}, expected a power of two from 16 to {MAX_SIDE}")
        for name, least, most in (
            ("num_layers", 2, MAX_LAYERS), ("num_critical", 1, self.num_layers - 1), ("margin_size", 0, MAX_MARGIN),
            ("filter_size", 1, MAX_FILTER), ("lrelu_upsampling", 1, 4), ("conv_kernel", 1, 7), ("c_dim", 0, 2**31),
        ):  # fmt: skip
            value = getattr(self, name)
            if not integer(value, least) or value > most:
                raise ValueError(f"{name}: got {value!r}, expected an integer from {least} to {most}")
        for name in ("output_scale", "lr_multiplier"):
            value = getattr(self, name)
            if not number(value) or value <= 0:
                raise ValueError(f"{name}: got {value!r}, expected a finite number above 0")
        for name, least, most in (
            ("first_cutoff", 1, self.resolution / 2), ("first_stopband", 1, self.resolution),
            ("last_stopband_rel", 1, 4),
        ):  # fmt: skip
            value = getattr(self, name)
            if not number(value) or not least <= value <= most:
                raise ValueError(f"{name}: got {value!r}, expected a number from {least} to {most:g}")
        object.__setattr__(self, "channels", ordered_channels(self.channels, layer_names(self.num_layers)))
        if type(self.square) is not bool:
            raise ValueError(f"square: got {self.square!r}, expected true or false")
        at_least_one(style_dim=self.style_dim, img_channels=self.img_channels, mapping_layers=self.mapping_layers)
        self._set_widths(**dict.fromkeys(MAPPING_WIDTHS, self.style_dim), frequencies=self.channels["input"])
        check_clamp(self.conv_clamp)
        check_activation("mapping_activation", self.mapping_activation)
        self.plans()

    @classmethod
    def uniform(
        cls, resolution: int, channel_base: int = 32768, channel_max: int = 512, **options: Any
    ) -> StyleGAN3Config:
        """Widths ``min(channel_base / (2 · cutoff), channel_max)``, the published configurations."""
        names = layer_names(options.get("num_layers", cls.num_layers))
        cutoffs = cls(resolution, dict.fromkeys(names, 1), **options).cutoffs()
        widths = [round(min(channel_base / 2 / cutoff, channel_max)) for cutoff in [cutoffs[0], *cutoffs[:-1]]]
        return cls(resolution, dict(zip(names, widths, strict=True)), **options)

    @classmethod
    def rotation(
        cls, resolution: int, channel_base: int = 65536, channel_max: int = 1024, **options: Any
    ) -> StyleGAN3Config:
        """Configuration R: twice as wide, 1×1 kernels, radial filters."""
        return cls.uniform(resolution, channel_base, channel_max, conv_kernel=1, use_radial_filters=True, **options)

    @property
    def num_ws(self) -> int:
        """Number of w vectors that one image takes: one for the input and one per layer."""
        return self.num_layers + 2

    @property
    def img_size(self) -> Size:
        """Height and width of an image in pixels."""
        return self._size(self.resolution)

    def _size(self, side: int) -> Size:
        return side, side if self.square else side // 2

    @property
    def img_resolution(self) -> int:
        """Height of an image in pixels."""
        return self.resolution

    def _progression(self, first: float, last: float) -> list[float]:
        """From ``first`` to ``last`` by a constant factor; ``last`` from the critically sampled layers on."""
        steps = self.num_layers - self.num_critical
        return [first * (last / first) ** min(i / steps, 1) for i in range(self.num_layers + 1)]

    def cutoffs(self) -> list[float]:
        """Cutoff frequency of each convolution and of toRGB."""
        return self._progression(self.first_cutoff, self.resolution / 2)

    def rates(self) -> list[int]:
        """Sampling rate of each convolution and of toRGB: the least power of two above twice the stopband."""
        stopbands = self._progression(self.first_stopband, self.resolution / 2 * self.last_stopband_rel)
        return [2 ** math.ceil(math.log2(min(2 * stopband, self.resolution))) for stopband in stopbands]

    def sizes(self) -> list[int]:
        """Height of the output of each convolution and of toRGB."""
        return [rate + 2 * self.margin_size for rate in self.rates()[:-2]] + [self.resolution] * 2

    def plans(self) -> list[LayerPlan]:
        """Sampling of each convolution and of toRGB.

        Raises ValueError if no filters exist for the configuration.
        """
        rates, sizes, cutoffs = self.rates(), self.sizes(), self.cutoffs()
        stopbands = self._progression(self.first_stopband, self.resolution / 2 * self.last_stopband_rel)
        half_widths = [max(s, rate / 2) - cutoff for s, rate, cutoff in zip(stopbands, rates, cutoffs, strict=True)]
        if min(rates) < 2 or min(half_widths) <= 0:
            raise ValueError("first_cutoff, first_stopband, last_stopband_rel: got a stopband below its cutoff")
        plans = []
        for i in range(self.num_layers + 1):
            before, image = max(i - 1, 0), i == self.num_layers
            rate = max(rates[before], rates[i]) * (1 if image else self.lrelu_upsampling)
            up, down = rate // rates[before], rate // rates[i]
            up_taps = self.filter_size * up if up > 1 and not image else 1
            down_taps = self.filter_size * down if down > 1 and not image else 1
            if max(up, down) > MAX_FACTOR:
                raise ValueError(f"first_stopband: got {self.first_stopband}, which re-samples by {max(up, down)}")
            kernel = 1 if image else self.conv_kernel
            in_size, out_size, padding = self._size(sizes[before]), self._size(sizes[i]), []
            for small, large in zip(in_size[::-1], out_size[::-1], strict=True):
                # The size before the last filter, without the up-sampled input, and what the filters take off.
                total = (large - 1) * down + 1 - (small + kernel - 1) * up + up_taps + down_taps - 2
                low = (total + up) // 2
                padding += [low, total - low]
            radial = self.use_radial_filters and i < self.num_layers - self.num_critical
            plans.append(LayerPlan(
                in_size, out_size, rates[before], rates[i], rate, cutoffs[before], cutoffs[i],
                half_widths[before], half_widths[i], up, down, up_taps, down_taps, tuple(padding), radial,
            ))  # fmt: skip
        return plans

    def layers(self) -> tuple[LayerSpec, ...]:
        """Every layer in the order of execution; convolutions are counted at the size of their input."""
        specs = self._mapping_layers()
        plans, (first, *names) = self.plans(), self.channels
        size = plans[0].in_size
        specs.append(LayerSpec(
            first, "fourier", f"synthesis.{first}", self.frequencies, self.channels[first], size,
            positions=math.prod(size), writes=first, w=0, w_dim=self.style_dim, styles=4, bias=False, row=first,
        ))  # fmt: skip
        below = first
        for i, (name, plan) in enumerate(zip(names, plans, strict=False)):
            specs.append(LayerSpec(
                name, "conv", f"synthesis.{name}", self.channels[below], self.channels[name], plan.out_size,
                plan.in_size, kernel=self.conv_kernel, up=max(1, plan.out_rate // plan.in_rate),
                positions=math.prod(plan.in_size), reads=below, writes=name, w=i + 1, w_dim=self.style_dim,
                demodulate=True, equalised=True, row=name,
            ))  # fmt: skip
            below = name
        specs.append(LayerSpec(
            "to_rgb", "to_rgb", "synthesis.to_rgb", self.channels[below], self.img_channels, self.img_size,
            plans[-1].in_size, positions=math.prod(plans[-1].in_size), reads=below, w=self.num_layers + 1,
            w_dim=self.style_dim, equalised=True, row="to_rgb",
        ))  # fmt: skip
        return tuple(specs)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready containers; options after ``lr_multiplier`` are left out at their defaults."""
        values = self._without_defaults(always=5)
        if self.frequencies == self.channels["input"]:
            values.pop("frequencies", None)
        return {**values, "architecture": self.architecture}


@lru_cache(maxsize=64)
def lowpass(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> torch.Tensor | None:
    """Low-pass filter [taps], or [taps, taps] if ``radial``, float32, of Kaiser's window; None for one tap. Cached.

    Args:
        taps: length. cutoff: frequency. width: of the transition band. rate: sampling rate; all in the same unit.
        radial: a filter of equal response in every direction, jinc times the window of both axes (appendix C).
    """
    if taps == 1:
        return None
    from scipy.signal import firwin  # importing it takes half a second, which every command would wait for
    from scipy.special import j1

    if not radial:
        return torch.as_tensor(firwin(taps, cutoff, width=width, fs=rate), dtype=torch.float32, device="cpu")
    options = {"dtype": torch.float64, "device": "cpu"}  # a default device of "meta" would lose the numbers
    x = (torch.arange(taps, **options) - (taps - 1) / 2) / rate
    r = torch.pi * torch.hypot(x[:, None], x[None])
    window = torch.kaiser_window(taps, periodic=False, beta=_kaiser_beta(taps, width / (rate / 2)), **options)
    f = torch.from_numpy(j1((2 * cutoff * r).numpy())) / r * window.outer(window)
    return (f / f.sum()).float()


def _kaiser_beta(taps: int, width: float) -> float:
    """Shape of Kaiser's window for a transition band of ``width``, a share of half the rate (Kaiser's formulas)."""
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0
