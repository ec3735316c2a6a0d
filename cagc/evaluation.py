"""What a compression cost and what it bought: size, speed, image statistics and fidelity, measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from . import content, distributed
from .distill.data import ImageDataset
from .metrics import features as feature_registry
from .metrics.latency import LatencyResult, measure_generators
from .metrics.shared import compare, drawn_statistics, real_statistics
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
        repeats: timed calls of each generator, compiled by :func:`cagc.runtime.compile` and interleaved, so that their
            ratios hold on a noisy machine.
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
