"""The synthesis network of StyleGAN2 as one call into the compiled module: float32, CPU, frozen weights.

Small images are stored NHWC: a SIMD vector holds channels, which are padded to whole vectors. Large images are cut into
as many vertical strips as a vector has lanes, and a vector holds one pixel of each strip. No channel is then padded, so
that time follows the MACs, and each thread computes its part of an up-sampling layer and of the next layer together.

The compiled module chooses the algorithms and packs the weights (csrc/include/cagc/packing.h), for this program and for
the C interface alike.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..synthesis import STORAGE, ConvWeights, GeneratorWeights, Part, Storage, bytes_of, check_storage
from . import _C

PREFERENCES = ("cheaper", "transformed", "plain")  # by the codes of cagc::Preference
ALGORITHMS = ("direct3", "winograd43", "transposed2", "winograd42")

WHY = {
    "direct3": "few pixels: transformed weights would cost more to read than they save",
    "winograd43": "Winograd F(4x4, 3x3): a quarter of the multiplications",
    "transposed2": "few pixels: transformed weights would cost more to read than they save",
    "winograd42": "transposed convolution by F(4, 2) per parity: 81 multiplications where 144 are due",
}


class Transform(NamedTuple):
    """Points of a Winograd tile, and operations of a channel's transforms before and after the products."""

    points: int
    before: int
    after: int


TRANSFORMS = {"winograd43": Transform(36, 12 * 12, 10 * 10), "winograd42": Transform(81, 9 * 14, 8 * 17)}
"""By algorithm: operations of one transform times their number, as csrc/cpu/synthesis/winograd.h has them."""

FILTER, EPILOGUE, TO_RGB, IMAGE = 8, 7, 3, 21
"""Operations of a pixel: of each channel in the filter, in the epilogue (the last has no style of a next layer: one
less) and in toRGB; and of the image, three colours up-sampled, clamped and added."""


class _Arrays:
    """Addresses of a generator's weights for the compiled module, which reads them while this object is alive."""

    def __init__(self, weights: GeneratorWeights) -> None:
        self._alive: list[torch.Tensor] = []
        self.convs = [self._conv(conv) for conv in weights.convs]
        self.mapping = [(self.address(weight), self.address(bias)) for weight, bias in weights.mapping]

    def address(self, t: torch.Tensor) -> int:
        self._alive.append(t.detach().to("cpu", torch.float64).contiguous())
        return self._alive[-1].data_ptr()

    def _conv(self, conv: ConvWeights) -> _C.ConvWeights:
        out, inputs = conv.weight.shape[:2]
        rgb = {} if conv.to_rgb is None else {
            "rgb": True, "rgb_w": conv.to_rgb.w, "rgb_weight": self.address(conv.to_rgb.weight),
            "rgb_affine": self.address(conv.to_rgb.affine), "rgb_affine_bias": self.address(conv.to_rgb.affine_bias),
            "rgb_bias": self.address(conv.to_rgb.bias),
        }  # fmt: skip
        return _C.ConvWeights(
            resolution=conv.resolution, up=conv.up, in_channels=inputs, out_channels=out, w=conv.w,
            noise_strength=conv.noise_strength, weight=self.address(conv.weight), affine=self.address(conv.affine),
            affine_bias=self.address(conv.affine_bias), bias=self.address(conv.bias), **rgb,
        )  # fmt: skip


def _packed(
    weights: GeneratorWeights, batch: int, instructions: str, algorithms: str, strips: bool, storage: Storage
) -> _C.PackedNetwork:
    """Choose algorithms for a generator and pack its weights: see :class:`Program`."""
    arrays = _Arrays(weights)
    options = {"batch": batch, "algorithms": PREFERENCES.index(algorithms)} | ({} if strips else {"strip_bytes": 0})
    options |= {name: STORAGE.index(stored) for name, stored in storage._asdict().items()}
    return _C.PackedNetwork(
        convs=arrays.convs, mapping=arrays.mapping, constant=arrays.address(weights.constant),
        style_dim=weights.style_dim, fir=[float(tap) for tap in weights.fir],
        clamp=float("inf") if weights.clamp is None else float(weights.clamp), instructions=instructions,
        options=_C.PackingOptions(**options),
    )  # fmt: skip


