"""Endless batches of training images in an order that can be resumed at any sample."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..common.errors import CagcError
from ..models.labels import Labels

_WORKERS = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Images(Protocol):
    """What a stream draws from. If it is not `is_cached`, worker processes read it, so it must be picklable."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Tensor: ...


class ShuffledSampler(Sampler[list[tuple[int, bool]]]):
    """Yields endless batches of (image index, mirrored), with a new order and new mirroring in every epoch.

    Sample number k depends only on (seed, k). Iteration begins at sample `position`; a batch may span two epochs.
    `numbers` are the samples of each batch that this process delivers; by default all.
    """

    def __init__(self, images: int, batch: int, seed: int, flip: bool) -> None:
        self.images, self.batch, self.seed, self.flip = images, batch, seed, flip
        self.numbers: Sequence[int] = range(batch)
        self.position = 0
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    def _draw(self, number: int) -> tuple[int, bool]:
        epoch, offset = divmod(number, self.images)
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(self.images)
            self._epoch = epoch, order, rng.random(self.images) < 0.5
        return int(self._epoch[1][offset]), bool(self.flip and self._epoch[2][offset])

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        start = self.position
        while True:
            yield [self._draw(start + number) for number in self.numbers]
            start += self.batch


class _Mirrored(Dataset[tuple[Tensor, list[int]]]):
    """Fetches a whole batch of (image index, mirrored) at once, as uint8 if the images have a method `pixels`.

    The images come with their indices.
    """

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitems__(self, drawn: list[tuple[int, bool]]) -> tuple[Tensor, list[int]] | CagcError:
        read = getattr(self.images, "pixels", self.images.batch)
        try:
            indices = [index for index, _ in drawn]
            found = read(indices)
        except CagcError as error:  # returned, because the loader would add a worker's traceback to its message
            return error
        mirrored = torch.tensor([flip for _, flip in drawn], device=found.device)
        return torch.where(mirrored[:, None, None, None], found.flip(3), found), indices


def _as_it_is(batch: Any) -> Any:
    return batch


class ImageStream(Iterator[Tensor]):
    """Endless batches [batch, 3, R, R], float32 in [-1, 1], of a data set, drawn by `ShuffledSampler`.

    A stream restored from `state_dict` continues exactly where it was, even in the middle of an epoch. Images that are
    not cached are decoded ahead of their use by the worker processes of a `DataLoader`. `labels` are those of the
    images, in their order; :meth:`take` returns them with each batch.

    Raises:
        CagcError: the set is smaller than a batch. ValueError: `batch` is below 1.
    """

    def __init__(
        self, dataset: Images, batch: int, seed: int = 0, flip: bool = True, labels: Labels | None = None
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch: got {batch}, expected at least 1")
        if len(dataset) < batch:
            raise CagcError(f"data: {len(dataset)} usable images are fewer than the batch of {batch}")
        self.sampler, self.labels = ShuffledSampler(len(dataset), batch, seed, flip), labels
        workers = 0 if getattr(dataset, "is_cached", True) else _WORKERS
        self._loader = DataLoader(
            _Mirrored(dataset), batch_sampler=self.sampler, collate_fn=_as_it_is, num_workers=workers,
            prefetch_factor=1 if workers else None,
            generator=torch.Generator(),  # keeps the loader from drawing from the global generator
        )  # fmt: skip
        self._batches: Iterator[tuple[Tensor, list[int]] | CagcError] | None = None

    @property
    def position(self) -> int:
        """Number of samples delivered so far by all processes together."""
        return self.sampler.position

    def __next__(self) -> Tensor:
        return self.take()[0]

    def take(self) -> tuple[Tensor, Tensor | None]:
        """The next batch, and its labels [batch, c_dim]; None for a stream without labels."""
        if self._batches is None:
            self._batches = iter(self._loader)
        found = next(self._batches)
        if isinstance(found, CagcError):
            raise found
        images, indices = found
        # The running iterator is batches ahead, so the delivered samples are counted here.
        self.sampler.position += self.sampler.batch
        images = images if images.is_floating_point() else images.float().div_(127.5).sub_(1)
        return images, None if self.labels is None else self.labels.take(indices)

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's position (samples drawn) and the settings that it depends on, as JSON values."""
        sampler = self.sampler
        return {"position": sampler.position, "seed": sampler.seed, "flip": sampler.flip, "images": sampler.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Raises CagcError if it has another seed, flip setting or number of images."""
        for key, value in self.state_dict().items():
            if key not in state:
                raise CagcError(f"data: the saved position has no entry {key!r}")
            if key != "position" and state[key] != value:
                raise CagcError(f"data: the saved position is for {key} = {state[key]}, this run has {value}")
        self.sampler.position = int(state["position"])
        self._batches = None
