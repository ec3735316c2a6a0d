"""The synthesis network of StyleGAN2 with frozen weights as a fixed list of Triton launches over NHWC memory.

An image takes one launch per layer of the mapping network, one for all affine layers, one for all demodulation factors,
and one per convolution, or two where it is transposed and then filtered. The kernel of a convolution also computes the
toRGB after it where a tile holds all channels of its pixels; elsewhere toRGB is a launch of its own. Weights are packed
and energies summed once; activations go to buffers that belong to the program.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import triton

from ..arguments import Epilogue
from ..synthesis import ConvWeights, GeneratorWeights, Part, ToRGBWeights
from . import styles as vectors
from .gemm.configs import PLAIN, POLYPHASE, TRANSPOSED, Config, Problem, default, holds_all
from .gemm.launch import ToRGB, convolve, device_name, kind
from .gemm.packing import PackedWeight, pack
from .gemm.tuning import milliseconds, output
from .gemm.winners import choose, winner
from .start import compiling, start
from .styles import ALIGN, demodulations_kernel, fully_connected_kernel
from .to_rgb import launch_to_rgb

# More than the tiles of any split reduction: a reduction is split only if its tiles do not fill a GPU.
ARRIVALS = 4096
NAMES = {PLAIN: "plain", POLYPHASE: "polyphase", TRANSPOSED: "transposed, filtered"}


def aligned(channels: int) -> int:
    """Return the elements that a layer's vector occupies among the vectors of all layers."""
    return -(-channels // ALIGN) * ALIGN


class _Segment(NamedTuple):
    """Position of a layer's vectors in a flat buffer; see :mod:`.styles` for the layout."""

    start: int
    width: int

    def of(self, flat: torch.Tensor, n: int) -> torch.Tensor:
        """Return this layer's view [N, width] of the vectors of all layers for ``n`` images."""
        return flat[self.start * n : self.start * n + n * self.width].view(n, self.width)


class _RGB(NamedTuple):
    weight: torch.Tensor
    bias: torch.Tensor
    styles: _Segment


class _Layer(NamedTuple):
    """A packed convolution with its toRGB; ``size`` is the resolution of its input in pixels."""

    packed: PackedWeight
    bias: torch.Tensor
    strength: float
    size: int
    up: int
    styles: _Segment
    scale: _Segment
    rgb: _RGB | None


class Workspace(NamedTuple):
    """Buffers for one batch size.

    Pairs (w, activations, images) are used in turn as input and output; ``styles``, ``normalised`` and ``scale`` hold
    the vectors of all layers, ``unfiltered`` a transposed convolution before its FIR filter. ``arrivals`` are the
    counters of split reductions, which leave them zero.
    """

    w: torch.Tensor
    styles: torch.Tensor
    normalised: torch.Tensor
    scale: torch.Tensor
    activations: tuple[torch.Tensor, torch.Tensor]
    unfiltered: torch.Tensor
    images: tuple[torch.Tensor, torch.Tensor]
    arrivals: torch.Tensor


def _nhwc(flat: torch.Tensor, n: int, c: int, side: int) -> torch.Tensor:
    """Return a channels_last view [N, C, side, side] of the beginning of ``flat``."""
    return flat[: n * side * side * c].view(n, side, side, c).permute(0, 3, 1, 2)


class Program:
    """A :class:`~cagc_kernels.synthesis.SynthesisProgram` on a GPU, or in Triton's interpreter.

    Args:
        weights: weights of the generator.
        batch: batch size for which tiles and the up-sampling algorithm are chosen; other sizes choose only tiles.
        dtype: float32, float16 or bfloat16, for activations, weights and images. Sums, styles and factors are float32.
        device: device that it runs on.
    """

    @torch.no_grad()
    def __init__(
        self,
        weights: GeneratorWeights,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cuda",
    ) -> None:
        self.dtype, self.device, self.style_dim, self.batch = dtype, torch.device(device), weights.style_dim, batch
        self.clamp = -1.0 if weights.clamp is None else float(weights.clamp)
        self.resolution = weights.convs[-1].resolution
        taps = torch.tensor(weights.fir, dtype=torch.float32, device=device)
        self._filter = torch.outer(taps, taps)
        self._mapping = [(self._own(w * 2**0.5), self._own(b * 2**0.5, torch.float32)) for w, b in weights.mapping]
        self._constant = self._own(weights.constant.permute(1, 2, 0)).permute(2, 0, 1)[None]
        self._weight, self._bias, self._affines, places = self._affine(weights.convs)
        self._layers = self._convolutions(weights.convs, places)
        self._energy, self._peaks, self._factors = self._demodulation()
        self._workspaces: dict[int, Workspace] = {}
        self._configs: dict[int, list[Config]] = {}

    def _own(self, tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return a contiguous copy on the program's device."""
        return torch.empty(tensor.shape, dtype=dtype or self.dtype, device=self.device).copy_(tensor)

    def _affine(self, convs: Sequence[ConvWeights]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[_Segment]]:
        """Join all affine layers: weights, biases, table of :func:`.styles.fully_connected_kernel`, segments."""
        parts: list[ConvWeights | ToRGBWeights] = []
        for conv in convs:
            parts += [conv] if conv.to_rgb is None else [conv, conv.to_rgb]
        rows = sum(aligned(len(part.affine)) for part in parts)
        weight = torch.zeros(rows, self.style_dim, dtype=self.dtype, device=self.device)
        bias = torch.zeros(rows, dtype=torch.float32, device=self.device)
        table, places, start = [], [], 0
        for part in parts:
            width = len(part.affine)
            weight[start : start + width].copy_(part.affine)
            bias[start : start + width].copy_(part.affine_bias)
            table += [(part.w, start, width)] * (aligned(width) // vectors.OUTPUTS)
            places.append(_Segment(start, width))
            start += aligned(width)
        return weight, bias, torch.tensor(table, dtype=torch.int32, device=self.device), places

    def _convolutions(self, convs: Sequence[ConvWeights], places: Sequence[_Segment]) -> list[_Layer]:
        layers, place, start = [], iter(places), 0
        for conv in convs:
            weight = self._own(conv.weight, torch.float32)
            out, inputs = weight.shape[:2]
            segment = next(place)
            problem = self._problem(self.batch, inputs, out, conv.resolution // conv.up, conv.up)
            mode = self._choose(problem).mode
            packed = pack(weight, self.dtype, mode, self._filter if conv.up == 2 else None, True, conv.up == 1)
            rgb = None
            if conv.to_rgb is not None:
                bias = self._own(conv.to_rgb.bias, torch.float32)
                rgb = _RGB(self._own(conv.to_rgb.weight, torch.float32), bias, next(place))
            layers.append(
                _Layer(
                    packed,
                    self._own(conv.bias, torch.float32),
                    conv.noise_strength,
                    conv.resolution // conv.up,
                    conv.up,
                    segment,
                    _Segment(start, out),
                    rgb,
                )  # fmt: skip
            )
            start += aligned(out)
        return layers

    def _demodulation(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Join energies, for float16 peaks of filters, and the table of :func:`.styles.demodulations_kernel`."""
        table, first = [], 0
        peaks = torch.zeros(sum(aligned(layer.scale.width) for layer in self._layers), device=self.device)
        for layer in self._layers:
            row = (*layer.styles, first, *layer.scale)
            table += [row] * (aligned(layer.scale.width) // ALIGN)
            first += layer.packed.energy.numel()
            if layer.packed.peaks is not None:
                peaks[layer.scale.start : layer.scale.start + layer.scale.width] = layer.packed.peaks
        energy = torch.cat([layer.packed.energy.flatten() for layer in self._layers])
        self._layers = [layer._replace(packed=layer.packed._replace(energy=None, peaks=None)) for layer in self._layers]
        table = torch.tensor(table, dtype=torch.int32, device=self.device)
        return energy, peaks if self.dtype == torch.float16 else None, table

    def _problem(self, n: int, inputs: int, out: int, size: int, up: int, mode: int | None = None) -> Problem:
        name, arch = kind(torch.empty(0, dtype=self.dtype, device=self.device))
        modes = (PLAIN,) if up == 1 else (POLYPHASE, TRANSPOSED) if mode is None else (mode,)
        return Problem(name, n, size, size, inputs, out, 3, modes, arch=arch)

    def _choose(self, problem: Problem) -> Config:
        return choose(problem, device_name(self.device), partial(milliseconds, problem), partial(output, problem))

    def configs(self, n: int) -> list[Config]:
        """Return the config of every convolution for ``n`` images, in order; cached."""
        if n not in self._configs:
            found = []
            for layer in self._layers:
                problem = self._problem(n, *layer.packed.channels, layer.size, layer.up, layer.packed.mode)
                config = self._choose(problem)
                found.append(config if config.mode == layer.packed.mode else default(problem))
            self._configs[n] = found
        return self._configs[n]

    @property
    def memory(self) -> int:
        """Bytes of packed weights, energies and buffers."""
        tensors = [self._filter, self._constant, self._weight, self._bias, self._affines, self._energy, self._factors]
        tensors += [t for pair in self._mapping for t in pair] + [t for t in (self._peaks,) if t is not None]
        for layer in self._layers:
            found = layer.packed.weight, layer.packed.taps, layer.bias, *(layer.rgb or ())[:2]
            tensors += [t for t in found if t is not None]
        for workspace in self._workspaces.values():
            tensors += [t for part in workspace for t in (part if isinstance(part, tuple) else (part,))]
        return sum(t.numel() * t.element_size() for t in tensors)

    def workspace(self, n: int) -> Workspace:
        """Return the buffers for ``n`` images; cached."""
        if n not in self._workspaces:
            self._workspaces[n] = self._allocate(n)
        return self._workspaces[n]

    def _allocate(self, n: int) -> Workspace:
        def floats(size: int) -> torch.Tensor:
            return torch.empty(n * size, dtype=torch.float32, device=self.device)

        def values(sizes: list[int]) -> torch.Tensor:
            return torch.empty(n * max(sizes, default=0), dtype=self.dtype, device=self.device)

        outputs = [layer.scale.width * (layer.size * layer.up) ** 2 for layer in self._layers]
        between = [
            layer.scale.width * (2 * layer.size + 1) ** 2 for layer in self._layers if layer.packed.mode == TRANSPOSED
        ]
        half, quarter = 3 * (self.resolution // 2) ** 2, 3 * (self.resolution // 4) ** 2
        return Workspace(
            floats(2 * self.style_dim).view(2, n, self.style_dim), floats(len(self._bias)),
            floats(len(self._bias) if self._peaks is not None else 0), floats(ALIGN * len(self._factors)),
            (values(outputs[::2]), values(outputs[1::2])), values(between), (values([half]), values([quarter])),
            torch.zeros(ARRIVALS, dtype=torch.int32, device=self.device),
        )  # fmt: skip

    def map(self, z: torch.Tensor) -> torch.Tensor:
        """Return a new w [N, style_dim] in the program's dtype for latents ``z`` [N, style_dim]."""
        n, z = len(z), z.contiguous()
        w = torch.empty(n, self.style_dim, dtype=self.dtype, device=self.device)
        if n == 0:
            return w
        work = self.workspace(n)
        for i, (weight, bias) in enumerate(self._mapping):
            out = w if i + 1 == len(self._mapping) else work.w[i % 2]
            self._fully_connected(z, 0, weight, bias, None, out, n, normalise=i == 0, lrelu=True)
            z = out
        return w

    def _fully_connected(self, x, x_w, weight, bias, table, y, n, normalise=False, lrelu=False) -> None:
        rows, inputs = weight.shape
        block = min(vectors.INPUTS, triton.next_power_of_2(inputs))
        with torch.cuda.device_of(x):
            start(
                fully_connected_kernel, (triton.cdiv(rows, vectors.OUTPUTS), n),
                x, weight, bias, table, y, n, x.stride(0), x_w, inputs, rows, normalise, lrelu, vectors.OUTPUTS, block,
            )  # fmt: skip

    def _style(self, ws: torch.Tensor, work: Workspace) -> torch.Tensor:
        """Fill styles and demodulation factors; return the convolutions' styles, which float16 normalises."""
        n = len(ws)
        ws = ws if ws.stride(2) == 1 else ws.contiguous()
        self._fully_connected(ws, ws.stride(1), self._weight, self._bias, self._affines, work.styles, n)
        normalised = None if self._peaks is None else work.normalised
        with torch.cuda.device_of(ws):
            start(
                demodulations_kernel, (len(self._factors), n),
                work.styles, self._energy, self._peaks, self._factors, work.scale, normalised, n, ALIGN, 64,
            )  # fmt: skip
        return work.styles if normalised is None else normalised

    def images(self, ws: torch.Tensor, noise: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Return new images [N, 3, R, R] for ``ws`` [N, L, style_dim].

        ``noise``: [1 or N, 1, r, r] or None for each convolution, before multiplication by its noise strength.
        """
        n, r = len(ws), self.resolution
        image = torch.empty(n, 3, r, r, dtype=self.dtype, device=self.device)
        if n == 0:
            return image
        if n not in self._workspaces and self.device.type == "cuda":
            self.configs(n)  # before compiling(): autotuning may launch and time configs here
            with compiling():
                self._run(ws, noise, image)
        self._run(ws, noise, image)
        return image

    def draw(self, batch: int, shapes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Return standard normal noise [batch, 1, height, width] for each of ``shapes``, drawn in one launch."""
        flat = torch.empty(batch * sum(h * w for h, w in shapes), dtype=self.dtype, device=self.device).normal_()
        parts = flat.split([batch * h * w for h, w in shapes])
        return [part.view(batch, 1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    def profile(self, z: torch.Tensor, num_ws: int, noise: Sequence[torch.Tensor | None]) -> list[Part]:
        """Run one call on ``z``; return the costs of the mapping network, the styles and each convolution with toRGB.

        The device is synchronised after each part, so the sum of the times is more than the time of an image.
        """
        n, marks = len(z), []

        def mark() -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            marks.append(time.perf_counter())

        image = self.images(self.map(z)[:, None].expand(-1, num_ws, -1), noise)  # compiles the kernels
        mark()
        ws = self.map(z)[:, None].expand(-1, num_ws, -1)
        mark()
        self._run(ws, noise, image, mark)
        seconds = [b - a for a, b in pairwise(marks)]
        return [Part(*row) for row in zip(seconds, *zip(*self._costs(n), strict=True), strict=True)]

    def _costs(self, n: int) -> list[tuple[int, int, str]]:
        """Return multiplications, bytes and kernel of mapping network, styles and each convolution for ``n`` images."""

        def vectors(weights: Sequence[torch.Tensor]) -> tuple[int, int, str]:
            products = sum(weight.numel() for weight in weights)
            return n * products, sum(weight.numel() * weight.element_size() for weight in weights), "gemm"

        found = [vectors([weight for weight, _ in self._mapping]), vectors([self._weight, self._energy])]
        for layer, config in zip(self._layers, self.configs(n), strict=True):
            (inputs, out), side = layer.packed.channels, layer.size * layer.up
            products = 9 * ((layer.size + 1) ** 2 if config.mode == TRANSPOSED else side**2) * inputs * out
            products += 0 if layer.rgb is None else 3 * side**2 * out
            values = n * (layer.size**2 * inputs + side**2 * out) + layer.packed.weight.numel()
            found.append((n * products, values * self.dtype.itemsize, NAMES[config.mode]))
        return found

    def _run(
        self, ws: torch.Tensor, noise: Sequence[torch.Tensor | None], image: torch.Tensor,
        mark: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        n, r = len(ws), self.resolution
        work, configs = self.workspace(n), self.configs(n)
        styles = self._style(ws, work)
        mark()
        x, skip, modulated = self._constant.expand(n, -1, -1, -1), None, False
        for i, (layer, config, given) in enumerate(zip(self._layers, configs, noise, strict=True)):
            side, out, last = layer.size * layer.up, layer.scale.width, i + 1 == len(self._layers)
            to_rgb = None
            if layer.rgb is not None:
                # The buffers alternate so that the largest image below the final one goes to the first buffer.
                below = work.images[(r // side).bit_length() % 2]
                target = image if last else below[: n * 3 * side**2].view(n, 3, side, side)
                rgb_styles = layer.rgb.styles.of(work.styles, n)
                to_rgb = ToRGB(layer.rgb.weight, rgb_styles, layer.rgb.bias, skip, self._filter, target, not last)
                skip = target
            fused = to_rgb is not None and holds_all(config, out)
            # An output that only the next convolution reads is multiplied by that one's styles before it is stored.
            alone = not last and (fused or to_rgb is None)
            next_styles = self._layers[i + 1].styles.of(styles, n) if alone else None
            epilogue = Epilogue(given, layer.bias, next_styles, "lrelu", 0.2, 2**0.5, self.clamp)
            y, t = _nhwc(work.activations[i % 2], n, out, side), None
            if config.mode == TRANSPOSED:
                t = _nhwc(work.unfiltered, n, out, side + 1)
            s = None if modulated else layer.styles.of(styles, n)
            padding = (0, 0) if config.mode == TRANSPOSED else (1, 1)
            scale = layer.scale.of(work.scale, n)
            convolve(
                x, layer.packed, y, t, s, scale, epilogue, config, padding, work.arrivals, to_rgb if fused else None,
                layer.strength,
            )  # fmt: skip
            if to_rgb is not None and not fused:
                launch_to_rgb(y, *to_rgb[:6], self.clamp)
            x, modulated = y, next_styles is not None
            mark()

    @property
    def widths(self) -> list[tuple[int, int]]:
        """Input and output channels of each convolution."""
        return [layer.packed.channels for layer in self._layers]

    @property
    def layouts(self) -> list[str]:
        """Memory layout of the activations of each convolution."""
        return ["NHWC"] * len(self._layers)

    def describe(self, n: int) -> list[tuple[str, str]]:
        """Return kernel and tile of every convolution for ``n`` images, in order, and the reason for its choice."""
        found, runs = [], "in a CUDA graph" if self.device.type == "cuda" else "interpreted"
        for layer, c in zip(self._layers, self.configs(n), strict=True):
            split = f" in {c.split} parts" if c.split > 1 else ""
            problem = self._problem(n, *layer.packed.channels, layer.size, layer.up)
            timed = winner(problem, device_name(self.device))
            why = "the fastest that was timed on this card" if c == timed else "a rule, not timed on this card"
            rgb = ", toRGB in it" if layer.rgb is not None and holds_all(c, layer.scale.width) else ""
            tile = f"{c.bm}x{c.bn + c.bn2}x{c.bk}{split}{rgb}"
            found.append((f"implicit GEMM, {NAMES[c.mode]}, {tile} by triton, {runs}", why))
        return found
