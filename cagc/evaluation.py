"""Measures generators against their teacher: size, speed, image statistics, fidelity and disentanglement."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import content, runtime
from .common import distributed
from .common.callbacks import Track
from .common.checks import at_least_one
from .common.errors import CagcError
from .data.dataset import ImageDataset
from .distill.losses import PerceptualDistance, load_perceptual
from .editing.directions import find_directions
from .latency.measure import LatencyResult, measure_generators, settled
from .metrics import features as feature_registry
from .metrics.disentanglement import ATTRIBUTES, edit_leakage, linear_separability
from .metrics.fidelity import Measure
from .metrics.kid import kernel_distance
from .metrics.ppl import authors_path_length, perceptual_path_length
from .metrics.precision_recall import Manifold, density_coverage, precision_recall
from .metrics.reference import reference_statistics
from .metrics.shared import compare, drawn_statistics
from .metrics.similarity import perceptual_similarity, structural_similarity
from .models import AnyGenerator
from .variants import Variant

Figures = dict[str, float]


def _kernel(real: Tensor, drawn: Tensor) -> Figures:
    found = kernel_distance(real, drawn)
    return {"kernel_distance": found.mean, "kernel_distance_std": found.std}


_VECTORS: dict[str, Callable[[Tensor], Callable[[Tensor], Figures]]] = {
    "kid": lambda real: partial(_kernel, real),
    "precision-recall": lambda real: partial(precision_recall, Manifold(real, 3)),
    "density-coverage": lambda real: partial(density_coverage, Manifold(real, 5)),
}
SETS = ("frechet", *_VECTORS)
"""Metrics that compare a set of generated images with real ones."""
PAIRS = ("psnr", "ssim", "perceptual")
"""Metrics that compare each image with the teacher's, on the whole image and on the content."""
PATHS = {f"ppl-{space}{sampling}": (space, sampling) for space in "wz" for sampling in ("full", "end")}
METRICS = (*SETS, *PAIRS, *PATHS, "ppl-authors", "separability", "leakage")


@dataclass(frozen=True)
class Tools:
    """The networks that the chosen metrics use.

    Attributes:
        metrics: the chosen ones of :data:`METRICS`.
        extractor: feature extractor for :data:`SETS`; None if none of these is chosen.
        distance: perceptual distance for "perceptual" and path lengths; None if none of these is chosen.
        perceptual: name of the distance.
    """

    metrics: tuple[str, ...]
    extractor: feature_registry.FeatureExtractor | None
    distance: PerceptualDistance | None
    perceptual: str

    @classmethod
    def load(
        cls,
        metrics: Sequence[str],
        data: bool,
        features: str = feature_registry.DEFAULT_FEATURES,
        perceptual: str = feature_registry.DEFAULT_FEATURES,
        device: torch.device | str = "cpu",
    ) -> Tools:
        """Load the networks for ``metrics``, by default psnr and, if there is data, frechet.

        Raises:
            CagcError: a metric is unknown or needs data that is not there, or a package or weights are missing.
        """
        chosen = tuple(metrics) or (("frechet", "psnr") if data else ("psnr",))
        for name in chosen:
            if name not in METRICS:
                raise CagcError(f"metrics: got {name!r}, expected some of {', '.join(METRICS)}")
            if name in SETS and not data:
                raise CagcError(f"metrics: {name} compares with real images, and none were given (--data)")
        if "ssim" in chosen and importlib.util.find_spec("skimage") is None:
            raise CagcError("metrics: ssim needs the package scikit-image: pip install scikit-image")
        sets, perceived = any(m in SETS for m in chosen), any(m == "perceptual" or "ppl" in m for m in chosen)
        return cls(
            chosen,
            feature_registry.load(features, device) if sets else None,
            load_perceptual(perceptual, device) if perceived else None,
            perceptual,
        )


