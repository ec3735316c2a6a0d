from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from cagc.common.errors import CagcError
from cagc.distill import DistillConfig, Draws, Latents, LiveTeacher, NonFiniteLoss, RecordedTeacher, Trainer
from cagc.distill.draws import SampleStreams
from cagc.distill.update import Update
from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

CONFIG = DistillConfig(steps=8, batch_size=4, perceptual_weight=0, log_every=1, tensorboard=False)


def generator(width=8, seed=1, **options) -> Generator:
    torch.manual_seed(seed)
    g = Generator(GeneratorConfig.uniform(16, width * 16, width, **({"style_dim": 12, "mapping_layers": 2} | options)))
    for name, parameter in g.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    return g.requires_grad_(False)


def discriminator() -> Discriminator:
    torch.manual_seed(3)
    return Discriminator(DiscriminatorConfig.uniform(16, 128, 8))


def student_of(teacher: Generator) -> Generator:
    student = generator(4, seed=2)
    student.mapping.load_state_dict(teacher.mapping.state_dict())
    return student


def left_half(images, seeds=None):
    mask = torch.zeros_like(images[:, :1])
    mask[..., :8] = 1
    return mask


left_half.name = "left half"


def trainer(config=CONFIG, parser=None, perceptual=None, teacher=None, student=None) -> Trainer:
    teacher = teacher or generator()
    student = student or student_of(teacher)
    source = teacher if not isinstance(teacher, Generator) else LiveTeacher(teacher)
    return Trainer(student, source, discriminator(), config, parser, perceptual)


@pytest.mark.parametrize(
    "setting, value, expected",
    [
        ("steps", 0, "an integer of at least 1"),
        ("batch_size", 2.5, "an integer of at least 1"),
        ("learning_rate", float("nan"), "a number above 0"),
        ("rgb_weight", -1, "a number of at least 0"),
        ("mixing_probability", 1.1, "a number from 0 to 1"),
        ("betas", (0.0, 1.0), r"two numbers in \[0, 1\)"),
        ("kd_mode", "Output_Only", "one of output, intermediate"),
        ("lr_schedule", "step", "one of constant, cosine"),
        ("noise", "fresh", "one of random, const, none"),
        ("frozen", "mapping.*", "a sequence of patterns"),
        ("seed", -1, "an integer of at least 0"),
        ("ema_rampup", 0, "a number above 0, or None"),
        ("ema_rampup", "slow", "a number above 0, or None"),
        ("steps", True, "an integer of at least 1"),
        ("betas", None, r"two numbers in \[0, 1\)"),
        ("frozen", None, "a sequence of patterns"),
        ("perceptual_size", "224", "an integer of at least 32, or None"),
    ],
)
def test_settings_out_of_range_are_named(setting, value, expected):
    with pytest.raises(ValueError, match=rf"{setting}: got .*, expected {expected}"):
        DistillConfig(**{setting: value})


def test_settings_must_leave_a_loss():
    with pytest.raises(ValueError, match="expected a loss to train with"):
        DistillConfig(rgb_weight=0, perceptual_weight=0, gan_weight=0)


def test_settings_survive_json():
    config = DistillConfig(frozen=("mapping.*",), ema_rampup=None, steps=7)
    assert DistillConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="stepz"):
        DistillConfig.from_dict({"stepz": 1})


@pytest.mark.parametrize("batch", [1, 8, 32, 100])
def test_half_of_the_average_is_forgotten_after_the_half_life_whatever_the_batch(batch):
    config = DistillConfig(batch_size=batch, ema_half_life=4000, ema_rampup=None)
    assert math.isclose(config.ema_decay(0) ** (4000 / batch), 0.5)
    assert config.ema_decay(0) == config.ema_decay(10**6)


def test_paper_average_at_its_batch_and_rampup():
    assert DistillConfig(batch_size=32, ema_rampup=None).ema_decay(0) == 0.5 ** (32 / 10_000)
    ramped = DistillConfig(batch_size=16)
    assert ramped.ema_decay(0) < 1e-6
    assert math.isclose(ramped.ema_decay(999), 0.5 ** (16 / (0.05 * 16_000)))
    assert ramped.ema_decay(10**6) == 0.5 ** (16 / 10_000)


