"""What a compression cost and what it bought: size, speed, image statistics and fidelity, measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from . import content, distributed
from .distill.data import ImageDataset
from .metrics import features as feature_registry
from .metrics.features import FeatureExtractor
from .metrics.fidelity import compare_pair, seeds_known, summarize
from .metrics.frechet import FeatureStatistics, Progress, dataset_statistics, generator_statistics
from .metrics.latency import LatencyResult, measure_generators
from .models import Generator
from .report import Variant

Track = Callable[[str], Callable[[int, int], None]]


def evaluate(
    student: Generator,
    teacher: Generator,
    parser: content.ContentParser | Callable[..., Tensor] | str,
    data: ImageDataset | None = None,
    others: Mapping[str, Generator] | None = None,
    samples: int = 1000,
    fidelity_samples: int = 200,
    features: str = feature_registry.DEFAULT_FEATURES,
    batch: int = 1,
    repeats: int = 30,
    seed: int = 0,
    track: Track | None = None,
) -> dict[str, Variant]:
    """Measure generators against their teacher; keys "Teacher", those of ``others``, "Student".

    Under ``torchrun`` the processes share the samples; the first one alone has the latencies.

    Args:
        student: generator of the teacher's resolution and latent size, on the teacher's device.
        teacher: the generator it was compressed from.
        parser: anything that :func:`cagc.content.load` takes; asked on the teacher's images.
        data: real images for the Fréchet distance; None leaves that out.
        others: further generators, such as the student before distillation.
        samples: generated images, and real ones at most, behind a Fréchet distance.
        fidelity_samples: images compared with the teacher's, on the same latents and noise.
        features: feature space of the Fréchet distance, a name of ``cagc.metrics.features``.
        batch: images in one timed call.
        repeats: timed calls of each generator, interleaved, so that their ratios hold on a noisy machine.
        seed: first seed of all latents.
        track: ``track(title)`` gives a callback ``(done, total)``.

    Raises:
        CagcError: sizes disagree, no sample has content, or the features are not installed.
    """
    parser = content.load(parser, device=teacher.w_avg.device)
    generators = {"Teacher": teacher, **(others or {}), "Student": student}
    track = track or (lambda title: lambda done, total: None)
    fidelity = {
        name: compare(g, teacher, parser, fidelity_samples, seed, track(f"Fidelity: {name}"))
        for name, g in generators.items()
        if g is not teacher
    }
    frechet = _frechet(generators, data, samples, features, seed, track)

    def time() -> Mapping[str, LatencyResult]:
        return measure_generators(generators, batch, repeats, progress=track("Latency"))

    # One process alone, while the others wait: they would slow each other down.
    latency = distributed.together(lambda: time() if distributed.is_main() else {})
    variants = {}
    for name, generator in generators.items():
        measured = {"latency": latency.get(name), "frechet": frechet.get(name)}
        if name in fidelity:
            keys = ("content_l1", "content_psnr", "image_l1", "content_coverage")
            measured |= {key: fidelity[name][key] for key in keys}
        variants[name] = Variant.of(name, generator, **measured)
    return variants


def compare(
    student: Generator,
    teacher: Generator,
    parser: content.ContentParser,
    samples: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """:func:`cagc.metrics.fidelity.evaluate_pair`, its samples shared by all processes."""
    seeds = seeds_known(parser, samples, seed)
    own = seeds[distributed.part_of(len(seeds))]
    figures = distributed.together(lambda: compare_pair(student, teacher, parser, own, progress=progress))
    parts = [part for part in distributed.gather(figures) if part]
    return summarize({key: torch.cat([part[key] for part in parts]) for key in parts[0]})


def shared_statistics(
    count: int, statistics: Callable[[slice], FeatureStatistics], features: FeatureExtractor
) -> FeatureStatistics:
    """Statistics of ``count`` samples of which each process gives ``statistics`` of a slice."""
    own = distributed.part_of(count)
    part = distributed.together(lambda: statistics(own) if own.stop > own.start else FeatureStatistics(features.name))
    first, *others = distributed.gather(part)
    for other in others:
        first.merge(other)
    return first


def real_statistics(
    data: ImageDataset, samples: int, features: FeatureExtractor, device: torch.device, progress: Progress | None = None
) -> FeatureStatistics:
    """Statistics of the first ``samples`` real images, shared by all processes."""

    def statistics(part: slice) -> FeatureStatistics:
        return dataset_statistics(data, features=features, device=device, progress=progress, part=part)

    return shared_statistics(samples, statistics, features)


def drawn_statistics(
    generator: Generator, samples: int, seed: int, features: FeatureExtractor, progress: Progress | None = None
) -> FeatureStatistics:
    """Statistics of ``samples`` images of ``generator``, shared by all processes."""

    def statistics(part: slice) -> FeatureStatistics:
        count = part.stop - part.start
        return generator_statistics(generator, count, seed + part.start, features, progress=progress)

    return shared_statistics(samples, statistics, features)


def _frechet(
    generators: Mapping[str, Generator],
    data: ImageDataset | None,
    samples: int,
    features: str,
    seed: int,
    track: Track,
) -> dict[str, float]:
    if data is None:
        return {}
    device = generators["Teacher"].w_avg.device
    extractor = feature_registry.load(features, device)
    count = min(samples, len(data))
    real = real_statistics(data, count, extractor, device, track("Features: real images"))
    return {
        name: drawn_statistics(generator, samples, seed, extractor, track(f"Features: {name}")).distance(real)
        for name, generator in generators.items()
    }