def evaluate(
    student: AnyGenerator,
    teacher: AnyGenerator,
    parser: content.ContentParser | Callable[..., Tensor] | str,
    data: ImageDataset | None = None,
    others: Mapping[str, AnyGenerator] | None = None,
    samples: int = 1000,
    pairs: int = 200,
    features: str = feature_registry.DEFAULT_FEATURES,
    batch: int = 1,
    repeats: int = 30,
    seed: int = 0,
    track: Track | None = None,
    metrics: Sequence[str] = (),
    perceptual: str = feature_registry.DEFAULT_FEATURES,
) -> dict[str, Variant]:
    """Measure generators against their teacher; return one row for "Teacher", each of ``others``, and "Student".

    Under ``torchrun`` the processes share the samples; latencies, separability and leakage are only in the first
    process's result.

    Args:
        student: generator of the teacher's resolution and latent size, on the teacher's device.
        teacher: the generator that it was compressed from.
        parser: content parser, or anything that :func:`cagc.content.load` accepts; applied to the teacher's images.
        data: real images, for :data:`SETS`.
        others: further generators by name, such as the student before distillation.
        samples: number of generated images, and limit of real ones, for :data:`SETS` and separability.
        pairs: number of images for :data:`PAIRS`, with the same latents and noise, and of pairs for a path length.
        features: feature space of :data:`SETS`, a name in ``cagc.metrics.features``.
        batch: images per timed call.
        repeats: timed calls of each generator, compiled by :func:`cagc.runtime.compile`. Calls of the generators
            alternate, so that ratios of their times hold on a noisy machine.
        seed: first seed of all latents.
        track: returns the progress callback for a title.
        metrics: some of :data:`METRICS`; by default psnr and, if there is data, frechet.
        perceptual: distance of "perceptual" and path lengths, a name of :func:`cagc.distill.losses.load_perceptual`.

    Raises:
        ValueError, TypeError: a number is below 1 or not an integer.
        CagcError: sizes disagree, no sample has content, or as in :meth:`Tools.load`.
    """
    at_least_one(samples=samples, pairs=pairs, batch=batch, repeats=repeats)
    tools = distributed.together(
        lambda: Tools.load(metrics, data is not None, features, perceptual, teacher.w_avg.device)
    )
    parser = content.load(parser, device=teacher.w_avg.device)
    generators = {"Teacher": teacher, **(others or {}), "Student": student}
    track = track or (lambda title: lambda done, total: None)
    figures, drawn = {name: {} for name in generators}, {name: drawing(g) for name, g in generators.items()}
    parts = [
        _fidelity(tools, drawn, parser, pairs, seed, track),
        _paths(tools, generators, pairs, seed, track),
        _sets(tools, drawn, data, samples, seed, track),
        _disentanglement(tools, generators, parser, samples, seed, track),
    ]
    for name, found in (item for part in parts for item in part.items()):
        figures[name] |= found
    times = _latency(generators, batch, repeats, track)
    return {name: Variant.of(name, g, latency=times.get(name), **figures[name]) for name, g in generators.items()}


