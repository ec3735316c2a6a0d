"""Random numbers of a training step, seeded per sample: independent of the process and batch that computes a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..common import distributed
from ..common.seeds import derived_seed
from .latents import Latents


@dataclass(frozen=True)
class Draws:
    """Random numbers of one iteration; parts that the iteration does not need are None.

    Attributes:
        generator: latents of the images that are compared with the teacher's.
        discriminator: latents of the images that the discriminator sees as fake.
        path: latents of the path length images.
        path_noise: standard normal, shaped as those images.
        offsets: [N, w_dim], moves of the w of ``generator`` that the relation loss compares.
        augment: numbers for the augmentation, by the images that it is applied to: "real", "fake", "generator", "r1".
    """

    generator: Latents
    discriminator: Latents | None = None
    path: Latents | None = None
    path_noise: Tensor | None = None
    offsets: Tensor | None = None
    augment: Mapping[str, Tensor] = field(default_factory=dict)


class SampleStreams:
    """Random numbers of the samples ``numbers`` of one part of one step, on ``device``.

    Every number is a function of the seed, the step, the part, its name and its sample: any number of processes draws
    the same, and a resumed run needs no generator state. CPU and GPU draw different numbers.
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
        """CPU random generator for decisions that apply to the whole batch."""
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

    def noise(self, name: str, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Noise maps [len(self), 1, h, w] of ``shapes``."""
        sizes = [h * w for h, w in shapes]
        maps = self.normal(name, sum(sizes)).split(sizes, dim=1)
        return [m.reshape(-1, 1, h, w) for m, (h, w) in zip(maps, shapes)]

    def integers(self, name: str, high: int) -> list[int]:
        """One number in [0, high) for each sample."""
        return [derived_seed(*self._key, name, number) % high for number in self.numbers]


@dataclass(frozen=True)
class Layout:
    """The samples of a batch that this process computes, split into forward passes.

    Attributes:
        batch: number of samples over all processes.
        numbers: indices of this process's samples, in 0 to ``batch`` - 1.
        passes: one slice of ``numbers`` per forward pass.
    """

    batch: int
    numbers: tuple[int, ...]
    passes: tuple[slice, ...]

    @classmethod
    def of(cls, batch: int, group: int = 1, micro_batch: int | None = None) -> Layout:
        """This process's share of ``batch`` in passes of at most ``micro_batch``; ``group``: see :func:`shard`."""
        processes, count = distributed.world_size(), 1
        if micro_batch is not None:
            count = -(-batch // (processes * micro_batch))
        first = distributed.rank() * count
        parts = [shard(batch, group, processes * count, first + i) for i in range(count)]
        starts = [sum(map(len, parts[:i])) for i in range(count)]
        passes = tuple(slice(start, start + len(part)) for start, part in zip(starts, parts) if part)
        return cls(batch, tuple(number for part in parts for number in part), passes)

    def share(self, part: slice) -> float:
        """Weight of one of ``passes`` in a mean over the batch."""
        return (part.stop - part.start) / self.batch


def shard(batch: int, group: int, shards: int, index: int) -> list[int]:
    """Indices of the samples of shard ``index``, when ``shards`` divide a batch.

    The discriminator takes statistics over groups of ``group`` images at a distance of ``batch / group``. If there are
    enough groups, a shard gets whole groups, in an order for which it forms the same groups from its own images.
    """
    if keeps_groups(batch, group, shards):
        columns, width = batch // group, batch // group // shards
        return [row * columns + index * width + i for row in range(group) for i in range(width)]
    return list(range(batch * index // shards, batch * (index + 1) // shards))


def keeps_groups(batch: int, group: int, shards: int) -> bool:
    """Whether a batch can be divided into ``shards`` without splitting a group of the minibatch standard deviation."""
    return batch % (group * shards) == 0
