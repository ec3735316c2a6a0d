"""Seconds to score every channel of a generator by 400 images.

``pytest benchmarks/bench_scores.py`` runs the content-aware score and the baselines on the embedded 64 px teacher, and
on a GPU on the published 256 px generator (random weights, so that everything it draws is content).
"""

from __future__ import annotations

from statistics import median

import pytest

from cagc import content
from cagc.metrics.macs import total_macs
from cagc.models import GeneratorConfig
from cagc.runs import load_teacher
from cagc.scores import METRICS, score_channels

from . import generators
from .harness import default_device, paired
from .results import make_row

CUDA = default_device() == "cuda"
CASES = ("faces64", "256 px") if CUDA else ("faces64",)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
def test_score(benchmark, session, case, metric):
    if session.quick and metric not in ("content-aware", "l1-out"):
        pytest.skip("--quick: two scores")
    samples = 20 if session.quick else 400
    if case == "faces64":
        generator = load_teacher(None, session.device)[0]
    else:
        generator = generators.random_generator(GeneratorConfig.uniform(256), session.device)
    parser = content.load("faces" if case == "faces64" else "everything", device=session.device)
    score = lambda: score_channels(generator, metric, parser, samples)  # noqa: E731
    times = paired({metric: score}, session.rounds(3 if CUDA else 1), warmup=int(CUDA), device=session.device)
    seconds = median(times[metric])
    named = {"generator": case, "samples": samples}
    figures = {"seconds": seconds, "samples/s": samples / seconds}
    shape = (samples, 3, generator.config.resolution, generator.config.resolution)
    macs = samples * total_macs(generator)  # of one forward pass of all samples
    row = make_row("scores", metric, named, times, session.device, shape=shape, macs=macs, figures=figures)
    session.publish(benchmark, row, times[metric])
