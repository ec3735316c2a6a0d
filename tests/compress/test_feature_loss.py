from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cagc.checkpoints import load_generator, save_generator
from cagc.cli import main
from cagc.common.errors import CagcError
from cagc.distill import DistillConfig, LiveTeacher, Trainer, distill
from cagc.distill.losses import feature_loss
from cagc.models import Generator
from cagc.pruning.budget import ChannelPlan, plan_channels
from cagc.pruning.prune import prune
from cagc.pruning.scores import score_channels

from .test_trainer import generator, recorded

CONFIG = DistillConfig(
    steps=4, batch_size=4, gan_weight=0, path_weight=0, perceptual_weight=0, feature_weight=1, tensorboard=False,
    frozen=("mapping.*",),
)  # fmt: skip


def half(teacher: Generator) -> ChannelPlan:
    return plan_channels(teacher, score_channels(teacher, "random", samples=1), keep=0.5, round_to=1)


def test_distance_is_relative_to_each_samples_own_size():
    teacher = [torch.randn(3, 2, 4, 4), torch.randn(3, 5, 8, 8)]
    assert feature_loss([1.25 * t for t in teacher], teacher).item() == pytest.approx(0.25, rel=1e-5)
    uneven = [t * torch.tensor([1.1, 1.2, 1.6])[:, None, None, None] for t in teacher]
    assert feature_loss(uneven, teacher).item() == pytest.approx(0.3, rel=1e-5)
    scaled = [100 * t for t in teacher]
    assert feature_loss([100 * u for u in uneven], scaled).item() == pytest.approx(0.3, rel=1e-5)
    with pytest.raises(ValueError, match="teacher: got shapes"):
        feature_loss(teacher[:1], teacher)


def test_nothing_pruned_has_no_distance_and_training_lessens_it():
    teacher = generator(seed=4)
    everything = {name: list(range(width)) for name, width in teacher.config.channels.items()}
    same = Trainer(teacher, LiveTeacher(teacher), None, CONFIG, kept=everything)
    assert same.iteration(None, same.draw()).losses.feature.item() < 1e-6
    plan = half(teacher)
    config = replace(CONFIG, rgb_weight=0, learning_rate=0.01)
    run = Trainer(prune(teacher, plan), LiveTeacher(teacher), None, config, kept=plan.kept)
    draws = run.draw()
    losses = [run.iteration(None, draws).losses.feature.item() for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]


def test_kept_channels_are_compared_with_themselves():
    """If channels are compared in the wrong order, the distance is that of an untrained student."""
    teacher = generator(seed=4)
    plan = half(teacher)
    student = prune(teacher, plan)
    distances = []
    for kept in (plan.kept, {name: rows[::-1] for name, rows in plan.kept.items()}):
        run = Trainer(student, LiveTeacher(teacher), None, CONFIG, kept=kept)
        distances.append(run.iteration(None, run.draw()).losses.feature.item())
    assert distances[0] < 0.8 * distances[1]


def test_its_weight_follows_the_schedule():
    teacher = generator(seed=4)
    plan = half(teacher)
    config = replace(CONFIG, lr_schedule="cosine", steps=10, feature_weight=2.0)
    objective = Trainer(prune(teacher, plan), LiveTeacher(teacher), None, config, kept=plan.kept).objective
    assert objective.weights(0)["feature"] == 2 and objective.weights(5)["feature"] == pytest.approx(1)


def test_layers_above_the_limit_are_left_out():
    teacher = generator(seed=4)
    plan = half(teacher)
    student, parts = prune(teacher, plan), {}
    for limit in (None, 16, 8):
        run = Trainer(student, LiveTeacher(teacher), None, replace(CONFIG, feature_limit=limit), kept=plan.kept)
        targets = run.objective.targets(run.draw().generator, None)
        parts[limit] = [tuple(features.shape[2:]) for features in targets.kept]
    assert parts[None] == parts[16] and max(parts[16]) == (16, 16)
    assert parts[8] == [size for size in parts[16] if size <= (8, 8)] and max(parts[8]) == (8, 8)
    with pytest.raises(CagcError, match="feature_limit: got 3, expected at least"):
        Trainer(student, LiveTeacher(teacher), None, replace(CONFIG, feature_limit=3), kept=plan.kept)


def test_it_needs_the_plan_and_a_live_teacher(tmp_path):
    teacher = generator(seed=4)
    plan = half(teacher)
    with pytest.raises(CagcError, match="feature_weight: expected 0, or the student's plan"):
        Trainer(prune(teacher, plan), LiveTeacher(teacher), None, CONFIG)
    with pytest.raises(CagcError, match="feature_weight: expected 0 for recorded images"):
        Trainer(generator(4), recorded(), None, CONFIG)
    with pytest.raises(CagcError, match="plan: got widths"):
        distill(generator(5), teacher, None, None, CONFIG, tmp_path / "run", plan=plan, progress=False)
    assert not (tmp_path / "run").exists()


def test_the_command_line_takes_the_plan(tmp_path, small_teacher, capsys):
    teacher = load_generator(small_teacher)
    plan, student = half(teacher), tmp_path / "student.safetensors"
    plan.save(tmp_path / "plan.json")
    save_generator(prune(teacher, plan), student)
    words = ["distill", "--recipe", "quick", "--student", student, "--teacher", small_teacher, "--content"]
    words += ["everything", "--steps", 2, "--batch-size", 2, "--perceptual-weight", 0, "--out", tmp_path / "run"]
    with pytest.raises(SystemExit):
        main(list(map(str, words)))
    assert "the student's plan" in capsys.readouterr().err
    main(list(map(str, [*words, "--plan", tmp_path / "plan.json"])))
    assert '"feature": ' in (tmp_path / "run" / "metrics.jsonl").read_text()
    main(["distill", "--resume", "--out", str(tmp_path / "run")])
