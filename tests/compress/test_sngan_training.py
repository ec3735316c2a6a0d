"""SN-GAN through the trainer: hinge loss, several discriminator updates, batch normalisation in the average."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cagc
from cagc import assets, content
from cagc.checkpoints import load_checkpoint
from cagc.distill import DistillConfig, ImageDataset, distill
from cagc.distill.losses import discriminator_loss, generator_loss
from cagc.models import SNGANConfig, SNGANGenerator, new_discriminator
from cagc.recipes import RECIPES

TOOL = Path(__file__).parents[2] / "tools" / "sngan" / "train_teacher.py"
SHORT = {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "sample_every": 0, "log_every": 1, "tensorboard": False}


def small(seed: int = 0) -> SNGANGenerator:
    torch.manual_seed(seed)
    return SNGANGenerator(SNGANConfig.uniform(16, 6, z_dim=5)).eval()


def config(**options) -> DistillConfig:
    return replace(RECIPES["sngan"].distillation, perceptual_weight=0.0, **SHORT | options)


@pytest.fixture(scope="module")
def images(small_images) -> ImageDataset:
    return ImageDataset(small_images, 16)


def test_hinge_losses():
    real, fake = torch.tensor([[2.0], [0.5]]), torch.tensor([[-3.0], [0.0]])
    assert discriminator_loss(real, fake, "hinge").item() == pytest.approx(0.25 + 0.5)
    assert generator_loss(fake, "hinge").item() == pytest.approx(1.5)


def test_recipe_is_the_published_one():
    settings = RECIPES["sngan"].distillation
    assert (settings.gan_loss, settings.d_steps, settings.betas) == ("hinge", 5, (0.0, 0.9))
    assert (settings.learning_rate, settings.steps) == (2e-4, 50_000)
    assert not (settings.r1_gamma or settings.path_weight or settings.mixing_probability)


def test_compressed_sngan_is_distilled_and_resumes_exactly(images, tmp_path):
    teacher = small()
    scores = cagc.score_channels(teacher, "content-aware", "everything", samples=4)
    student = cagc.prune(teacher, cagc.plan_channels(teacher, scores, keep=0.5, round_to=1))
    judge = new_discriminator(teacher.config)
    whole = distill(student, teacher, judge, images, config(d_steps=2), tmp_path / "a", progress=False)
    distill(student, teacher, judge, images, config(d_steps=2, steps=2), tmp_path / "b", progress=False)
    parts = distill(student, teacher, judge, images, config(d_steps=2), tmp_path / "b", resume=True, progress=False)
    for (name, one), two in zip(whole.state_dict().items(), parts.state_dict().values()):
        torch.testing.assert_close(one, two, rtol=0, atol=0, msg=name)
    before, after = student.state_dict(), whole.state_dict()
    assert not torch.equal(before["synthesis.norm.running_mean"], after["synthesis.norm.running_mean"])
    assert whole(torch.randn(2, 5)).shape == (2, 3, 16, 16)


def test_discriminator_steps_see_other_images_and_move_the_discriminator(images, tmp_path):
    teacher, judge = small(), new_discriminator(small().config)
    weights = {}
    for steps in (1, 3):
        out = tmp_path / str(steps)
        distill(teacher, teacher, judge, images, config(d_steps=steps, steps=1), out, progress=False)
        weights[steps] = load_checkpoint(out / "discriminator.safetensors").d.state_dict()
        state = torch.load(next((out / "checkpoints").glob("*-000000001.pt")), weights_only=True)
        assert state["data"]["position"] == 4 * steps
    assert not torch.equal(*(w["fc.parametrizations.weight.original"] for w in weights.values()))


def test_tool_trains_from_scratch(small_images, tmp_path):
    spec = importlib.util.spec_from_file_location("train_sngan", TOOL)
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool
    spec.loader.exec_module(tool)
    options = replace(tool.recipe(), **SHORT)
    out = tmp_path / "run"
    tool.train(tool.Options(small_images, out, width=6, discriminator_width=6, z_dim=5, resolution=16, config=options))
    loaded = load_checkpoint(out / "teacher.safetensors")
    assert loaded.g_ema.config.z_dim == 5 and loaded.d.config.width == 6
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and all("rgb" not in row for row in rows)


def test_embedded_teacher_draws_faces():
    teacher = load_checkpoint(assets.sngan32() / "teacher.safetensors")
    with torch.no_grad():
        images = teacher.g_ema.eval()(torch.randn(16, 128, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (16, 3, 32, 32) and teacher.d.config.resolution == 32
    assert 0.4 < content.load("faces")(images).mean() < 0.9 and images.std(0).mean() > 0.2
