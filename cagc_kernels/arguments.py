"""Groups of arguments that several ops share; public functions check and build them once, kernels receive them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from .reference.bias_act import ACTIVATIONS

HALF = (torch.float16, torch.bfloat16)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which kernels sum values of ``dtype``: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def cast(t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return ``t`` in ``dtype``: :meth:`torch.Tensor.to`, which takes 0.9 µs where there is nothing to do."""
    return t if t.dtype == dtype else t.to(dtype)


class Resampling(NamedTuple):
    """Up-sampling by zeros, padding, FIR filter and down-sampling of images [N, C, H, W].

    Attributes:
        filter: taps [kh, kw], or [k] applied along both axes; None is identity.
        up, down: factors (x, y).
        padding: zeros (x0, x1, y0, y1) added around the up-sampled image, in pixels; negative values crop.
        flip_filter: True correlates with the taps; False convolves, which mirrors them.
        gain: factor on the result.
    """

    filter: torch.Tensor | None = None
    up: tuple[int, int] = (1, 1)
    down: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    flip_filter: bool = False
    gain: float = 1.0

    @property
    def filter_size(self) -> tuple[int, int]:
        """(height, width) of the filter."""
        if self.filter is None:
            return 1, 1
        shape = self.filter.shape
        return int(shape[0]), int(shape[-1])  # torch.jit.trace makes tensors of sizes

    def padded_size(self, x: torch.Tensor) -> tuple[int, int]:
        """(height, width) of the up-sampled and padded ``x``."""
        (_, _, height, width), (up_x, up_y), (x0, x1, y0, y1) = x.shape, self.up, self.padding
        return height * up_y + y0 + y1, width * up_x + x0 + x1

    def output_size(self, x: torch.Tensor, kernel: Iterable[int] | None = None) -> tuple[int, int]:
        """Return the result's (height, width) for ``x`` and a ``kernel`` (height, width), by default the filter."""
        (height, width), (down_x, down_y) = self.padded_size(x), self.down
        kh, kw = self.filter_size if kernel is None else kernel
        return (height - kh) // down_y + 1, (width - kw) // down_x + 1

    @property
    def numbers(self) -> tuple[int | bool | float, ...]:
        """All fields but the filter as one flat tuple, in the order of :data:`RESAMPLING_SCHEMA`."""
        return *self.up, *self.down, *self.padding, self.flip_filter, self.gain

    @classmethod
    def of_numbers(cls, filter, up_x, up_y, down_x, down_y, x0, x1, y0, y1, flip_filter, gain) -> Resampling:
        """Build a Resampling from a filter and :attr:`numbers`."""
        return cls(filter, (up_x, up_y), (down_x, down_y), (x0, x1, y0, y1), flip_filter, gain)


RESAMPLING_SCHEMA = (
    "SymInt up_x, SymInt up_y, SymInt down_x, SymInt down_y, SymInt x0, SymInt x1, SymInt y0, SymInt y1, "
    "bool flip_filter, float gain"
)


class Filtering(NamedTuple):
    """Up-sampling by a FIR filter, leaky ReLU and down-sampling by a FIR filter of images [N, C, H, W].

    Attributes:
        up_filter, down_filter: taps [kh, kw], or [k] applied along both axes; None is identity.
        up, down: factors of both axes.
        padding: zeros (x0, x1, y0, y1) added around the up-sampled image; negative values crop.
        gain: factor on the up-sampled values, above 0. slope: of the leaky ReLU, at least 0.
        clamp: bound of the absolute value after the leaky ReLU; below 0 means no clamp.
        flip_filter: True correlates with the taps; False convolves, which mirrors them.
    """

    up_filter: torch.Tensor | None = None
    down_filter: torch.Tensor | None = None
    up: int = 1
    down: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    gain: float = 2**0.5
    slope: float = 0.2
    clamp: float = -1.0
    flip_filter: bool = False

    @property
    def upsampling(self) -> Resampling:
        """The first filter; its gain makes up for the zeros between the pixels."""
        return Resampling(self.up_filter, (self.up,) * 2, (1, 1), self.padding, self.flip_filter, float(self.up**2))

    @property
    def downsampling(self) -> Resampling:
        """The second filter."""
        return Resampling(self.down_filter, (1, 1), (self.down,) * 2, flip_filter=self.flip_filter)

    def output_size(self, x: torch.Tensor) -> tuple[int, int]:
        """Return the result's (height, width) for ``x``."""
        height, width = self.upsampling.output_size(x)
        kh, kw = self.downsampling.filter_size
        return (height - kh) // self.down + 1, (width - kw) // self.down + 1

    @property
    def numbers(self) -> tuple[int | bool | float, ...]:
        """All fields but the filters as one flat tuple, in the order of :data:`FILTERING_SCHEMA`."""
        return self.up, self.down, *self.padding, self.gain, self.slope, self.clamp, self.flip_filter

    @classmethod
    def of_numbers(cls, up_filter, down_filter, up, down, x0, x1, y0, y1, gain, slope, clamp, flip) -> Filtering:
        """Build a Filtering from its filters and :attr:`numbers`."""
        return cls(up_filter, down_filter, up, down, (x0, x1, y0, y1), gain, slope, clamp, flip)


FILTERING_SCHEMA = (
    "SymInt up, SymInt down, SymInt x0, SymInt x1, SymInt y0, SymInt y1, float gain, float slope, float clamp, "
    "bool flip_filter"
)


class Epilogue(NamedTuple):
    """The steps after a convolution: ``clamp(gain · act(y + noise + bias), ±clamp) · next_styles``.

    Attributes:
        noise: broadcasts to the output [N, O, H', W']; None adds no noise.
        bias: [O]; None adds no bias.
        next_styles: [N, O], styles of the next layer; None does not multiply.
        act, alpha, gain: as in :func:`cagc_kernels.bias_act`.
        clamp: bound of the absolute value; below 0 means no clamp.
    """

    noise: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    next_styles: torch.Tensor | None = None
    act: str = "linear"
    alpha: float = 0.0
    gain: float = 1.0
    clamp: float = -1.0

    @property
    def is_identity(self) -> bool:
        """Whether the epilogue leaves its input unchanged."""
        absent = self.noise is None and self.bias is None and self.next_styles is None
        return absent and self.act == "linear" and self.gain == 1 and self.clamp < 0


ACTIVATION_SCHEMA = "str act, float alpha, float gain, float clamp"


def activation(
    act: str, alpha: float | None, gain: float | None, clamp: float | None
) -> tuple[str, float, float, float]:
    """Replace None by defaults: the activation's own alpha and gain, and a clamp of -1, which means no clamp."""
    known = ACTIVATIONS[act]
    return (
        act,
        known.alpha if alpha is None else float(alpha),
        known.gain if gain is None else float(gain),
        -1.0 if clamp is None else float(clamp),
    )
