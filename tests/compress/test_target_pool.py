from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cagc.distill import DistillConfig, LiveTeacher, Trainer
from cagc.distill.memory import estimate
from cagc.pruning.budget import plan_channels
from cagc.pruning.prune import prune
from cagc.pruning.scores import score_channels

from .test_trainer import discriminator, generator, left_half

CONFIG = DistillConfig(
    steps=6, batch_size=4, target_pool=8, perceptual_weight=0, feature_weight=1, relation_weight=1,
    relation_resolutions=(16,), path_weight=0, r1_gamma=0, tensorboard=False,
)  # fmt: skip


def trainer(config: DistillConfig = CONFIG) -> Trainer:
    teacher = generator()
    plan = plan_channels(teacher, score_channels(teacher, "random", samples=1), keep=0.5, round_to=1)
    student = prune(teacher, plan)
    return Trainer(student, LiveTeacher(teacher), discriminator(), config, left_half, None, None, plan.kept)


def steps(run: Trainer, count: int) -> list[float]:
    real = torch.zeros(4, 3, 16, 16)
    return [float(run.iteration(real, run.draw()).losses.rgb) for _ in range(count)]


def test_targets_are_computed_once_and_come_again(monkeypatch):
    calls = []
    original = LiveTeacher.rgbs
    monkeypatch.setattr(LiveTeacher, "rgbs", lambda *a, **k: calls.append(1) or original(*a, **k))
    run = trainer()
    steps(run, 2)
    seen = len(calls)
    assert seen == 4  # two batches, of w and of the moved w
    steps(run, 4)
    assert len(calls) == seen
    draws = [replace_step(run, step) for step in (0, 1, 2)]
    assert torch.equal(draws[0].generator.z, draws[2].generator.z)
    assert torch.equal(draws[0].generator.noise[0], draws[2].generator.noise[0])
    assert torch.equal(draws[0].offsets, draws[2].offsets)
    assert not torch.equal(draws[0].generator.z, draws[1].generator.z)
    assert not torch.equal(draws[0].discriminator.z, draws[2].discriminator.z)


def replace_step(run: Trainer, step: int):
    run.step = step
    return run.draw()


def test_kept_targets_train_as_new_ones_of_the_same_latents_do():
    kept = trainer()
    fresh = trainer()
    fresh._pool = type("Forgets", (dict,), {"__contains__": lambda self, key: False})()
    assert steps(kept, 5) == steps(fresh, 5)
    exact = trainer(replace(CONFIG, target_pool=None))
    assert steps(exact, 2) == pytest.approx(steps(trainer(), 2), rel=1e-3)


def test_a_run_that_goes_on_reaches_the_same_weights():
    whole, first, second = trainer(), trainer(), trainer()
    steps(whole, 5)
    steps(first, 3)
    second.load_state_dict(first.state_dict())
    steps(second, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole.g_ema.parameters(), second.g_ema.parameters()))


def test_memory_of_the_pool_is_estimated():
    run = trainer()
    expected = estimate(run)
    steps(run, 2)
    assert expected.targets == sum(targets.nbytes() for kept in run._pool.values() for targets in kept) > 0
    assert "the teacher's targets" in expected.describe()
    assert estimate(trainer(replace(CONFIG, target_pool=None))).targets == 0


def test_a_pool_smaller_than_a_batch_is_refused():
    with pytest.raises(ValueError, match="target_pool: got 3, expected an integer of at least batch_size, 4, or None"):
        DistillConfig(batch_size=4, target_pool=3)