def test_schedules():
    config = DistillConfig(steps=100, lr_schedule="cosine", gan_weight=0.5, gan_delay=10, gan_ramp=4)
    assert [round(config.lr_factor(step), 6) for step in (0, 50, 100)] == [1, 0.5, 0]
    assert [round(config.gan_weight_at(step), 6) for step in (9, 10, 12, 14, 90)] == [0, 0.1, 0.3, 0.5, 0.5]


def test_optimisers_are_scaled_for_lazy_regularisation():
    lazy, plain = trainer(), trainer(replace(CONFIG, path_weight=0, r1_gamma=0))
    for optimizer, ratio in (
        (lazy.g_optimizer, 4 / 5),
        (lazy.d_optimizer, 16 / 17),
        (plain.g_optimizer, 1),
        (plain.d_optimizer, 1),
    ):
        group = optimizer.param_groups[0]
        assert math.isclose(group["lr"], 0.002 * ratio) and group["betas"] == (0.0**ratio, 0.99**ratio)


def test_average_follows_the_formula_and_begins_with_the_student():
    run = trainer(replace(CONFIG, ema_half_life=40, ema_rampup=None))
    before = {name: p.clone() for name, p in run.g_ema.named_parameters()}
    assert all(torch.equal(before[name], p) for name, p in run.g.named_parameters())
    run.iteration(torch.zeros(4, 3, 16, 16), run.draw())
    for name, average in run.g_ema.named_parameters():
        expected = before[name] * 0.5**0.1 + dict(run.g.named_parameters())[name] * (1 - 0.5**0.1)
        torch.testing.assert_close(average, expected)


def test_lazy_regularisers_come_when_they_are_due():
    run = trainer(replace(CONFIG, d_reg_every=3, g_reg_every=2))
    losses = [run.iteration(torch.rand(4, 3, 16, 16), run.draw()).values() for _ in range(4)]
    assert ["r1" in step for step in losses] == [True, False, False, True]
    assert ["path" in step for step in losses] == [True, False, True, False]


def test_teacher_and_student_draw_the_same_latents_and_noise():
    run = trainer()
    latents = run.draw().generator
    assert latents.noise is latents.teacher_noise
    apart = trainer(replace(CONFIG, share_noise=False)).draw().generator
    assert not any(torch.equal(a, b) for a, b in zip(apart.noise, apart.teacher_noise))
    same = Trainer(generator(), LiveTeacher(generator()), discriminator(), CONFIG)
    for _ in range(5):
        assert same.train_generator(same.draw()).losses.rgb.item() < 1e-6
        same.g.load_state_dict(same.g_ema.state_dict())


def test_mixing_happens_with_its_probability():
    source = LiveTeacher(generator())
    indices = [source.latents(streams(2, step), 0.7).mixing_index for step in range(400)]
    assert 0.62 < sum(i is not None for i in indices) / 400 < 0.78
    assert {i for i in indices if i is not None} == set(range(1, generator().config.num_ws))
    assert source.latents(streams(2), 0.0).z_mix is None


def streams(batch: int, step: int = 0) -> SampleStreams:
    return SampleStreams(0, step, "test", range(batch))


def pixels_with_a_gradient(run: Trainer) -> torch.Tensor:
    """[16, 16]: where the student's image has a gradient in the generator's update."""
    images = []
    forward = run.g.synthesis.forward

    def keep(*args, **kwargs):
        out = forward(*args, **kwargs)
        images.append(out[-1] if isinstance(out, list) else out)
        images[-1].retain_grad()
        return out

    run.g.synthesis.forward = keep
    run.train_generator(run.draw())
    return images[-1].grad.abs().sum(dim=(0, 1)) > 0


@pytest.mark.parametrize("mode", ["output", "intermediate"])
def test_mask_removes_the_gradient_outside_the_content(mode):
    config = replace(CONFIG, gan_weight=0, kd_mode=mode, perceptual_weight=1)

    def squared(a, b):
        return (a - b).square().mean()

    seen = pixels_with_a_gradient(trainer(config, left_half, squared))
    assert seen[:, :8].all() and not seen[:, 8:].any()
    assert pixels_with_a_gradient(trainer(config, None, squared)).all()
    sometimes = trainer(replace(config, whole_every=2), left_half, squared)
    assert not pixels_with_a_gradient(sometimes)[:, 8:].any()
    sometimes.step = 1
    assert pixels_with_a_gradient(sometimes).all()


