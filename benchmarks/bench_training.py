"""Times one step of each phase of distillation.

``pytest benchmarks/bench_training.py`` times the discriminator's update, its R1 update, the generator's update with the
distance to the teacher's images, and the path length update, with the paper's settings, on an 11× student: of the
embedded 64 px faces and of the published 256 px generator (random weights). MACs and bytes are those of all networks
that a step runs, forward and backward (:mod:`benchmarks.counting`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
import torch

from cagc import content
from cagc.distill.config import DistillConfig
from cagc.distill.teachers import LiveTeacher
from cagc.distill.trainer import Trainer
from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from cagc.runs import load_teacher

from . import generators
from .counting import counted
from .harness import default_device, paired

CUDA = default_device() == "cuda"
PHASES = ("D", "R1", "G+KD", "path length")
# Images per step of each generator: the paper's 16, fewer if two cores would need minutes.
CASES = {"faces64": 16, "256 px": 16 if CUDA else 2}
PRECISIONS = ("float32", "float16", "bfloat16") if CUDA else ("float32",)


def networks(case: str, device: str) -> tuple[Generator, Discriminator, Generator]:
    """Create a teacher, its discriminator, and a student with 0.3 of every layer, rounded up to multiples of 8."""
    if case == "faces64":
        teacher, checkpoint = load_teacher(Path("faces64"), device)
        discriminator = checkpoint.d
        full = teacher.config.channels
        kept = {name: min(c, -(-(c - int(0.7 * c)) // 8) * 8) for name, c in full.items()}
        config = GeneratorConfig(**teacher.config.to_dict() | {"channels": kept})
    else:
        teacher = generators.random_generator(GeneratorConfig.uniform(256), device)
        discriminator = Discriminator(DiscriminatorConfig.uniform(256)).to(device)
        config = GeneratorConfig(256, generators.widths(256, 0.3, 8))
    return teacher, discriminator, generators.random_generator(config, device)


def steps(case: str, batch: int, precision: str, device: str) -> tuple[dict[str, Callable[[], object]], Generator]:
    """Return the phases of iteration 0 by name, and the student."""
    teacher, discriminator, student = networks(case, device)
    config = DistillConfig(batch_size=batch, perceptual="efficientnet-lite0", precision=precision)
    parser = content.load("faces", device=device)
    trainer = Trainer(student, LiveTeacher(teacher), discriminator, config, parser)
    draws, size = trainer.draw(), teacher.img_resolution
    real = torch.rand(batch, 3, size, size, device=device) * 2 - 1
    calls = {
        "D": lambda: trainer.train_discriminator(real, draws),
        "R1": lambda: trainer.regularize_discriminator(real, draws),
        "G+KD": lambda: trainer.train_generator(draws),
        "path length": lambda: trainer.regularize_generator(draws.path, draws.path_noise),
    }
    return calls, student


def measure(session, case: str, batch: int, precision: str):
    """Return the times of each phase, its (MACs, bytes), and the student."""
    calls, student = steps(case, batch, precision, session.device)
    work = {phase: counted(call) for phase, call in calls.items()}
    rounds = session.rounds(10 if case == "faces64" or CUDA else 3)
    return paired(calls, rounds, warmup=1, device=session.device), work, student


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_step(benchmark, session, case, precision, phase):
    if session.quick and case != "faces64":
        pytest.skip("--quick: the embedded faces only")
    batch = 4 if session.quick else CASES[case]
    key = ("training", case, precision)
    times, work, student = session.once(key, lambda: measure(session, case, batch, precision))
    figures, resolution = {"images/s": batch / median(times[phase])}, student.img_resolution
    named = {"generator": case, "batch": batch}
    dtype = getattr(torch, precision)
    macs, moved = work[phase]
    about = {"dtype": dtype, "shape": (batch, 3, resolution, resolution), "bytes": moved, "macs": macs}
    session.publish(benchmark, "training", phase, named, times, **about, figures=figures)
