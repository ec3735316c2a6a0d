"""The generator of SN-GAN as one call into the compiled module: float32, CPU, frozen weights.

Batch normalisation is folded into the convolution before it, or is part of what follows the sum of a block. A tile of a
nearest up-sampled image takes 25 of the 36 products of Winograd's F(4x4, 3x3); see csrc/include/cagc/sngan.h.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..synthesis import Part, ResidualWeights
from . import _C
from .synthesis import ALGORITHMS, WHY, instruction_sets

NEAREST = "winograd43 of the nearest up-sampled image"
WHY_NEAREST = "Winograd F(4x4, 3x3): 25 products, because one point of an up-sampled tile is zero"


class Program:
    """A :class:`~cagc_kernels.synthesis.SynthesisProgram` of an SN-GAN on the CPU. There is no mapping: w is z.

    Args:
        weights: weights of the generator.
        batch: batch size for which the algorithms are chosen; other sizes run too.
        instructions: one of :func:`~cagc_kernels.native.synthesis.instruction_sets`; None takes the best.

    Raises:
        ValueError: ``instructions`` is not available on this processor, or the sizes are not those of an SN-GAN.
    """

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, weights: ResidualWeights, batch: int = 1, instructions: str | None = None) -> None:
        available = instruction_sets()
        self.instructions = available[0] if instructions is None else instructions
        if self.instructions not in available:
            raise ValueError(f"instructions: got {instructions!r}, expected one of {', '.join(available)}")
        self.batch, self.resolution, self.z_dim = batch, weights.convs[-1].resolution, weights.projection.shape[3]
        alive: list[torch.Tensor] = []  # until the module has read them

        def address(t: torch.Tensor | None) -> int:
            alive.append(torch.empty(0) if t is None else t.detach().to("cpu", torch.float64).contiguous())
            return 0 if t is None else alive[-1].data_ptr()

        convs = [
            _C.ResidualConv(
                resolution=conv.resolution, in_channels=conv.weight.shape[1], out_channels=conv.weight.shape[0],
                shortcut_in=0 if conv.shortcut is None else conv.shortcut.shape[1], weight=address(conv.weight),
                bias=address(conv.bias), shortcut=address(conv.shortcut), scale=address(conv.scale),
                shift=address(conv.shift),
            )
            for conv in weights.convs
        ]  # fmt: skip
        self._network = _C.ResidualNetwork(
            convs=convs, z_dim=self.z_dim, width=weights.projection.shape[0], projection=address(weights.projection),
            projection_bias=address(weights.projection_bias), scale=address(weights.scale),
            shift=address(weights.shift), instructions=self.instructions, batch=batch,
        )  # fmt: skip
        self._layers = self._network.layers
        self._compiled: tuple[tuple[int, int], _C.ResidualSynthesis] | None = None

    def __reduce_ex__(self, protocol: object):
        raise TypeError("a program of frozen weights holds addresses of this process: it cannot be copied or pickled")

    @property
    def widths(self) -> list[tuple[int, int]]:
        """Input and output channels of each convolution of the blocks, padded to whole vectors."""
        return [(layer.in_channels, layer.out_channels) for layer in self._layers[:-1]]

    @property
    def layouts(self) -> list[str]:
        """Memory layout of the activations of each convolution of the blocks."""
        return ["NHWC"] * (len(self._layers) - 1)

    @property
    def memory(self) -> int:
        """Bytes of packed weights and buffers."""
        return self._network.bytes + (0 if self._compiled is None else self._compiled[1].bytes)

    def map(self, z: torch.Tensor) -> torch.Tensor:
        """Return ``z`` [N, z_dim]."""
        return z

    def draw(self, batch: int, shapes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Return an empty list: this model has no noise."""
        return []

    def describe(self, batch: int) -> list[tuple[str, str]]:
        """Return the algorithm with the instruction set of each convolution of the blocks, and the reason for it."""
        names = [(NEAREST, WHY_NEAREST) if layer.up == 2 else self._plain(layer) for layer in self._layers[:-1]]
        return [(f"{name} ({self.instructions})", why) for name, why in names]

    def _plain(self, layer: _C.StyledConv) -> tuple[str, str]:
        name = ALGORITHMS[layer.algorithm]
        return name, WHY[name]

    def images(
        self, ws: torch.Tensor, noise: Sequence[torch.Tensor | None] = (), seconds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return new images [N, 3, R, R] for ``ws`` [N, 1, z_dim], float32; there is no noise.

        ``seconds``: float64 [1 + convolutions], filled with the times of the projection and of each convolution.
        """
        z = ws[:, 0].contiguous()
        image = torch.empty(len(z), 3, self.resolution, self.resolution)
        if len(z) == 0:
            return image
        key = len(z), torch.get_num_threads()
        if self._compiled is None or self._compiled[0] != key:
            self._compiled = key, _C.ResidualSynthesis(network=self._network, batch=key[0], threads=key[1])
        self._compiled[1].run(z.data_ptr(), image.data_ptr(), 0 if seconds is None else seconds.data_ptr())
        return image

    def generate(
        self,
        z: torch.Tensor,
        noise: Sequence[torch.Tensor | None] = (),
        psi: float = 1,
        w_avg: torch.Tensor | None = None,
        cutoff: int | None = None,
    ) -> torch.Tensor:
        """Return new images [N, 3, R, R] for ``z`` [N, z_dim], which ``psi`` truncates unless ``cutoff`` is 0."""
        if psi != 1 and cutoff != 0:
            z = z * psi if w_avg is None else torch.lerp(w_avg.expand_as(z), z, psi)
        return self.images(z[:, None], noise)

    def profile(self, z: torch.Tensor, num_ws: int, noise: Sequence[torch.Tensor | None]) -> list[Part]:
        """Run one call on ``z``; return the costs of the projection, of no styles, and of each block's convolutions.

        A shortcut belongs to the convolution that it is added to, the last convolution to the one before it.
        """
        seconds = torch.zeros(1 + len(self._layers), dtype=torch.float64)
        self.images(z[:, None], noise, seconds)
        projection, *spent = seconds.tolist()
        n, first, costs = len(z), self._layers[0].in_channels, []
        for index, layer in enumerate(self._layers):
            inputs, out, r = layer.in_channels, layer.out_channels, layer.resolution
            direct = ALGORITHMS[layer.algorithm] == "direct3"
            matrices, tiles = (9, r * r) if direct else (25 if layer.up == 2 else 36, (r // 4) ** 2)
            multiplications, weights = n * matrices * tiles * inputs * out, matrices * inputs * out
            if index % 2 and index + 1 < len(self._layers):
                below = self._layers[index - 1].in_channels
                multiplications, weights = multiplications + n * (r // 2) ** 2 * below * out, weights + below * out
            moved = 4 * (weights + n * ((r // layer.up) ** 2 * inputs + r * r * out))
            costs.append((multiplications, moved))
        names = [name for name, _ in self.describe(n)]
        spent[-2:] = [sum(spent[-2:])]
        costs[-2:] = [(costs[-2][0] + costs[-1][0], costs[-2][1] + costs[-1][1])]
        weights = 16 * first * self.z_dim
        rows = [Part(projection, n * weights, 4 * weights, "dense"), Part(0.0, 0, 0, "none")]
        return rows + [Part(time, *cost, name) for time, cost, name in zip(spent, costs, names, strict=True)]