def test_teacher_and_parser_run_once_a_batch():
    calls = []

    def counting(images, seeds=None):
        calls.append(len(images))
        return left_half(images)

    counting.name = "counting"
    run = trainer(replace(CONFIG, perceptual_weight=1), counting, lambda a, b: (a - b).abs().mean())
    original = run.teacher.rgbs
    run.teacher.rgbs = lambda *a, **k: calls.append("teacher") or original(*a, **k)
    run.iteration(torch.zeros(4, 3, 16, 16), run.draw())
    assert calls == ["teacher", 4]


def test_masks_of_the_wrong_kind_and_blind_parsers_are_refused():
    def blind(images, seeds=None):
        return torch.zeros_like(images[:, :1])

    def wide(images, seeds=None):
        return torch.ones_like(images)

    blind.name, wide.name = "blind", "wide"
    with pytest.raises(CagcError, match=r"wide: expected a mask of shape \[4, 1, 16, 16\]"):
        run = trainer(parser=wide)
        run.train_generator(run.draw())
    run = trainer(replace(CONFIG, steps=2, gan_weight=0), blind)
    run.iteration(None, run.draw())
    with pytest.raises(CagcError, match="blind: found no content in any of 8 images"):
        run.iteration(None, run.draw())


def test_parser_that_knows_seeds_gets_images_of_those_seeds():
    source = LiveTeacher(generator(), seeds=[7, 11])
    latents = source.latents(streams(6), 0.9)
    assert set(latents.seeds) <= {7, 11} and latents.z_mix is None
    seen = []

    def by_seed(images, seeds=None):
        seen.append(seeds)
        return left_half(images)

    by_seed.name = "by seed"
    run = trainer(replace(CONFIG, gan_weight=0), by_seed, teacher=source, student=student_of(source.generator))
    draws = run.draw()
    run.iteration(None, draws)
    assert seen == [draws.generator.seeds] and len(seen[0]) == 4


def test_frozen_parameters_stay():
    run = trainer(replace(CONFIG, frozen=("mapping.*", "*.noise_strength")))
    before = {name: p.clone() for name, p in run.g.named_parameters()}
    for _ in range(2):
        run.iteration(torch.rand(4, 3, 16, 16), run.draw())
    same = {name for name, p in run.g.named_parameters() if torch.equal(before[name], p)}
    assert same == {name for name in before if name.startswith("mapping.") or name.endswith("noise_strength")}
    with pytest.raises(CagcError, match="frozen: 'maping.*' matches no parameter"):
        trainer(replace(CONFIG, frozen=("maping.*",)))
    with pytest.raises(CagcError, match="nothing to train"):
        trainer(replace(CONFIG, frozen=("*",)))


def test_discriminator_alone_trains_during_the_delay():
    run = trainer(replace(CONFIG, gan_delay=1, rgb_weight=0, perceptual_weight=0, path_weight=0))
    before = run.g.synthesis.b16.conv1.weight.clone(), run.d.out.weight.clone()
    losses = run.iteration(torch.rand(4, 3, 16, 16), run.draw()).losses
    assert losses.generator is None and torch.equal(before[0], run.g.synthesis.b16.conv1.weight)
    assert not torch.equal(before[1], run.d.out.weight)
    assert run.iteration(torch.rand(4, 3, 16, 16), run.draw()).losses.generator is not None
    assert not torch.equal(before[0], run.g.synthesis.b16.conv1.weight)


def test_without_gan_there_is_no_discriminator():
    teacher = generator()
    run = Trainer(student_of(teacher), LiveTeacher(teacher), None, replace(CONFIG, gan_weight=0))
    losses = run.iteration(None, run.draw()).values()
    assert set(losses) == {"rgb", "path", "path_length"} and run.d is None and "d" not in run.state_dict()
    with pytest.raises(CagcError, match="discriminator: got None"):
        Trainer(student_of(teacher), LiveTeacher(teacher), None, CONFIG)


