"""The synthesis network of StyleGAN3 with frozen weights: float32, CPU, layer by layer in buffers of its own.

3x3 convolutions run by Winograd's F(4x4, 3x3) with weights packed once (:mod:`.planar_conv`), 1x1 ones as PyTorch's
matrix products of modulated weights, both followed by one kernel (:mod:`.filtered_lrelu`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch

from ..arguments import Filtering
from ..synthesis import FilteredConvWeights, FilteredWeights, Part
from . import filtered_lrelu
from .planar_conv import PlanarConv
from .synthesis import WHY, instruction_sets

WHY_PRODUCT = "a 1x1 convolution is a matrix product"


@dataclass
class _Layer:
    """A layer's frozen tensors in float32; ``conv`` is None for a 1x1 convolution, whose ``weight`` is [O, I]."""

    affine: torch.Tensor
    affine_bias: torch.Tensor
    energy: torch.Tensor | None  # [I, O], sums of squares per filter
    bias: torch.Tensor
    gain: float
    filtering: Filtering
    conv: PlanarConv | None
    weight: torch.Tensor | None

    @classmethod
    def of(cls, w: FilteredConvWeights, instructions: str) -> _Layer:
        def single(t: torch.Tensor) -> torch.Tensor:
            return t.detach().to("cpu", torch.float32).contiguous()

        small = w.weight.shape[2] == 1
        return cls(
            affine=single(w.affine.t()), affine_bias=single(w.affine_bias),
            energy=single(w.weight.square().sum(dim=(2, 3)).t()) if w.demodulate else None,
            bias=single(w.bias), gain=w.input_gain, filtering=w.filtering,
            conv=None if small else PlanarConv(w.weight, instructions),
            weight=single(w.weight.flatten(1)) if small else None,
        )  # fmt: skip

    @property
    def widths(self) -> tuple[int, int]:
        return self.affine.shape[1], self.bias.shape[0]

    @property
    def padding(self) -> int:
        return 0 if self.conv is None else 2

    def styles(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Factors [N, I] of the input and [N, O] of the output, of ``w`` [N, style_dim]."""
        styles = torch.addmm(self.affine_bias, w, self.affine)
        demod = None if self.energy is None else (styles.square() @ self.energy).add_(1e-8).rsqrt_()
        return styles.mul_(self.gain), demod

    def convolved(self, height: int, width: int) -> tuple[int, int]:
        """Size of the convolution's output for an input of this size."""
        return height + self.padding, width + self.padding

    def images(self, height: int, width: int) -> tuple[int, int]:
        """Size of the layer's output for an input of this size."""
        shape = torch.empty(1, 1, *self.convolved(height, width), device="meta")
        return self.filtering.output_size(shape)


class Program:
    """A :class:`~cagc_kernels.synthesis.SynthesisProgram` of StyleGAN3 on the CPU. There is no mapping: z is w.

    Args:
        weights: weights of the synthesis network.
        batch: accepted as the other programs do; nothing is chosen by it.
        instructions: one of :func:`~cagc_kernels.native.synthesis.instruction_sets`; None takes the best.

    Raises:
        ValueError: ``instructions`` is not available on this processor.
    """

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, weights: FilteredWeights, batch: int = 1, instructions: str | None = None) -> None:
        self.batch, self.instructions = batch, instructions or instruction_sets()[0]
        self._input: Callable[[torch.Tensor], torch.Tensor] = weights.input
        self._layers = [_Layer.of(conv, self.instructions) for conv in weights.convs]
        self._scale = weights.output_scale
        # Of the batch that they were allocated for: outputs of convolutions, of filters, and memory of convolutions.
        self._buffers: tuple[tuple[int, int], list[torch.Tensor]] | None = None

    def __reduce_ex__(self, protocol: object):
        raise TypeError("a program of frozen weights holds addresses of this process: it cannot be copied or pickled")

    @property
    def widths(self) -> list[tuple[int, int]]:
        """Input and output channels of each convolution but toRGB."""
        return [layer.widths for layer in self._layers[:-1]]

    @property
    def layouts(self) -> list[str]:
        """Memory layout of the activations of each convolution but toRGB."""
        return ["NCHW"] * (len(self._layers) - 1)

    @property
    def memory(self) -> int:
        """Bytes of packed weights and buffers."""
        tensors = [] if self._buffers is None else list(self._buffers[1])
        for layer in self._layers:
            tensors += [t for t in vars(layer).values() if isinstance(t, torch.Tensor)]
        return sum(t.nbytes for t in tensors) + sum(layer.conv.bytes for layer in self._layers if layer.conv)

    def map(self, z: torch.Tensor) -> torch.Tensor:
        """Return ``z``: the program begins with w [N, style_dim]."""
        return z

    def draw(self, batch: int, shapes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Return an empty list: this model has no noise."""
        return []

    def describe(self, batch: int) -> list[tuple[str, str]]:
        """Return the kernel of each convolution but toRGB, and the reason for it."""
        winograd = f"winograd43 of planes ({self.instructions}), filtered_lrelu", WHY["winograd43"]
        product = "matrix product, filtered_lrelu", WHY_PRODUCT
        return [winograd if layer.conv else product for layer in self._layers[:-1]]

    def _memory(self, x: torch.Tensor) -> list[torch.Tensor]:
        key = len(x), torch.get_num_threads()
        if self._buffers is None or self._buffers[0] != key:
            most, size = [1, 1, 1], tuple(x.shape[2:])
            for layer in self._layers:
                conv, out = layer.convolved(*size), layer.images(*size)
                needed = [len(x) * layer.widths[1] * prod(conv), len(x) * layer.widths[1] * prod(out)]
                needed.append(layer.conv.workspace(len(x), *size, layer.padding) if layer.conv else 0)
                most, size = [max(pair) for pair in zip(most, needed)], out
            with torch.inference_mode(False):  # usable within it and outside
                self._buffers = key, [torch.empty(floats) for floats in most]
        return self._buffers[1]

    def _convolve(
        self, layer: _Layer, x: torch.Tensor, scale: torch.Tensor, demod: torch.Tensor | None, out: torch.Tensor
    ) -> torch.Tensor:
        if layer.conv is not None:
            return layer.conv(x, scale, demod, layer.padding, out, self._memory(x)[2])
        weight = layer.weight * scale[:, None] if demod is None else layer.weight * scale[:, None] * demod[:, :, None]
        torch.bmm(weight, x.flatten(2), out=out.flatten(2))
        return out

    def images(
        self, ws: torch.Tensor, noise: Sequence[torch.Tensor | None] = (), seconds: list[float] | None = None
    ) -> torch.Tensor:
        """Return new images [N, C, H, W] for ``ws`` [N, L, style_dim], float32; there is no noise.

        ``seconds``: is filled with the times of the input with the styles, and of each convolution with its filters.
        """
        start = time.perf_counter()
        x = self._input(ws[:, 0])
        if len(x) == 0:
            return self._empty(x)
        styles = [layer.styles(ws[:, i + 1]) for i, layer in enumerate(self._layers)]
        buffers = self._memory(x)
        for layer, (scale, demod) in zip(self._layers, styles, strict=True):
            start = _lap(seconds, start)
            shape = len(x), layer.widths[1], *layer.convolved(*x.shape[2:])
            y = self._convolve(layer, x, scale, demod, buffers[0][: prod(shape)].view(shape))
            shape = *shape[:2], *layer.filtering.output_size(y)
            last = layer is self._layers[-1]
            out = torch.empty(shape) if last else buffers[1][: prod(shape)].view(shape)
            x = filtered_lrelu.value(y, layer.bias, layer.filtering, out)
        x = x.mul_(self._scale)
        _lap(seconds, start)
        return x

    def _empty(self, x: torch.Tensor) -> torch.Tensor:
        size = tuple(x.shape[2:])
        for layer in self._layers:
            size = layer.images(*size)
        return x.new_empty(0, self._layers[-1].widths[1], *size)

    def profile(self, z: torch.Tensor, num_ws: int, noise: Sequence[torch.Tensor | None]) -> list[Part]:
        """Run one call on w ``z`` and return the costs of no mapping, of the input with the styles, and of each layer.

        The last layer's are those of toRGB too. Multiplications are those of the convolutions.
        """
        seconds: list[float] = []
        x = self._input(z)
        self.images(z[:, None].expand(-1, num_ws, -1), noise, seconds)
        styles, *spent = seconds
        costs, size = [], tuple(x.shape[2:])
        for layer in self._layers:
            inputs, outputs = layer.widths
            conv, out = layer.convolved(*size), layer.images(*size)
            if layer.conv is not None:
                count, weights = layer.conv.multiplications(len(z), *size, layer.padding), layer.conv.bytes
            else:
                count, weights = len(z) * prod(size) * inputs * outputs, layer.weight.nbytes
            moved = 4 * len(z) * (inputs * prod(size) + outputs * (2 * prod(conv) + prod(out)))
            costs.append((count, weights + moved))
            size = out
        spent[-2:], costs[-2:] = [sum(spent[-2:])], [tuple(map(sum, zip(*costs[-2:])))]
        affine = sum(layer.affine.numel() for layer in self._layers)
        parts = [Part(0.0, 0, 0, "none"), Part(styles, len(z) * affine, 4 * affine, "dense")]
        names = [name for name, _ in self.describe(len(z))]
        return parts + [Part(time_, *cost, name) for time_, cost, name in zip(spent, costs, names, strict=True)]


def _lap(seconds: list[float] | None, start: float) -> float:
    """Append the time since ``start``, and return the time."""
    end = time.perf_counter()
    if seconds is not None:
        seconds.append(end - start)
    return end
