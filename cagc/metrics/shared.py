"""Metrics whose samples are divided among the processes of `torchrun`; every process gets the full result.

A single process computes the same as the functions that are not shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..common import distributed
from ..common.callbacks import Progress
from .features import FeatureExtractor
from .fidelity import Measure, compare_pair, seeds_known, summarize
from .frechet import FeatureStatistics, generator_statistics


def compare(
    student: nn.Module,
    teacher: nn.Module,
    parser: Callable[..., Tensor],
    samples: int,
    seed: int = 0,
    progress: Progress | None = None,
    measures: Mapping[str, Measure] | None = None,
) -> dict[str, float]:
    """`evaluate_pair` with its samples divided among all processes."""
    seeds = seeds_known(parser, samples, seed)
    own = seeds[distributed.part_of(len(seeds))]
    figures = distributed.together(
        lambda: compare_pair(student, teacher, parser, own, progress=progress, measures=measures)
    )
    parts = [part for part in distributed.gather(figures) if part]
    return summarize({key: torch.cat([part[key] for part in parts]) for key in parts[0]})


def shared_statistics(
    count: int, statistics: Callable[[slice], FeatureStatistics], features: FeatureExtractor, keep: bool = False
) -> FeatureStatistics:
    """Statistics of `count` samples; each process computes `statistics` of its slice, and they are merged."""
    own, empty = distributed.part_of(count), FeatureStatistics(features.name, kept=[] if keep else None)
    part = distributed.together(lambda: statistics(own) if own.stop > own.start else empty)
    first, *others = distributed.gather(part)
    for other in others:
        first.merge(other)
    return first


def drawn_statistics(
    generator: nn.Module,
    samples: int,
    seed: int,
    features: FeatureExtractor,
    progress: Progress | None = None,
    keep: bool = False,
) -> FeatureStatistics:
    """Statistics of `samples` images of `generator`, with `keep` including their features, shared by all processes."""

    def statistics(part: slice) -> FeatureStatistics:
        count = part.stop - part.start
        return generator_statistics(generator, count, seed + part.start, features, progress=progress, keep=keep)

    return shared_statistics(samples, statistics, features, keep)