class Program:
    """A :class:`~cagc_kernels.synthesis.SynthesisProgram` on the CPU: packed weights, run in one call per batch.

    Args:
        weights: weights of the generator.
        batch: batch size for which the algorithms are chosen; other sizes run too.
        instructions: one of :func:`instruction_sets`; None takes the best.
        algorithms: one of :data:`PREFERENCES`: the cheaper algorithm for each convolution, or for all of them the one
            that transforms, or the plain one.
        strips: whether large images may be cut into strips.
        storage: how the weights of the mapping network and the affine layers are stored.

    Raises:
        ValueError: ``instructions`` is not available on this processor, the sizes are not those of a StyleGAN2, or
            ``storage`` cannot hold the weights (:func:`~cagc_kernels.synthesis.check_storage`).
    """

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(
        self,
        weights: GeneratorWeights,
        batch: int = 1,
        instructions: str | None = None,
        algorithms: str = "cheaper",
        strips: bool = True,
        storage: Storage = Storage(),
    ) -> None:
        available = instruction_sets()
        self.instructions = available[0] if instructions is None else instructions
        if self.instructions not in available:
            raise ValueError(f"instructions: got {instructions!r}, expected one of {', '.join(available)}")
        self.style_dim, self.batch, self.resolution = weights.style_dim, batch, weights.convs[-1].resolution
        check_storage(weights, storage)
        self.storage = storage
        self._packed = _packed(weights, batch, self.instructions, algorithms, strips, storage)
        self._layers = self._packed.layers
        self._mapping_layers = len(weights.mapping)
        self.algorithms = [ALGORITHMS[layer.algorithm] for layer in self._layers]
        self.strips = [layer.strips for layer in self._layers]
        self._compiled: tuple[tuple[int, int], object, torch.Tensor] | None = None
        self._noise: tuple[tuple[torch.Tensor | None, ...], list[tuple[int, int]]] = ((), [])

    def store(self, weights: GeneratorWeights, storage: Storage) -> None:
        """Store the mapping network and the affine layers of ``weights``, the generator's own, as ``storage``.

        Raises:
            ValueError: ``storage`` cannot hold the weights.
        """
        check_storage(weights, storage)
        arrays, codes = _Arrays(weights), [STORAGE.index(stored) for stored in storage]
        self._compiled, self.storage = None, storage
        self._packed.store(
            convs=arrays.convs, mapping=arrays.mapping, mapping_storage=codes[0], styles_storage=codes[1]
        )
        self._layers = self._packed.layers

    def __reduce_ex__(self, protocol: object):
        raise TypeError("a program of frozen weights holds addresses of this process: it cannot be copied or pickled")

    @property
    def widths(self) -> list[tuple[int, int]]:
        """Input and output channels of each convolution, padded to whole vectors where vectors hold channels."""
        return [(layer.in_channels, layer.out_channels) for layer in self._layers]

    @property
    def layouts(self) -> list[str]:
        """Memory layout of the activations of each convolution."""
        return ["NHWC" if strips == 1 else f"NHCW in {strips} strips" for strips in self.strips]

    def _pair(self, index: int) -> bool:
        """Whether a convolution and the next one run together, so that the activations between them stay in cache."""
        return index >= 0 and self.strips[index] > 1 and self._layers[index].up == 2

    def _points(self, index: int) -> int:
        """Multiplications per weight of a convolution and image."""
        layer = self._layers[index]
        size = layer.resolution // layer.up
        count = _C.points(layer.algorithm, size)
        if layer.strips > 1 and layer.up == 2:  # one more row of tiles, and no more columns
            count = count * size // (size + 4)
        return count

    def conv_cost(self, index: int, batch: int) -> tuple[int, int]:
        """Return a convolution's multiplications, and the bytes of its activations (in and out) and packed weights."""
        layer, name = self._layers[index], self.algorithms[index]
        inputs, out, size = layer.in_channels, layer.out_channels, layer.resolution // layer.up
        weights = (36 if name.startswith("winograd") else 9) * inputs * out
        read = 0 if self._pair(index - 1) else size**2 * inputs
        written = 0 if self._pair(index) or index + 1 == len(self._layers) else layer.resolution**2 * out
        return batch * self._points(index) * inputs * out, 4 * (weights + batch * (read + written))

    def elementwise_cost(self, index: int, batch: int) -> int:
        """Return the operations of a convolution and its toRGB outside the matrix products of the convolution."""
        layer, transform = self._layers[index], TRANSFORMS.get(self.algorithms[index])
        inputs, out, last = layer.in_channels, layer.out_channels, index + 1 == len(self._layers)
        work = layer.resolution**2 * (out * (EPILOGUE - last + (TO_RGB if layer.up == 1 else FILTER)))
        if layer.up == 1:
            work += layer.resolution**2 * IMAGE
        if transform:
            work += self._points(index) // transform.points * (inputs * transform.before + out * transform.after)
        return batch * work

    def styles_cost(self, batch: int) -> tuple[int, int]:
        """Return the multiplications and bytes of the affine layers and demodulation."""
        columns = sum(c.in_padded + (c.out_padded if c.rgb_weight else 0) for c in self._layers)
        affine, energy = self.style_dim * columns, sum(c.in_padded * c.out_padded for c in self._layers)
        return batch * (affine + energy), bytes_of(self.storage.styles) * affine + 4 * energy

    def mapping_cost(self, batch: int) -> tuple[int, int]:
        """Return the multiplications and bytes of the mapping network."""
        floats = self._mapping_layers * self.style_dim * self._packed.features
        return batch * floats, bytes_of(self.storage.mapping) * floats

    @property
    def dense_bytes(self) -> int:
        """Bytes of the packed mapping network and affine layers."""
        return self._packed.dense_bytes

    @property
    def memory(self) -> int:
        """Bytes of packed weights and workspace."""
        workspace = 0 if self._compiled is None else self._compiled[2].numel() * 4
        return workspace + self._packed.bytes

    def _run(self, batch: int) -> tuple[object, torch.Tensor]:
        key = batch, torch.get_num_threads()
        if self._compiled is None or self._compiled[0] != key:
            program = _C.Synthesis(packed=self._packed, batch=key[0], threads=key[1])
            workspace = torch.empty(program.workspace())
            _C.prefer_huge_pages(workspace.data_ptr(), workspace.numel() * 4)
            self._compiled = key, program, workspace
        return self._compiled[1:]

    def map(self, z: torch.Tensor) -> torch.Tensor:
        """Return w [N, style_dim] for latents ``z`` [N, style_dim], both float32 on the CPU."""
        z = z.contiguous()
        w = torch.empty(z.shape[0], self._packed.features)
        if len(z) == 0:
            return w[:, : self.style_dim]
        program, workspace = self._run(z.shape[0])
        program.map(z=z.data_ptr(), w=w.data_ptr(), workspace=workspace.data_ptr())
        return w[:, : self.style_dim]

    def draw(self, batch: int, shapes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Return standard normal noise [batch, 1, height, width] for each of ``shapes``, in the generator's order."""
        return [torch.empty(batch, 1, *shape).normal_() for shape in shapes]

    def describe(self, batch: int) -> list[tuple[str, str]]:
        """Return the algorithm with the instruction set of every convolution, and the reason for its choice."""
        return [(f"{name} ({self.instructions})", WHY[name]) for name in self.algorithms]

    def profile(self, z: torch.Tensor, num_ws: int, noise: Sequence[torch.Tensor | None]) -> list[Part]:
        """Run one call on ``z``; return the costs of the mapping network, the styles and each convolution with toRGB.

        Multiplications and bytes are those of the algorithms, padding included, with activations read and written once
        and packed weights read once.
        """
        n, start = len(z), time.perf_counter()
        ws = self.map(z)[:, None].expand(-1, num_ws, -1)
        mapping = time.perf_counter() - start
        seconds = torch.zeros(1 + len(self.algorithms), dtype=torch.float64)
        self.images(ws, noise, seconds)
        styles, *convs = seconds.tolist()
        costs = zip((mapping, styles), (self.mapping_cost(n), self.styles_cost(n)), self.storage)
        rows = [Part(spent, *cost, f"dense, {stored} weights") for spent, cost, stored in costs]
        for i, (spent, name) in enumerate(zip(convs, self.algorithms)):
            rows.append(Part(spent, *self.conv_cost(i, n), name, self.elementwise_cost(i, n)))
        return rows

    def generate(
        self,
        z: torch.Tensor,
        noise: Sequence[torch.Tensor | None],
        psi: float = 1,
        w_avg: torch.Tensor | None = None,
        cutoff: int | None = None,
    ) -> torch.Tensor:
        """Return new images [N, 3, R, R] for latents ``z`` [N, style_dim] in one call.

        Args:
            z, noise: float32; noise as for :meth:`images`.
            psi, w_avg, cutoff: the first ``cutoff`` ws (None: all) are ``w_avg + psi (w - w_avg)``; ``w_avg``
                [style_dim] in float32 is needed unless ``psi`` is 1.
        """
        image = torch.empty(z.shape[0], 3, self.resolution, self.resolution)
        if len(z) == 0:
            return image
        program, workspace = self._run(z.shape[0])
        z = z.contiguous()
        program.generate(
            z.data_ptr(), psi, 0 if w_avg is None else w_avg.data_ptr(), -1 if cutoff is None else cutoff,
            self._noise_of(noise), image.data_ptr(), workspace.data_ptr(),
        )  # fmt: skip
        return image

    def _noise_of(self, noise: Sequence[torch.Tensor | None]) -> list[tuple[int, int]]:
        """Address of each noise map and its stride between samples; those of the last maps are kept."""
        last, native = self._noise
        if len(last) == len(noise) and all(map(operator.is_, last, noise)):
            return native
        maps = [None if t is None else t.contiguous() for t in noise]
        self._alive = maps  # until the next call
        native = [(0, 0) if t is None else (t.data_ptr(), 0 if t.shape[0] == 1 else t.stride(0)) for t in maps]
        if all(map(operator.is_, maps, noise)):  # a copy would not show what is written to the original
            self._noise = tuple(noise), native
        return native

    def images(
        self,
        ws: torch.Tensor,
        noise: Sequence[torch.Tensor | None],
        seconds: torch.Tensor | None = None,
        layers: int = 0,
    ) -> torch.Tensor:
        """Return new images [N, 3, R, R] for ``ws`` [N, L, style_dim], float32.

        Args:
            ws: one w per layer.
            noise: [1 or N, 1, r, r] or None for each convolution, before multiplication by the noise strength.
            seconds: float64 [1 + convolutions], filled with the times of the styles and of each convolution.
            layers: how many convolutions run, up to one with a toRGB, whose resolution is then the image's; 0: all.
        """
        resolution = self._layers[layers - 1].resolution
        image = torch.empty(ws.shape[0], 3, resolution, resolution)
        if len(ws) == 0:
            return image
        program, workspace = self._run(ws.shape[0])
        if ws.stride(-1) != 1:
            ws = ws.contiguous()
        program.run(
            ws=ws.data_ptr(), w_sample=ws.stride(0), w_layer=ws.stride(1), noise=self._noise_of(noise),
            image=image.data_ptr(), workspace=workspace.data_ptr(),
            seconds=0 if seconds is None else seconds.data_ptr(), layers=layers,
        )  # fmt: skip
        return image


def instruction_sets() -> list[str]:
    """Return the compiled instruction sets that this processor supports, best first: "v4", "v3" (x86-64), "generic"."""
    return list(_C.instruction_sets())