class _Drawing:
    """A generator whose images its compiled program draws, its own up to rounding; all else is the generator's."""

    def __init__(self, generator: AnyGenerator, compiled: runtime.CompiledGenerator) -> None:
        self._generator, self._compiled = generator, compiled

    def __call__(self, *latents: Tensor | None, **options: Any) -> Tensor:
        """Images, as the generator's."""
        return self._compiled(*latents, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


def drawing(generator: AnyGenerator) -> _Drawing | AnyGenerator:
    """Return the generator with its images by the compiled program of the CPU, which draws them three times as fast.

    It is returned as it is where no such program runs it, on a GPU, and in training mode.
    """
    if generator.training or generator.w_avg.device.type != "cpu":
        return generator
    compiled = runtime.compile(generator, dtype=generator.w_avg.dtype, weights="float32")
    return generator if compiled.reason else _Drawing(generator, compiled)


def _latency(generators, batch: int, repeats: int, track: Track) -> Mapping[str, LatencyResult]:
    """Measure latencies in the first process while the others wait, because they would slow each other down.

    The measurement is repeated with twice as many calls if, because of noise, ratios disagree with the times.
    """

    def time() -> Mapping[str, LatencyResult]:
        if not distributed.is_main():
            return {}
        for calls in (repeats, 2 * repeats, 4 * repeats):
            found = measure_generators(generators, batch, calls, progress=track("Latency"))
            noisy = [name for name, latency in found.items() if not settled(found["Teacher"], latency)]
            if not noisy:
                return found
        warnings.warn(f"latency: the machine was too noisy to time {', '.join(noisy)} against Teacher", stacklevel=2)
        return found

    return distributed.together(time)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Make errors of a metric begin with ``name`` instead of "generator"."""
    try:
        yield
    except CagcError as error:
        if not str(error).startswith("generator: "):
            raise
        raise CagcError(f"{name}{str(error).removeprefix('generator')}") from None


def _fidelity(tools: Tools, generators, parser, samples: int, seed: int, track: Track) -> dict[str, Figures]:
    measures: dict[str, Measure] = {}
    if "ssim" in tools.metrics:
        measures["ssim"] = structural_similarity
    if "perceptual" in tools.metrics:
        measures[f"perceptual[{tools.perceptual}]"] = lambda a, b, mask: perceptual_similarity(
            a, b, tools.distance, mask
        )
    if not measures and "psnr" not in tools.metrics:
        return {}
    teacher, found = generators["Teacher"], {}
    for name, generator in generators.items():
        if generator is not teacher:
            title = f"Fidelity: {name}"
            compared = compare(generator, teacher, parser, samples, seed, track(title), measures)
            found[name] = {key: compared[key] for key in compared if key not in ("samples", "empty_masks")}
    return found


def _paths(tools: Tools, generators, samples: int, seed: int, track: Track) -> dict[str, Figures]:
    found: dict[str, Figures] = {name: {} for name in generators}
    for metric in (m for m in tools.metrics if "ppl" in m):
        key = f"{metric.replace('-', '_')}[{tools.perceptual}]"
        for name, generator in generators.items():
            progress = track(f"Path length: {name}")
            with _named(name):
                if metric in PATHS:
                    space, sampling = PATHS[metric]
                    found[name][key] = perceptual_path_length(
                        generator, tools.distance, samples, seed, progress=progress, space=space, sampling=sampling
                    )
                else:
                    found[name][key] = authors_path_length(generator, tools.distance, samples, seed, progress=progress)
    return found


def _sets(tools: Tools, generators, data, samples: int, seed: int, track: Track) -> dict[str, Figures]:
    if tools.extractor is None:
        return {}
    if samples < 2:
        raise CagcError(f"samples: got {samples}, expected at least 2 behind {', '.join(SETS)}")
    device, space = generators["Teacher"].w_avg.device, tools.extractor.name
    # The Fréchet distance needs only sums; the other metrics need the features of every sample.
    chosen = [metric for metric in tools.metrics if metric in _VECTORS]
    keep, count = bool(chosen), min(samples, len(data))
    real = reference_statistics(data, count, tools.extractor, device, track("Features: real images"), keep)
    against = [_VECTORS[metric](real.vectors.to(device)) for metric in chosen]
    result: dict[str, Figures] = {}
    for name, generator in generators.items():
        with _named(name):
            drawn = drawn_statistics(generator, samples, seed, tools.extractor, track(f"Features: {name}"), keep)
        result[name] = {"frechet": drawn.distance(real)} if "frechet" in tools.metrics else {}
        for measure in against:
            result[name] |= {f"{key}[{space}]": value for key, value in measure(drawn.vectors.to(device)).items()}
    return result


def _disentanglement(tools: Tools, generators, parser, samples: int, seed: int, track: Track) -> dict[str, Figures]:
    """Measure in the first process only, because each figure needs all samples."""

    def measure() -> dict[str, Figures]:
        found: dict[str, Figures] = {name: {} for name in generators}
        directions = find_directions(generators["Teacher"]) if "leakage" in tools.metrics else None
        for name, generator in generators.items():
            if "separability" in tools.metrics:
                progress = track(f"Separability: {name}")
                with _named(name):
                    planes = linear_separability(generator, parser, samples, seed, progress=progress)
                found[name] |= {f"separability[{what}]": value for what, value in planes.items() if what in ATTRIBUTES}
                found[name]["separability"] = planes["separability"]
            if directions is not None:
                progress = track(f"Leakage: {name}")
                with _named(name):
                    change = edit_leakage(
                        generator, directions, parser, max(2, samples // 10), seed=seed, progress=progress
                    )
                found[name] |= {f"edit_{what}": value for what, value in change.items()}
        return found

    return distributed.together(lambda: measure() if distributed.is_main() else {})
