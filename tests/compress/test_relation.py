from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cagc.common.errors import CagcError
from cagc.distill import DistillConfig, LiveTeacher, Trainer
from cagc.distill.draws import SampleStreams
from cagc.distill.losses import relation_loss
from cagc.distill.relation import draw_offsets, latent_directions, relation_layers
from cagc.models import Generator, GeneratorConfig, StyleGAN3Config, StyleGAN3Generator

from .test_trainer import generator, recorded, student_of

CONFIG = DistillConfig(
    steps=4, batch_size=4, gan_weight=0, path_weight=0, perceptual_weight=0, relation_weight=30, tensorboard=False
)


def kl(student: np.ndarray, student_moved: np.ndarray, teacher: np.ndarray, teacher_moved: np.ndarray) -> float:
    """The formula, a pair at a time."""
    n, total = len(student), 0.0
    for i in range(n):
        rows = []
        for f, moved in ((teacher, teacher_moved), (student, student_moved)):
            a = f[i].ravel()
            cosines = [a @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b) for b in moved]
            rows.append(np.exp(cosines) / np.exp(cosines).sum())
        total += (rows[0] * np.log(rows[0] / rows[1])).sum()
    return total / n


def test_relation_loss_is_the_divergence_of_similarities():
    rng = np.random.default_rng(0)
    layers = [[rng.standard_normal((5, c, r, r)) for c in (3, 3, 7, 7)] for r in (4, 8)]
    student = [(torch.tensor(a), torch.tensor(b)) for a, b, _, _ in layers]
    teacher = [(torch.tensor(a), torch.tensor(b)) for _, _, a, b in layers]
    expected = sum(kl(*layer) for layer in layers)
    assert relation_loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)
    assert relation_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    scaled = [(3 * a, 0.1 * b) for a, b in student]
    assert relation_loss(scaled, teacher).item() == pytest.approx(expected, rel=1e-10)
    with pytest.raises(ValueError, match="got 1 layers, expected the teacher.s 2"):
        relation_loss(student[:1], teacher)


def test_directions_move_the_styles_most():
    g = generator(style_dim=12).double()
    directions = latent_directions(g, (16,), 3)
    assert directions.shape == (2 * 3, 12)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(6, dtype=torch.float64))
    rows = torch.cat([g.synthesis.b8.conv0.affine.weight, g.synthesis.b8.conv1.affine.weight])
    rows = rows / rows.norm(dim=1, keepdim=True)
    effects = (rows @ directions[:3].t()).norm(dim=0)
    assert (effects[:-1] >= effects[1:]).all()
    assert effects[0].item() == pytest.approx(torch.linalg.matrix_norm(rows, 2).item())
    assert len(latent_directions(g, (8,), 3)) == 3
    assert relation_layers(g, (8, 16, 32)) == ["b8.conv1", "b16.conv1"]
    with pytest.raises(CagcError, match="expected some up to 16"):
        relation_layers(g, (32,))


def test_offsets_are_scaled_directions():
    directions = torch.eye(6)
    offsets = draw_offsets(directions, 5.0, SampleStreams(1, 0, "offsets", range(4000)))
    assert ((offsets != 0).sum(dim=1) == 1).all()
    assert offsets.norm(dim=1).square().mean().sqrt().item() == pytest.approx(5, rel=0.05)
    assert (offsets != 0).sum(dim=0).min() > 500


def test_training_with_the_relation_loss_teaches_the_relation():
    teacher = generator(seed=4)
    run = Trainer(student_of(teacher), LiveTeacher(teacher), None, replace(CONFIG, rgb_weight=0, learning_rate=0.005))
    draws = run.draw()
    losses = [run.iteration(None, draws).losses.relation.item() for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    same = Trainer(teacher, LiveTeacher(teacher), None, CONFIG)
    assert same.iteration(None, same.draw()).losses.relation.item() < 1e-6


def test_stylegan3():
    """Its layers but the last are as high as their rate and two margins: 36, 52, 52 and 32 pixels."""
    config = StyleGAN3Config.uniform(32, channel_base=128, channel_max=8, num_layers=4, style_dim=12)
    teacher = StyleGAN3Generator(config).requires_grad_(False)
    assert relation_layers(teacher, (16, 32, 64)) == ["L3"]
    with torch.device("meta"):
        published = StyleGAN3Generator(StyleGAN3Config.uniform(256))
    assert relation_layers(published, CONFIG.relation_resolutions) == ["L4", "L6", "L9"]
    student = StyleGAN3Generator(replace(config, channels={layer: 4 for layer in config.channels}))
    run = Trainer(student, LiveTeacher(teacher), None, replace(CONFIG, relation_resolutions=(32,)))
    draws = run.draw()
    losses = [run.iteration(None, draws).losses.relation.item() for _ in range(2)]
    assert 0 < losses[1] < losses[0]


def test_other_draws_do_not_depend_on_the_relation_loss():
    teacher = generator()
    with_relation = Trainer(student_of(teacher), LiveTeacher(teacher), None, CONFIG).draw()
    without = Trainer(student_of(teacher), LiveTeacher(teacher), None, replace(CONFIG, relation_weight=0)).draw()
    assert torch.equal(with_relation.generator.z, without.generator.z)
    assert with_relation.offsets.shape == (4, 12) and without.offsets is None


def test_recorded_images_have_no_relations():
    with pytest.raises(CagcError, match="relation_weight: expected 0 for recorded images"):
        Trainer(generator(4), recorded(), None, CONFIG)


def test_a_generator_without_the_resolutions_is_refused():
    tiny = Generator(GeneratorConfig.uniform(8, 64, 8, style_dim=12, mapping_layers=2))
    with pytest.raises(CagcError, match="relation_resolutions"):
        Trainer(tiny, LiveTeacher(tiny), None, CONFIG)


@pytest.mark.parametrize(
    "setting, value, expected",
    [
        ("relation_weight", -1.0, "a number of at least 0"),
        ("relation_strength", 0.0, "a number above 0"),
        ("relation_directions", 0, "an integer of at least 1"),
        ("relation_resolutions", (4,), "powers of two from 8 on"),
        ("relation_resolutions", (), "powers of two from 8 on"),
        ("discriminator", "none", "one of teacher, new"),
    ],
)
def test_settings_out_of_range_are_named(setting, value, expected):
    with pytest.raises(ValueError, match=rf"{setting}: got .*, expected {expected}"):
        DistillConfig(**{setting: value})
