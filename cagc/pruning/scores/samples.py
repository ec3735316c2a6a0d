"""Latents and noise of the images that scores are averaged over; each image depends on its own seed only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ...common.seeds import derived_seed, inputs_of_seeds, noise_batch
from ...models import AnyGenerator, Noise


@dataclass(frozen=True)
class SampleBatch:
    """Arguments of one call of ``generator.synthesis``.

    Attributes:
        ws: [n, num_ws, w_dim].
        noise: "const", "none", or a tensor [1 or n, 1, h, w] per convolution.
        seeds: seeds that the images were drawn from, for parsers that look up masks by seed.
    """

    ws: torch.Tensor
    noise: Noise
    seeds: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.ws.shape[0]

    def singles(self) -> Iterator[SampleBatch]:
        """One batch per sample."""
        for i in range(len(self)):
            row = slice(i, i + 1)
            noise = self.noise if isinstance(self.noise, str) else [n[row] if n.shape[0] > 1 else n for n in self.noise]
            yield SampleBatch(self.ws[row], noise, self.seeds and self.seeds[row])


def stream(purpose: str, *seeds: int) -> torch.Generator:
    """CPU random generator for ``purpose``, independent of those for other purposes with the same seeds."""
    return torch.Generator().manual_seed(derived_seed(purpose, *map(int, seeds)))


def batch_sizes(samples: int, batch_size: int) -> list[int]:
    """Sizes of batches: ``batch_size``, and the remainder added to the last, as in the paper's code (25 → 10, 15)."""
    count = max(1, samples // batch_size)
    sizes = [batch_size] * (count - 1)
    return [*sizes, samples - sum(sizes)]


def draw_samples(
    generator: AnyGenerator, seeds: Sequence[int], sizes: Iterable[int], truncation: float = 1.0, noise: str = "random"
) -> Iterator[SampleBatch]:
    """Batches of ``sizes`` over ``seeds``: z from each seed, and with noise "random" noise maps from each seed too."""
    start = 0
    for size in sizes:
        part = tuple(int(seed) for seed in seeds[start : start + size])
        start += size
        z, c = inputs_of_seeds(generator, part)
        with torch.no_grad():
            ws = generator.mapping(z, c, truncation_psi=truncation)
        yield SampleBatch(ws, noise_batch(generator, part) if noise == "random" else noise, part)
