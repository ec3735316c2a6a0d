"""What a compression cost and what it bought: size, speed, image statistics and fidelity, measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from . import content
from .distill.data import ImageDataset
from .metrics import features as feature_registry
from .metrics.fidelity import evaluate_pair
from .metrics.frechet import FeatureStatistics, dataset_statistics, generator_statistics
from .metrics.latency import measure_generators
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
        name: evaluate_pair(g, teacher, parser, fidelity_samples, seed, progress=track(f"Fidelity: {name}"))
        for name, g in generators.items()
        if g is not teacher
    }
    frechet = _frechet(generators, data, samples, features, seed, track)
    latency = measure_generators(generators, batch, repeats, progress=track("Latency"))
    variants = {}
    for name, generator in generators.items():
        measured = {"latency": latency[name], "frechet": frechet.get(name)}
        if name in fidelity:
            keys = ("content_l1", "content_psnr", "image_l1", "content_coverage")
            measured |= {key: fidelity[name][key] for key in keys}
        variants[name] = Variant.of(name, generator, **measured)
    return variants


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
    real = dataset_statistics(data, count, extractor, device=device, progress=track("Features: real images"))

    def statistics(name: str) -> FeatureStatistics:
        return generator_statistics(generators[name], samples, seed, extractor, progress=track(f"Features: {name}"))

    return {name: statistics(name).distance(real) for name in generators}
