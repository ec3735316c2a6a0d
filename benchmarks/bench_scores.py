"""Times the scoring of all channels of a generator on 400 images.

``pytest benchmarks/bench_scores.py`` runs the content-aware score and the baselines on the embedded 64 px teacher, and
on a GPU also on the published 256 px generator (random weights, so the whole image counts as content).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from cagc import content
from cagc.models import GeneratorConfig
from cagc.pruning.scores import METRICS, score_channels
from cagc.runs import load_teacher

from . import generators
from .counting import counted
from .harness import default_device, paired

CUDA = default_device() == "cuda"
CASES = ("faces64", "256 px") if CUDA else ("faces64",)


def work(score: Callable[[int], object], samples: int) -> tuple[int, int]:
    """Return (MACs, bytes) of a score, extrapolated from one and two batches of 10 samples."""
    one, two = (counted(partial(score, count)) for count in (10, 20))
    return tuple(a + (b - a) * (samples - 10) // 10 for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
def test_score(benchmark, session, case, metric):
    if session.quick and metric not in ("content-aware", "l1-out"):
        pytest.skip("--quick: two scores")
    samples = 20 if session.quick else 400
    if case == "faces64":
        generator = load_teacher(Path("faces64"), session.device)[0]
    else:
        generator = generators.random_generator(GeneratorConfig.uniform(256), session.device)
    parser = content.load("faces" if case == "faces64" else "everything", device=session.device)
    score = lambda count=samples: score_channels(generator, metric, parser, count)  # noqa: E731
    times = paired({metric: score}, session.rounds(3 if CUDA else 1), warmup=int(CUDA), device=session.device)
    seconds = median(times[metric])
    named = {"generator": case, "samples": samples}
    figures = {"seconds": seconds, "samples/s": samples / seconds}
    macs, moved = work(score, samples)
    about = {"shape": (samples, 3, *2 * (generator.img_resolution,)), "bytes": moved, "macs": macs}
    session.publish(benchmark, "scores", metric, named, times, **about, figures=figures)
