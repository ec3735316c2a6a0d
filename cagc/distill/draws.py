"""Random numbers of a training step, by sample: they depend neither on who computes a sample nor on its batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..seeds import derived_seed
from .latents import Latents


@dataclass(frozen=True)
class Draws:
    """Random numbers of one iteration; a part that the iteration has no use for is None.

    Attributes:
        generator: latents of the images that are compared with the teacher's.
        discriminator: latents of the images that the discriminator sees as fake.
        path: latents of the path length images.
        path_noise: standard normal, shaped as those images.
        augment: numbers of the augmentation, by the images that they are for: "real", "fake", "generator", "r1".
    """

    generator: Latents
    discriminator: Latents | None = None
    path: Latents | None = None
    path_noise: Tensor | None = None
    augment: Mapping[str, Tensor] = field(default_factory=dict)


class SampleStreams:
    """Random numbers of the samples ``numbers`` of one part of one step, on ``device``.

    Every number is a function of the seed, the step, the part, its name and its sample: a step is drawn alike by one
    process and by many, and a resumed run needs no state of a generator. CPU and GPU draw different numbers.
    """

    def __init__(
        self, seed: int, step: int, part: str, numbers: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        self.numbers = list(numbers)
        self.device = torch.device(device)
        self._key = (seed, step, part)
        self._rng = torch.Generator(self.device)

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, name: str) -> torch.Generator:
        """CPU generator for decisions that all samples of the batch share."""
        return torch.Generator().manual_seed(derived_seed(*self._key, name))

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers [len(self), *shape], float32."""
        out = torch.empty(len(self), *shape, device=self.device)
        for row, number in zip(out, self.numbers):
            row.normal_(generator=self._rng.manual_seed(derived_seed(*self._key, name, number)))
        return out

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Numbers [len(self), *shape], float32, uniform in [0, 1)."""
        out = torch.empty(len(self), *shape, device=self.device)
        for row, number in zip(out, self.numbers):
            row.uniform_(generator=self._rng.manual_seed(derived_seed(*self._key, name, number)))
        return out

    def integers(self, name: str, high: int) -> list[int]:
        """One number in [0, high) for each sample."""
        return [derived_seed(*self._key, name, number) % high for number in self.numbers]


def shard(batch: int, group: int, shards: int, index: int) -> list[int]:
    """Samples of shard ``index`` of a batch that ``shards`` share.

    The discriminator takes statistics over groups of ``group`` images that stand ``batch / group`` apart. A shard gets
    whole groups, in such an order that it finds the same groups on its own, if there are enough of them.
    """
    columns = batch // group
    if batch % group == 0 and columns % shards == 0:
        width = columns // shards
        return [row * columns + index * width + i for row in range(group) for i in range(width)]
    return list(range(batch * index // shards, batch * (index + 1) // shards))