def test_inputs_are_not_changed():
    teacher, d = generator(), discriminator()
    student = student_of(teacher)
    before = [p.clone() for network in (student, teacher, d) for p in network.parameters()]
    run = Trainer(student, LiveTeacher(teacher), d, CONFIG)
    run.iteration(torch.rand(4, 3, 16, 16), run.draw())
    after = [p for network in (student, teacher, d) for p in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert all(p.grad is None for p in after)


def test_nan_names_the_loss_and_spares_the_weights():
    run = trainer(replace(CONFIG, gan_weight=0, path_weight=0))
    before = run.g.synthesis.b16.conv1.weight.clone()
    latents = run.draw().generator
    broken = replace(latents, noise=[n * float("inf") for n in latents.noise])
    with pytest.raises(NonFiniteLoss, match="the rgb loss became nan at step 0"):
        run.iteration(None, Draws(broken))
    assert torch.equal(before, run.g.synthesis.b16.conv1.weight) and run.is_finite()


def test_infinite_gradient_of_a_finite_loss_spares_the_weights():
    weight = torch.nn.Parameter(torch.zeros(3))
    update = Update(torch.optim.SGD([weight], 0.1), ["rgb"], torch.amp.GradScaler("cpu", enabled=False))
    loss = weight.sqrt().sum()
    update.add(loss, {"rgb": loss})
    with pytest.raises(NonFiniteLoss, match="the gradient of the rgb loss became inf at step 5"):
        update.apply(5)
    assert not weight.any()


def test_student_comes_closer_on_the_content():
    teacher = generator(seed=4)
    config = replace(
        CONFIG, steps=60, batch_size=8, learning_rate=0.01, gan_weight=0, path_weight=0, frozen=("mapping.*",)
    )
    run = trainer(config, left_half, teacher=teacher, student=student_of(teacher))
    held_out = Latents(z=torch.randn(32, 12, generator=torch.Generator().manual_seed(9)), noise="none")
    target = teacher.synthesis(held_out.ws(teacher), "none")

    def distances() -> tuple[float, float]:
        with torch.no_grad():
            difference = (run.g_ema.synthesis(held_out.ws(run.g_ema), "none") - target).abs()
        return difference[..., :8].mean().item(), difference[..., 8:].mean().item()

    before = distances()
    while run.step < config.steps:
        run.iteration(None, run.draw())
    after = distances()
    assert after[0] < 0.7 * before[0]
    assert after[0] / before[0] < after[1] / before[1]


def recorded(n=20) -> RecordedTeacher:
    rng = torch.Generator().manual_seed(5)
    ws = torch.randn(n, 12, generator=rng)
    return RecordedTeacher(ws, torch.randint(0, 256, (n, 3, 16, 16), generator=rng, dtype=torch.uint8))


def test_recorded_images_belong_to_their_w():
    source = recorded()
    latents = source.latents(streams(6), 0.9)
    assert torch.equal(latents.w, source.recorded_ws[latents.rows])
    assert torch.equal(source.rgbs(latents)[0], source.images[latents.rows].float() / 127.5 - 1)
    run = trainer(replace(CONFIG, gan_weight=0.1), teacher=source, student=generator(4))
    mapping = [p.clone() for p in run.g.mapping.parameters()]
    for _ in range(2):
        run.iteration(source.batch(range(4)), run.draw())
    assert all(torch.equal(a, b) for a, b in zip(mapping, run.g.mapping.parameters()))


@pytest.mark.parametrize(
    "ws, images, message",
    [
        (torch.zeros(4, 12, 1), torch.zeros(4, 3, 16, 16, dtype=torch.uint8), "ws: got"),
        (torch.zeros(4, 12), torch.zeros(4, 3, 16, 16), "images: got torch.float32"),
        (torch.zeros(4, 12), torch.zeros(4, 3, 16, 8, dtype=torch.uint8), "images: got"),
        (torch.zeros(5, 12), torch.zeros(4, 3, 16, 16, dtype=torch.uint8), "images: got 4 for 5 ws"),
        (torch.zeros(4, 12), torch.zeros(4, 3, 24, 24, dtype=torch.uint8), "power of two"),
    ],
)
def test_recordings_that_do_not_fit_are_refused(ws, images, message):
    with pytest.raises(ValueError, match=message):
        RecordedTeacher(ws, images)
