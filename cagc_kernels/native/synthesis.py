"""The synthesis network of StyleGAN2 as one call into the compiled module: float32, CPU, frozen weights.

Small images are stored NHWC: a SIMD vector holds channels, which are padded to whole vectors. Large images are cut into
as many vertical strips as a vector has lanes, and a vector holds one pixel of each strip. No channel is then padded, so
that time follows the MACs, and each thread computes its part of an up-sampling layer and of the next layer together.

Winograd's algorithm is that of Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016. A
transposed convolution of stride 2 has, per axis, one output parity with two taps, which it transforms, and one with a
single tap, which needs no transform.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from ..synthesis import ConvWeights, GeneratorWeights, Part
from . import _C

LANES = 8
BLOCK = 5 << 18  # most bytes of the transformed inputs and outputs of 16 tiles: they must fit the L2 cache
ALGORITHMS = ("direct3", "winograd43", "transposed2", "winograd42")

WHY = {
    "direct3": "few pixels: transformed weights would cost more to read than they save",
    "winograd43": "Winograd F(4x4, 3x3): a quarter of the multiplications",
    "transposed2": "few pixels: transformed weights would cost more to read than they save",
    "winograd42": "transposed convolution by F(4, 2) per parity: 81 multiplications where 144 are due",
}

# Filter transforms in float64. Rows of F(4, 3): the points 0, 1, -1, 2, -2, infinity. Rows of F(4, 2): the points
# 0, 1, -1, 2, infinity for taps (2, 0) of a stride-2 transposed convolution, then its tap 1 untransformed.
_F43 = torch.tensor(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64
) / 24  # fmt: skip
_F42 = torch.tensor(
    [[0, 0, 3], [-3, 0, -3], [1, 0, -1], [2, 0, 1], [6, 0, 0], [0, 6, 0]], dtype=torch.float64
) / 6  # fmt: skip


def padded(channels: int) -> int:
    """Return ``channels`` rounded up to whole vectors."""
    return -(-channels // LANES) * LANES


def _pad(x: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return ``x`` in float32, padded with zeros at the end of each axis to ``shape``."""
    out = torch.zeros(shape, dtype=torch.float32)
    out[tuple(slice(n) for n in x.shape)] = x
    return out


def matrices(weight: torch.Tensor, algorithm: str) -> list[torch.Tensor]:
    """Return the matrices [k, O] of the products of ``algorithm``, from ``weight`` [O, I, 3, 3] in float64."""
    if algorithm in ("winograd43", "winograd42"):
        g = _F43 if algorithm == "winograd43" else _F42
        return list(torch.einsum("ai,ocij,bj->abco", g, weight, g).flatten(0, 1))
    taps = weight.permute(2, 3, 1, 0)
    if algorithm == "direct3":
        return [taps.flatten(0, 2)]
    parities = ([(1, 1)], [(2, 1), (0, 1)], [(1, 0), (1, 2)], [(2, 0), (0, 0), (0, 2), (2, 2)])
    return [torch.cat([taps[i, j] for i, j in parity]) for parity in parities]


def algorithm(conv: ConvWeights, batch: int) -> str:
    """Return the faster algorithm, weighing multiplications against reads of transformed weights."""
    size = conv.resolution // conv.up
    # Cost model: reading one float of weights from memory takes the time of 25 multiplications.
    plain, fast = ("direct3", "winograd43") if conv.up == 1 else ("transposed2", "winograd42")
    if size >= 4 and batch * points(fast, size) + 36 * 25 < batch * points(plain, size) + 9 * 25:
        return fast
    return plain


