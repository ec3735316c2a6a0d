"""Figures whose samples are shared by the processes of `torchrun`; every process gets all of the result.

One process alone computes what the unshared functions do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .. import distributed
from .features import FeatureExtractor
from .fidelity import compare_pair, seeds_known, summarize
from .frechet import FeatureStatistics, Progress, dataset_statistics, generator_statistics


def compare(
    student: nn.Module,
    teacher: nn.Module,
    parser: Callable[..., Tensor],
    samples: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """`evaluate_pair`, its samples shared by all processes."""
    seeds = seeds_known(parser, samples, seed)
    own = seeds[distributed.part_of(len(seeds))]
    figures = distributed.together(lambda: compare_pair(student, teacher, parser, own, progress=progress))
    parts = [part for part in distributed.gather(figures) if part]
    return summarize({key: torch.cat([part[key] for part in parts]) for key in parts[0]})


def shared_statistics(
    count: int, statistics: Callable[[slice], FeatureStatistics], features: FeatureExtractor
) -> FeatureStatistics:
    """Statistics of `count` samples of which each process gives `statistics` of a slice."""
    own = distributed.part_of(count)
    part = distributed.together(lambda: statistics(own) if own.stop > own.start else FeatureStatistics(features.name))
    first, *others = distributed.gather(part)
    for other in others:
        first.merge(other)
    return first


def real_statistics(
    data: Sequence[Tensor],
    samples: int,
    features: FeatureExtractor,
    device: torch.device,
    progress: Progress | None = None,
) -> FeatureStatistics:
    """Statistics of the first `samples` real images, shared by all processes."""

    def statistics(part: slice) -> FeatureStatistics:
        return dataset_statistics(data, features=features, device=device, progress=progress, part=part)

    return shared_statistics(samples, statistics, features)


def drawn_statistics(
    generator: nn.Module, samples: int, seed: int, features: FeatureExtractor, progress: Progress | None = None
) -> FeatureStatistics:
    """Statistics of `samples` images of `generator`, shared by all processes."""

    def statistics(part: slice) -> FeatureStatistics:
        count = part.stop - part.start
        return generator_statistics(generator, count, seed + part.start, features, progress=progress)

    return shared_statistics(samples, statistics, features)
