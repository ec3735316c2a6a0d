"""Channel scores: content-aware, and the baselines that the paper's code compares with.

Groups and their order are those of ``generator.channel_groups()``: the constant input, then the output of every
convolution. A scorer is a plain function of a generator and batches of (ws, noise); :func:`score_channels` draws the
batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ... import content
from ...checkpoints import generator_hash
from ...common import distributed
from ...common.callbacks import Progress
from ...common.checks import at_least_one, choice
from ...common.errors import CagcError
from ...content import ContentCoverage
from ...models import AnyGenerator
from .activations import ACTIVATION_METRICS, activation_scores, map_statistics
from .consumers import BATCH_RULES, CONSUMERS
from .content_aware import ContentNoise, content_aware_scores, content_gradients, salt_and_pepper
from .diversity import PrincipalAxes, diversity_scores, principal_axes
from .document import ChannelScores
from .samples import SampleBatch, batch_sizes, draw_samples, stream
from .weights import effective_weights, l1_in_scores, l1_out_scores, l1_style_scores, random_scores

__all__ = [
    "METRICS",
    "ChannelScores",
    "PrincipalAxes",
    "SampleBatch",
    "activation_scores",
    "content_aware_scores",
    "content_gradients",
    "diversity_scores",
    "effective_weights",
    "l1_in_scores",
    "l1_out_scores",
    "l1_style_scores",
    "map_statistics",
    "principal_axes",
    "random_scores",
    "salt_and_pepper",
    "score_channels",
]


@dataclass(frozen=True)
class _Request:
    """Checked arguments of :func:`score_channels`."""

    generator: AnyGenerator
    parser: content.ContentParser | None
    seeds: Sequence[int]
    seed: int
    batch_size: int
    batch_rule: str
    consumers: str
    noise_probability: float
    noise: str
    truncation: float
    directions: int
    strength: float
    progress: Progress | None

    def check(self) -> None:
        choice("batch_rule", self.batch_rule, BATCH_RULES)
        choice("consumers", self.consumers, CONSUMERS)
        choice("noise", self.noise, ("random", "const", "none"))
        if not 0 < self.noise_probability <= 1:
            raise ValueError(f"noise_probability: got {self.noise_probability}, expected above 0 and at most 1")
        if not 0 < self.strength < math.inf:
            raise ValueError(f"strength: got {self.strength}, expected a number above 0")
        for name, weight in self.generator.named_parameters():
            if not weight.isfinite().all():
                raise CagcError(f"generator: {name} holds NaN or infinity, expected finite weights to score")

    def batches(self, noise: str, part: int = 0, parts: int = 1) -> Iterator[SampleBatch]:
        """All batches, or those of part ``part`` of ``parts``; a batch is split only where the score allows it."""
        sizes = batch_sizes(len(self.seeds), self.batch_size)
        if self.batch_rule == "per-sample":
            seeds = self.seeds[part::parts]
            sizes = batch_sizes(len(seeds), self.batch_size) if seeds else []
        else:
            starts = [sum(sizes[:i]) for i in range(len(sizes))][part::parts]
            sizes = sizes[part::parts]
            seeds = [seed for start, size in zip(starts, sizes) for seed in self.seeds[start : start + size]]
        return draw_samples(self.generator, seeds, sizes, self.truncation, noise)

    def shared(self, score: Callable[[Iterator[SampleBatch]], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """``score`` over all batches, combined from the share of each process; the same in every process."""
        world, rank = distributed.world_size(), distributed.rank()
        if world == 1:
            return score(self.batches(self.noise))
        counts = [len(self.seeds[part::world]) for part in range(world)]
        if self.batch_rule == "batch-sum":
            batches = len(batch_sizes(len(self.seeds), self.batch_size))
            counts = [len(range(part, batches, world)) for part in range(world)]
        own = distributed.together(lambda: score(self.batches(self.noise, rank, world)) if counts[rank] else None)
        found = [(count, part) for count, part in zip(counts, distributed.gather(own)) if count]
        if self.batch_rule == "batch-sum":
            return {name: sum(part[name] for _, part in found) for name in found[0][1]}
        return {name: sum(n * part[name] for n, part in found) / len(self.seeds) for name in found[0][1]}

    def report(self, done: int) -> None:
        if self.progress is not None:
            self.progress(min(done * distributed.world_size(), len(self.seeds)), len(self.seeds))

    def settings(self, *names: str) -> dict[str, Any]:
        return {"samples": len(self.seeds), "seed": self.seed} | {name: getattr(self, name) for name in names}


_Result = tuple[dict[str, torch.Tensor], dict[str, Any]]


def _content_aware(request: _Request) -> _Result:
    disturb = ContentNoise(request.parser, request.noise_probability, request.seed)
    scores = request.shared(
        lambda batches: content_aware_scores(
            request.generator, batches, disturb, request.batch_rule, request.consumers, request.report
        )
    )
    coverage = ContentCoverage.joined(distributed.gather(disturb.coverage))
    coverage.check(request.parser.name)
    names = ["batch_rule", "consumers", "noise_probability", "noise", "truncation"]
    names += ["batch_size"] if request.batch_rule == "batch-sum" else []
    found = {"content": request.parser.name, "content_area": round(coverage.mean_area, 6)}
    return scores, request.settings(*names) | found


def _diversity(request: _Request) -> _Result:
    axes = principal_axes(request.generator, seed=request.seed)

    def directions(batch: SampleBatch) -> torch.Tensor:
        return axes.draw(request.directions, stream("directions", request.seed, *batch.seeds))

    # Truncation scales the moves of w by the same factor as w.
    strength = request.strength * request.truncation
    scores = request.shared(
        lambda batches: diversity_scores(
            request.generator, batches, directions, strength, request.batch_rule, request.consumers, request.report
        )
    )
    names = ["batch_rule", "consumers", "directions", "strength", "noise", "truncation"]
    names += ["batch_size"] if request.batch_rule == "batch-sum" else []
    return scores, request.settings(*names)


def _activations(metric: str, request: _Request) -> _Result:
    world, rank = distributed.world_size(), distributed.rank()
    batches = replace(request, batch_rule="per-sample").batches(request.noise, rank, world)
    statistics = distributed.together(lambda: map_statistics(request.generator, batches, request.report))
    scores = activation_scores(distributed.gather(statistics), metric)
    return scores, request.settings("noise", "truncation")


def _l1_out(request: _Request) -> _Result:
    scores = l1_out_scores(request.generator, request.batches("none"), request.consumers)
    return scores, request.settings("consumers", "truncation")


def _l1_in(request: _Request) -> _Result:
    return l1_in_scores(request.generator, request.batches("none"), request.seed), request.settings("truncation")


def _l1_style(request: _Request) -> _Result:
    scores = l1_style_scores(request.generator, request.batches("none"), request.consumers)
    return scores, request.settings("consumers", "truncation")


def _random(request: _Request) -> _Result:
    return random_scores(request.generator, request.seed), {"seed": request.seed}


METRICS: dict[str, Callable[[_Request], _Result]] = {
    "content-aware": _content_aware,
    "diversity": _diversity,
    "l1-out": _l1_out,
    "l1-in": _l1_in,
    "l1-style": _l1_style,
    **{name: partial(_activations, name) for name in ACTIVATION_METRICS},
    "random": _random,
}


Scorer = Callable[[AnyGenerator, Iterator[SampleBatch]], Mapping[str, Any]]
"""(generator, samples) → scores [width] of each channel group, by its name; larger means keep."""


def _users(scorer: Scorer, request: _Request) -> _Result:
    """Scores of a user's function; raises CagcError unless they are one finite number per channel."""
    found, scores = scorer(request.generator, request.batches(request.noise)), {}
    widths = {group.name: group.width for group in request.generator.channel_groups()}
    if not isinstance(found, Mapping) or set(found) != set(widths):
        got = sorted(found) if isinstance(found, Mapping) else type(found).__name__
        raise CagcError(f"metric: got scores of {got}, expected a mapping with the groups {', '.join(widths)}")
    for name, width in widths.items():
        try:
            score = torch.as_tensor(found[name]).detach().to("cpu", torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CagcError(f"metric: got no numbers as scores of {name} ({error})") from None
        if tuple(score.shape) != (width,) or not score.isfinite().all():
            what = f"shape {list(score.shape)}" if tuple(score.shape) != (width,) else "NaN or infinity"
            raise CagcError(f"metric: got {what} as scores of {name}, expected {width} finite numbers")
        scores[name] = score
    return scores, request.settings("noise", "truncation", "batch_size")


def score_channels(
    generator: AnyGenerator,
    metric: str | Scorer = "content-aware",
    parser: content.ContentParser | Callable[..., torch.Tensor] | str | Path | None = None,
    samples: int = 400,
    batch_size: int = 10,
    batch_rule: str = "per-sample",
    noise_probability: float = 0.05,
    seed: int = 0,
    truncation: float = 1.0,
    consumers: str = "main",
    noise: str = "random",
    directions: int = 10,
    strength: float = 5.0,
    progress: Progress | None = None,
) -> ChannelScores:
    """Score every channel of ``generator``, on its device and without changing it; larger means keep.

    Args:
        generator: the generator to score.
        metric: a name of :data:`METRICS`, or a function of your own: called with the generator and an iterator of
            :class:`SampleBatch` (``generator.synthesis(batch.ws, noise=batch.noise)`` draws its images), it returns a
            score [width] for each group of ``generator.channel_groups()``, by name.
        parser: for "content-aware": anything that :func:`cagc.content.load` takes. With a parser that has its own seeds
            (a mask folder) the first ``samples`` of these are used.
        samples: images to draw, from seeds ``seed``, ``seed`` + 1, ...; the paper has 400, and 500 for "l1-out";
            DCP-GAN has at least 1,000 for "diversity".
        batch_size: images at a time. Scores depend on it under the "batch-sum" rule only.
        batch_rule, consumers: see :func:`content_aware_scores`, :func:`diversity_scores` and
            :func:`cagc.pruning.scores.consumers.combine_consumers`.
        noise_probability: probability that a content pixel is replaced.
        seed: seed of every random draw.
        truncation: truncation ψ of the latents.
        noise: "random" (maps drawn for each sample from its seed), "const" or "none".
        directions, strength: for "diversity": moves of w tried on each sample (on each batch under "batch-sum"), drawn
            from ``seed``, and their length.
        progress: called as progress(samples done, samples in all).

    Raises:
        ValueError, TypeError: an argument is not as above.
        CagcError: "content-aware" without a parser, with masks of wrong shape or values, or with none but empty masks;
            a function returned anything but a finite number per channel.
    """
    if not callable(metric):
        choice("metric", metric, METRICS)
    at_least_one(samples=samples, batch_size=batch_size, directions=directions)
    request = _Request(
        generator, parser, range(seed, seed + samples), seed, batch_size, batch_rule, consumers, noise_probability,
        noise, truncation, directions, strength, progress,
    )  # fmt: skip
    request.check()
    request = _with_content(request) if metric == "content-aware" else request
    scores, settings = _users(metric, request) if callable(metric) else METRICS[metric](request)
    name = getattr(metric, "__name__", type(metric).__name__) if callable(metric) else metric
    found = ChannelScores(name, scores, generator_hash(generator), settings)
    found.check_finite()
    return found


def _with_content(request: _Request) -> _Request:
    """The request with its parser loaded and, if the parser has its own seeds, with those."""
    if request.parser is None:
        raise CagcError("metric 'content-aware': needs a content parser, such as 'faces' or 'everything'; got none")
    parser = content.load(request.parser, device=request.generator.w_avg.device)
    known = list(getattr(parser, "seeds", request.seeds))
    return replace(request, parser=parser, seeds=known[: len(request.seeds)])