def points(algorithm: str, size: int) -> int:
    """Return the multiplications per pair of input and output channel on ``size`` x ``size`` input pixels."""
    tiles = {"direct3": size, "winograd43": size // 4, "transposed2": size + 1, "winograd42": size // 4 + 1}
    return {"direct3": 9, "winograd43": 36, "transposed2": 9, "winograd42": 81}[algorithm] * tiles[algorithm] ** 2


def strips(convs: Sequence[ConvWeights], algorithms: Sequence[str], lanes: int) -> list[int]:
    """Return the number of vertical strips of each convolution: 1 if vectors hold channels, ``lanes`` if pixels.

    The last layers use strips, from the first one on after which all layers have strips of whole 4-pixel tiles and 16
    transformed tiles that fit ``BLOCK``. There an up-sampling layer and the next one run together.
    """
    found = [1] * len(convs)
    for i in reversed(range(len(convs))):
        out, inputs = convs[i].weight.shape[:2]
        rows = {"winograd43": 36, "winograd42": 81}.get(algorithms[i])
        narrow = rows is not None and 64 * rows * (out + inputs) <= BLOCK
        if not narrow or convs[i].resolution // convs[i].up % (4 * lanes):
            break
        found[i] = lanes
    return found if found[-2:] == [lanes] * 2 else [1] * len(convs)


@dataclass
class Layer:
    """A styled convolution and its toRGB, if it has one, packed for the compiled module.

    The fields are those of ``cagc::StyledConv`` in csrc/include/cagc/synthesis.h, which gives the tensors' shapes.
    """

    algorithm: str
    up: int
    resolution: int
    strips: int
    in_channels: int
    out_channels: int
    in_padded: int
    out_padded: int
    w: int
    weight: torch.Tensor
    energy: torch.Tensor
    bias: torch.Tensor
    affine: torch.Tensor
    affine_bias: torch.Tensor
    noise_strength: float
    rgb_w: int = 0
    rgb_weight: torch.Tensor | None = None
    rgb_affine: torch.Tensor | None = None
    rgb_affine_bias: torch.Tensor | None = None
    rgb_bias: torch.Tensor | None = None
    edge_weight: torch.Tensor | None = None

    def tensors(self) -> list[torch.Tensor]:
        return [value for value in vars(self).values() if isinstance(value, torch.Tensor)]

    def native(self) -> object:
        """Return the compiled module's struct, which holds addresses of this layer's tensors: keep the layer alive."""
        given = {f.name: getattr(self, f.name) for f in fields(self)} | {"algorithm": ALGORITHMS.index(self.algorithm)}
        return _C.StyledConv(**{
            name: value.data_ptr() if isinstance(value, torch.Tensor) else value
            for name, value in given.items() if value is not None
        })  # fmt: skip


class Program:
    """A :class:`~cagc_kernels.synthesis.SynthesisProgram` on the CPU: packed weights, run in one call per batch.

    Args:
        weights: weights of the generator.
        batch: batch size for which the algorithms are chosen; other sizes run too.
        instructions: one of :func:`instruction_sets`; None takes the best.

    Raises:
        ValueError: ``instructions`` is not available on this processor.
    """

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, weights: GeneratorWeights, batch: int = 1, instructions: str | None = None) -> None:
        available = instruction_sets()
        self.instructions = available[0] if instructions is None else instructions
        if self.instructions not in available:
            raise ValueError(f"instructions: got {instructions!r}, expected one of {', '.join(available)}")
        convs, constant = weights.convs, weights.constant
        self.style_dim, self.features, self.batch = weights.style_dim, padded(weights.style_dim), batch
        self.resolution = convs[-1].resolution
        self.algorithms = [algorithm(conv, batch) for conv in convs]
        self.strips = strips(convs, self.algorithms, _C.lanes(self.instructions))
        self._layers = [self._layer(*layer) for layer in zip(convs, self.algorithms, self.strips)]
        self._mapping = [
            (self._pack([w.t() * 2**0.5], self.features), _pad(b * 2**0.5, self.features)) for w, b in weights.mapping
        ]
        self._constant = _pad(constant.permute(1, 2, 0).reshape(16, -1), 16, padded(constant.shape[0]))
        self._fir = [2 * float(tap) for tap in reversed(weights.fir)]
        self._clamp = float("inf") if weights.clamp is None else float(weights.clamp)
        self._compiled: tuple[tuple[int, int], object, torch.Tensor] | None = None

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

    def conv_cost(self, index: int, batch: int) -> tuple[int, int]:
        """Return a convolution's multiplications, and the bytes of its activations (in and out) and packed weights."""
        layer, name = self._layers[index], self.algorithms[index]
        inputs, out, size = layer.in_channels, layer.out_channels, layer.resolution // layer.up
        weights = (36 if name.startswith("winograd") else 9) * inputs * out
        read = 0 if self._pair(index - 1) else size**2 * inputs
        written = 0 if self._pair(index) or index + 1 == len(self._layers) else layer.resolution**2 * out
        count = points(name, size)
        if layer.strips > 1 and layer.up == 2:  # one more row of tiles, and no more columns
            count = count * size // (size + 4)
        return batch * count * inputs * out, 4 * (weights + batch * (read + written))

    def styles_cost(self, batch: int) -> tuple[int, int]:
        """Return the multiplications and bytes of the affine layers and demodulation."""
        columns = sum(c.in_padded + (0 if c.rgb_weight is None else c.out_padded) for c in self._layers)
        floats = self.style_dim * columns + sum(c.in_padded * c.out_padded for c in self._layers)
        return batch * floats, 4 * floats

    def mapping_cost(self, batch: int) -> tuple[int, int]:
        """Return the multiplications and bytes of the mapping network."""
        floats = len(self._mapping) * self.style_dim * self.features
        return batch * floats, 4 * floats

    @property
    def memory(self) -> int:
        """Bytes of packed weights and workspace."""
        workspace = 0 if self._compiled is None else self._compiled[2].numel() * 4
        tensors = [self._constant, *(t for pair in self._mapping for t in pair)]
        for layer in self._layers:
            tensors += layer.tensors()
        return workspace + sum(t.numel() * t.element_size() for t in tensors)

    def _pack(self, dense: Sequence[torch.Tensor], columns: int, pack: str = "pack_matrix") -> torch.Tensor:
        packed = torch.empty(sum(m.shape[0] for m in dense) * columns)
        offset = 0
        for matrix in dense:
            matrix = _pad(matrix, matrix.shape[0], columns)
            getattr(_C, pack)(
                instructions=self.instructions, matrix=matrix.data_ptr(), k=matrix.shape[0], columns=columns,
                packed=packed.data_ptr() + offset * 4,
            )  # fmt: skip
            offset += matrix.numel()
        return packed

    def _layer(self, conv: ConvWeights, name: str, strips: int) -> Layer:
        out, inputs = (padded(n) for n in conv.weight.shape[:2])
        weight = torch.zeros(out, inputs, 3, 3, dtype=torch.float64)
        weight[: conv.weight.shape[0], : conv.weight.shape[1]] = conv.weight
        stored, pack = (weight, "pack_matrix") if strips == 1 else (conv.weight, "pack_strips")
        layer = Layer(
            algorithm=name, up=conv.up, resolution=conv.resolution, strips=strips,
            in_channels=stored.shape[1], out_channels=stored.shape[0], in_padded=inputs, out_padded=out, w=conv.w,
            weight=self._pack(matrices(stored, name), stored.shape[0], pack),
            energy=self._pack([weight.square().sum(dim=(2, 3)).t()], out),
            bias=_pad(conv.bias * 2**0.5, out),
            affine=self._pack([conv.affine.t()], inputs),
            affine_bias=_pad(conv.affine_bias, inputs),
            noise_strength=conv.noise_strength * 2**0.5,
        )  # fmt: skip
        if rgb := conv.to_rgb:
            layer.rgb_w = rgb.w
            layer.rgb_weight = _pad(rgb.weight, 3, out)
            layer.rgb_affine = self._pack([rgb.affine.t()], out)
            layer.rgb_affine_bias = _pad(rgb.affine_bias, out)
            layer.rgb_bias = _pad(rgb.bias, 3)
        if strips > 1 and conv.up == 2:
            layer.edge_weight = self._edge(stored)
        return layer

    def _edge(self, weight: torch.Tensor) -> torch.Tensor:
        taps = weight[..., 2].permute(2, 1, 0)
        return self._pack([torch.cat([taps[0], taps[2]]), taps[1]], weight.shape[0], "pack_strips")

    def _run(self, batch: int) -> tuple[object, torch.Tensor]:
        key = batch, torch.get_num_threads()
        if self._compiled is None or self._compiled[0] != key:
            program = _C.Synthesis(
                layers=[layer.native() for layer in self._layers],
                mapping=[(weight.data_ptr(), bias.data_ptr()) for weight, bias in self._mapping],
                features=self.features, constant=self._constant.data_ptr(), style_dim=self.style_dim, fir=self._fir,
                clamp=self._clamp, instructions=self.instructions, batch=key[0], threads=key[1],
            )  # fmt: skip
            workspace = torch.empty(program.workspace())
            _C.prefer_huge_pages(workspace.data_ptr(), workspace.numel() * 4)
            self._compiled = key, program, workspace
        return self._compiled[1:]

    def map(self, z: torch.Tensor) -> torch.Tensor:
        """Return w [N, style_dim] for latents ``z`` [N, style_dim], both float32 on the CPU."""
        z = z.contiguous()
        w = torch.empty(z.shape[0], self.features)
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
        rows = [Part(mapping, *self.mapping_cost(n), "gemm"), Part(styles, *self.styles_cost(n), "gemm")]
        for i, (spent, name) in enumerate(zip(convs, self.algorithms)):
            rows.append(Part(spent, *self.conv_cost(i, n), name))
        return rows

    def images(
        self, ws: torch.Tensor, noise: Sequence[torch.Tensor | None], seconds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return new images [N, 3, R, R] for ``ws`` [N, L, style_dim], float32.

        Args:
            ws: one w per layer.
            noise: [1 or N, 1, r, r] or None for each convolution, before multiplication by the noise strength.
            seconds: float64 [1 + convolutions], filled with the times of the styles and of each convolution.
        """
        image = torch.empty(ws.shape[0], 3, self.resolution, self.resolution)
        if len(ws) == 0:
            return image
        program, workspace = self._run(ws.shape[0])
        if ws.stride(-1) != 1:
            ws = ws.contiguous()
        noise = [None if t is None else t.contiguous() for t in noise]
        program.run(
            ws=ws.data_ptr(), w_sample=ws.stride(0), w_layer=ws.stride(1),
            noise=[(0, 0) if t is None else (t.data_ptr(), 0 if t.shape[0] == 1 else t.stride(0)) for t in noise],
            image=image.data_ptr(), workspace=workspace.data_ptr(),
            seconds=0 if seconds is None else seconds.data_ptr(),
        )  # fmt: skip
        return image


def instruction_sets() -> list[str]:
    """Return the compiled instruction sets that this processor supports, best first: "v4", "v3" (x86-64), "generic"."""
    return list(_C.instruction_sets())
