"""Group 7: whole training iterations of the paper's authors, reproduced by our trainer with their random draws."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from cagc.checkpoints import Checkpoint, to_rosinality
from cagc.checkpoints.rosinality import discriminator_from_rosinality, generator_from_rosinality
from cagc.distill.config import DistillConfig
from cagc.distill.draws import Draws
from cagc.distill.latents import Latents
from cagc.distill.teachers import LiveTeacher
from cagc.distill.trainer import Trainer

from .test_losses import content_mask
from .vectors import Case, cases, load_torch


class StoredMasks:
    """A parser that gives the stored labels of one iteration after the other."""

    name = "stored"

    def __init__(self, labels: list[torch.Tensor]) -> None:
        self.labels = iter(labels)

    def __call__(self, images, seeds=None):
        return content_mask(next(self.labels), images.shape[-1])


def recorded(case: Case) -> Iterator[tuple[str, torch.Tensor]]:
    """The peer's random draws, in order, each with its kind."""
    for i, kind in enumerate(case.options["draws"]):
        name = next(key for key in case.keys if key.startswith("draws_") and int(key.split("_")[1]) == i)
        yield kind, case[name]


def next_latents(case: Case, draws: Iterator[tuple[str, torch.Tensor]], noise: list[torch.Tensor]) -> Latents:
    """One mixing decision, one or two z, and with two the mixing index."""
    decision, (_, z) = next(draws)[1], next(draws)
    z = z.double()
    if decision.item() < case.options["mixing"]:
        return Latents(z=z[0], z_mix=z[1], mixing_index=int(next(draws)[1]), noise=noise, teacher_noise=noise)
    return Latents(z=z.reshape(-1, z.shape[-1]), noise=noise, teacher_noise=noise)


def settings(options: dict) -> DistillConfig:
    return DistillConfig(
        steps=options["iterations"],
        batch_size=options["batch_size"],
        learning_rate=options["init_lr"],
        r1_gamma=options["r1"],
        d_reg_every=options["d_reg_every"],
        path_weight=options["path_regularize"],
        g_reg_every=options["g_reg_every"],
        path_batch_shrink=options["path_batch_shrink"],
        mixing_probability=options["mixing"],
        rgb_weight=options["kd_l1_lambda"],
        kd_mode={"Output_Only": "output", "Intermediate": "intermediate"}[options["kd_mode"]],
        perceptual_weight=0,
        ema_half_life=options["batch_size"] * math.log(0.5) / math.log(options["ema_decay"]),
        ema_rampup=None,
    )


def build(case: Case) -> Trainer:
    stem = case.index.stem
    init = load_torch(f"{stem}_init.pt")
    student = generator_from_rosinality(init["g"]).double()
    teacher = LiveTeacher(generator_from_rosinality(init["teacher_g_ema"]).double())
    discriminator = discriminator_from_rosinality(init["d"]).double()
    # The peer forgets its mask in intermediate mode (erratum E6).
    masked = case.options["content_aware_KD"] and case.options["kd_mode"] == "Output_Only"
    parser = StoredMasks(case.series("labels_")) if masked else None
    trainer = Trainer(student, teacher, discriminator, settings(case.options), parser)
    average = generator_from_rosinality(init["g_ema"]).double()
    trainer.g_ema.load_state_dict(average.state_dict())
    return trainer


def gradients_of(network: torch.nn.Module, kind: str) -> dict[str, torch.Tensor]:
    """Gradients under the peer's parameter names; zero where there is none."""
    saved = [p.detach().clone() for p in network.parameters()]
    try:
        for p in network.parameters():
            p.data = torch.zeros_like(p) if p.grad is None else p.grad.clone()
        checkpoint = Checkpoint(d=network) if kind == "d" else Checkpoint(g=network)
        return {name: tensor.clone() for name, tensor in to_rosinality(checkpoint)[kind].items()}
    finally:
        for p, value in zip(network.parameters(), saved):
            p.data = value


def assert_gradients(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], phase: str) -> None:
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        got = ours[name].reshape(gradient.shape).float()
        torch.testing.assert_close(
            got, gradient, rtol=2e-5, atol=2e-5 * scale + 1e-12, msg=lambda m: f"{phase} {name}: {m}"
        )


@cases("7", "train_iterations")
def test_iterations(case: Case):
    options, trainer = case.options, build(case)
    config, draws = trainer.config, recorded(case)
    noise = [n.double() for n in case.series("noise_")]
    for name in ("g_reg_ratio", "d_reg_ratio"):
        optimizer = trainer.g_optimizer if name[0] == "g" else trainer.d_optimizer
        assert math.isclose(optimizer.param_groups[0]["lr"], options["init_lr"] * options[name])
    captured: list[tuple[str, dict[str, torch.Tensor]]] = []
    trainer.g_optimizer.register_step_pre_hook(lambda *_: captured.append(("g", gradients_of(trainer.g, "g"))))
    trainer.d_optimizer.register_step_pre_hook(lambda *_: captured.append(("d", gradients_of(trainer.d, "d"))))
    expected = load_torch(f"{case.index.stem}_grads.pt")
    for i, real in enumerate(case.series("real_")):
        discriminator, generator = (next_latents(case, draws, noise) for _ in range(2))
        path = path_noise = None
        if i % config.g_reg_every == 0:
            path, path_noise = next_latents(case, draws, noise), next(draws)[1].double()
        losses = trainer.iteration(real.double(), Draws(generator, discriminator, path, path_noise)).values()
        assert_losses(losses, options["losses"][i], config)
    phases = list(expected)
    assert [kind for kind, _ in captured] == [phase[-1] for phase in phases]
    for phase, (_, gradients) in zip(phases, captured):
        assert_gradients(gradients, expected[phase], phase)
    means = [losses["mean_path_length"] for losses in options["losses"] if "mean_path_length" in losses]
    assert math.isclose(trainer.path_mean.item(), means[-1] if means else 0, rel_tol=1e-5)
    assert_final(trainer, load_torch(f"{case.index.stem}_final.pt"), options["init_lr"])


def assert_losses(ours: dict[str, torch.Tensor], expected: dict[str, float], config: DistillConfig) -> None:
    weights = {"rgb": config.rgb_weight}
    names = {"d": "discriminator", "real_score": "real_score", "fake_score": "fake_score", "g": "generator"}
    names |= {"kd_l1_loss": "rgb", "r1": "r1", "path_loss": "path"}
    for theirs, name in names.items():
        assert (theirs in expected) == (name in ours), name
        if theirs in expected:
            value = ours[name].item() * weights.get(name, 1)
            assert math.isclose(value, expected[theirs], rel_tol=1e-5), (name, value, expected[theirs])


def assert_final(trainer: Trainer, final: dict, learning_rate: float) -> None:
    networks = to_rosinality(Checkpoint(g=trainer.g, g_ema=trainer.g_ema, d=trainer.d))
    for kind, parameters in final.items():
        for name, expected in parameters.items():
            difference = (networks[kind][name].reshape(expected.shape).float() - expected).abs()
            # Adam with β₁ = 0 moves by ±lr wherever the gradient is not exactly 0, however small and noisy it is.
            assert difference.quantile(0.99).item() < 2e-5, f"{kind} {name}"
            assert difference.max().item() < 5 * learning_rate, f"{kind} {name}"
