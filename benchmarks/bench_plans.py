"""Compares plans by MACs with plans by time, at equal time and at equal MACs.

``pytest benchmarks/bench_plans.py`` plans an 11× student of the embedded 64 px teacher by its content-aware scores, and
one of the published 256 px generator (random weights, so l1-out scores). It makes three plans: under a budget of MACs,
under the time that the first plan takes, and under the time at which a plan has as many MACs. All are pruned and timed
in the same rounds. "score kept" is what both rules maximise: the geometric mean of the share of each layer's score.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cagc.common.seeds import z_batch
from cagc.latency.table import LatencyTable, measure_table
from cagc.models import Generator, GeneratorConfig
from cagc.pruning.budget import plan_channels
from cagc.pruning.plan import ChannelPlan
from cagc.pruning.prune import prune
from cagc.pruning.scores import ChannelScores, score_channels
from cagc.runs import load_teacher

from . import generators
from .harness import default_device, paired

CUDA = default_device() == "cuda"
CASES = ("faces64", "256 px")
PLANS = ("by MACs", "by time, as fast", "by time, as many MACs")
SHARE = 1 / 11


def teacher_and_scores(case: str, device: str, samples: int) -> tuple[Generator, ChannelScores]:
    if case == "faces64":
        teacher = load_teacher(Path("faces64"), device)[0]
        return teacher, score_channels(teacher, "content-aware", "faces", samples)
    teacher = generators.random_generator(GeneratorConfig.uniform(256), device)
    return teacher, score_channels(teacher, "l1-out", samples=20)


def score_kept(scores: ChannelScores, plan: ChannelPlan) -> float:
    """Return the geometric mean over layers of the share of the score that the plan keeps."""
    shares = [(scores.scores[name][kept].sum() / scores.scores[name].sum()).item() for name, kept in plan.kept.items()]
    return math.exp(sum(math.log(share) for share in shares) / len(shares))


def make_plans(teacher: Generator, scores: ChannelScores, table: LatencyTable) -> dict[str, ChannelPlan]:
    """Return the three plans. The third has the most MACs, up to the first's, that a search over time budgets finds."""
    first = plan_channels(teacher, scores, macs=SHARE)
    time = table.cost(first.channels())
    second = plan_channels(teacher, scores, latency_ms=time, latency=table)
    narrowest = table.cost(dict.fromkeys(table.full, 8))  # by plan_channels's defaults
    low, high, third = max(0.5 * time, narrowest), min(2 * time, table.cost(table.full)), None
    for _ in range(10):
        middle = (low + high) / 2
        plan = plan_channels(teacher, scores, latency_ms=middle, latency=table)
        if plan.cost["macs"][1] <= first.cost["macs"][1]:
            low, third = middle, plan
        else:
            high = middle
    return dict(zip(PLANS, (first, second, third or second), strict=True))


def measure(session, case: str):
    teacher, scores = teacher_and_scores(case, session.device, 20 if session.quick else 400)
    table = measure_table(teacher, repeats=1 if session.quick else 3)
    plans = make_plans(teacher, scores, table)
    calls, about = {}, {}
    z = z_batch(range(1), teacher.z_dim).to(session.device)
    for name, plan in plans.items():
        student = prune(teacher, plan).eval()
        image = generators.build("runtime", student, 1, None)
        macs, moved = generators.work(student)
        about[name] = {"shape": (1, 3, *2 * (student.img_resolution,)), "bytes": moved, "macs": macs}
        calls[name] = lambda image=image: image(z)
    with torch.inference_mode():
        times = paired(calls, session.rounds(20), warmup=2, device=session.device, steady=True)
    return plans, scores, table, times, about


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("case", CASES)
def test_plan(benchmark, session, case, name):
    if session.quick and case != "faces64":
        pytest.skip("--quick: the embedded faces only")
    plans, scores, table, times, about = session.once(("plans", case), lambda: measure(session, case))
    plan = plans[name]
    figures = {
        "predicted ms": table.cost(plan.channels()),
        "score kept": score_kept(scores, plan),
        "full MACs": plan.cost["macs"][0],
        "channels": plan.channels(),
    }
    named = {"generator": case, "metric": plan.metric}
    session.publish(benchmark, "plans", name, named, times, **about[name], figures=figures)
