"""One iteration of distillation: two losses, two lazy regularisers and the averaged weights.

The order within an iteration, and what is drawn for each part, are those of the paper's training: discriminator, R1 on
the same real images, generator, path length, average. Every random number comes in through :class:`Draws`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor

from ..content import ContentCoverage, ContentParser, validate_mask
from ..errors import CagcError
from ..models import Discriminator, Generator
from ..models.stylegan2 import Noise
from .config import DistillConfig
from .losses import (
    PerceptualDistance,
    discriminator_loss,
    generator_loss,
    load_perceptual,
    perceptual_loss,
    relation_loss,
    rgb_loss,
)
from .regularizers import path_length_penalty, r1_penalty
from .relation import draw_offsets, latent_directions, relation_layers
from .teachers import Latents, LiveTeacher, Teacher, with_noise

# Images whose masks are all empty before a parser counts as one that sees nothing.
_BLIND_SAMPLES = 256

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Draws:
    """Random numbers of one iteration; a part that the iteration has no use for is None.

    Attributes:
        discriminator: latents of the images that the discriminator sees as fake.
        generator: latents of the images that are compared with the teacher's.
        path: latents of the path length images.
        path_noise: standard normal, shaped as those images.
        offsets: [N, style_dim], moves of the w of ``generator`` that the relation loss compares.
    """

    generator: Latents
    discriminator: Latents | None = None
    path: Latents | None = None
    path_noise: Tensor | None = None
    offsets: Tensor | None = None


class NonFiniteLoss(CagcError):
    """A loss became NaN or infinite; no weight was updated with it."""


class Trainer:
    """Student, its average, discriminator and optimisers, with the updates of one iteration.

    Args:
        student: copied; the copy and its average begin with these weights.
        teacher: source of targets.
        discriminator: copied; None only where ``config.gan_weight`` is 0.
        config: settings.
        parser: content mask, from the teacher's images; None: everything.
        perceptual: distance to use instead of the one that ``config`` names.

    Raises:
        CagcError: the networks do not fit each other, or ``config.frozen`` leaves nothing to train or matches nothing.
    """

    def __init__(
        self,
        student: Generator,
        teacher: Teacher,
        discriminator: Discriminator | None,
        config: DistillConfig,
        parser: ContentParser | None = None,
        perceptual: PerceptualDistance | None = None,
    ) -> None:
        self.config, self.teacher, self.parser = config, teacher, parser
        self.device = student.w_avg.device
        self.g = copy.deepcopy(student).train().requires_grad_(True)
        self.g_ema = copy.deepcopy(student).eval().requires_grad_(False)
        self._freeze()
        self.g_optimizer = self._adam(self.g, config.g_reg_every if config.path_weight else 0)
        self.d = self.d_optimizer = None
        if config.gan_weight:
            if discriminator is None:
                raise CagcError("discriminator: got None, expected one with gan_weight above 0")
            self.d = copy.deepcopy(discriminator).to(self.device).train().requires_grad_(True)
            self.d_optimizer = self._adam(self.d, config.d_reg_every if config.r1_gamma else 0)
        self.perceptual = perceptual
        if perceptual is None and config.perceptual_weight:
            self.perceptual = load_perceptual(config.perceptual, self.device, config.perceptual_size)
        self.directions = None
        if config.relation_weight:
            if not isinstance(teacher, LiveTeacher):
                raise CagcError("relation_weight: expected 0 for recorded images, which have no features")
            self.layers = relation_layers(teacher.generator, config.relation_resolutions)
            self.directions = latent_directions(
                teacher.generator, config.relation_resolutions, config.relation_directions
            )
        self.coverage = ContentCoverage()
        self._blind_after = min(_BLIND_SAMPLES, config.steps * config.batch_size)
        self.path_mean = torch.zeros([], device=self.device, dtype=student.w_avg.dtype)
        self.rng = torch.Generator(self.device).manual_seed(config.seed)
        self.step = 0

    def _freeze(self) -> None:
        names = [name for name, _ in self.g.named_parameters()]
        for pattern in self.config.frozen:
            if not any(fnmatch(name, pattern) for name in names):
                raise CagcError(f"frozen: {pattern!r} matches no parameter, such as {names[0]!r} or {names[-1]!r}")
        for name, parameter in self.g.named_parameters():
            parameter.requires_grad_(not any(fnmatch(name, pattern) for pattern in self.config.frozen))
        if not any(p.requires_grad for p in self.g.parameters()):
            raise CagcError(f"frozen: {list(self.config.frozen)} leaves nothing to train")

    def _adam(self, network: torch.nn.Module, reg_every: int) -> torch.optim.Adam:
        # A lazy regulariser adds one update to every reg_every; the rate and the memory are scaled to make up for it
        # (Karras et al., CVPR 2020, appendix B).
        ratio = reg_every / (reg_every + 1) if reg_every else 1.0
        lr, betas = self.config.learning_rate * ratio, tuple(beta**ratio for beta in self.config.betas)
        optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=lr, betas=betas)
        for group in optimizer.param_groups:
            group["initial_lr"] = lr
        return optimizer

    def draw(self) -> Draws:
        """Draw the random numbers of iteration ``self.step``."""
        config = self.config
        discriminator = self._draw_latents(config.batch_size) if self.d is not None else None
        generator = self._draw_latents(config.batch_size)
        offsets = None
        if self.directions is not None:
            offsets = draw_offsets(self.directions, config.batch_size, config.relation_strength, self.rng)
        if not config.path_weight or self.step % config.g_reg_every:
            return Draws(generator, discriminator, offsets=offsets)
        batch = max(1, config.batch_size // config.path_batch_shrink)
        path = self._draw_latents(batch)
        side = self.g.config.resolution
        path_noise = torch.randn(batch, 3, side, side, generator=self.rng, device=self.device)
        return Draws(generator, discriminator, path, path_noise, offsets)

    def _draw_latents(self, batch: int) -> Latents:
        latents = self.teacher.latents(batch, self.rng, self.config.mixing_probability)
        if self.config.noise != "random":
            return with_noise(latents, self.config.noise, self.config.noise)
        noise = self._draw_noise(batch)
        return with_noise(latents, noise, noise if self.config.share_noise else self._draw_noise(batch))

    def _draw_noise(self, batch: int) -> Noise:
        shapes = self.g.synthesis.noise_shapes()
        return [torch.randn(batch, 1, h, w, generator=self.rng, device=self.device) for h, w in shapes]

    def iteration(self, real: Tensor | None, draws: Draws) -> Losses:
        """Run iteration ``self.step`` and count it. Losses are unweighted scalars, detached.

        Args:
            real: images [N, 3, R, R] in [-1, 1]; None where there is no discriminator.
            draws: its random numbers.

        Raises:
            NonFiniteLoss: naming the loss; the weights are those before the update that it would have made.
            CagcError: the parser's mask has another shape or values than it must, or 256 masks in a row were empty.
        """
        config, losses = self.config, {}
        self._set_learning_rate()
        if self.d is not None:
            losses |= self.train_discriminator(real, draws.discriminator)
            if config.r1_gamma and self.step % config.d_reg_every == 0:
                losses |= self.regularize_discriminator(real)
        losses |= self.train_generator(draws.generator, draws.offsets)
        if draws.path is not None:
            losses |= self.regularize_generator(draws.path, draws.path_noise)
        self.update_average()
        self.step += 1
        return losses

    def _set_learning_rate(self) -> None:
        for optimizer in (self.g_optimizer, self.d_optimizer):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = group["initial_lr"] * self.config.lr_factor(self.step)

    def train_discriminator(self, real: Tensor, latents: Latents) -> Losses:
        """Logistic loss on ``real`` [N, 3, R, R] and on the student's images."""
        with torch.no_grad():
            fake = self.g.synthesis(latents.ws(self.g), latents.noise)
        self.d.requires_grad_(True)
        real_logits, fake_logits = self.d(real), self.d(fake)
        loss = discriminator_loss(real_logits, fake_logits)
        self._update(self.d_optimizer, {"discriminator": loss}, loss)
        real_score, fake_score = real_logits.detach().mean(), fake_logits.detach().mean()
        return {"discriminator": loss.detach(), "real_score": real_score, "fake_score": fake_score}

    def regularize_discriminator(self, real: Tensor) -> Losses:
        """R1 on ``real`` [N, 3, R, R], weighted for being applied every ``d_reg_every`` steps."""
        self.d.requires_grad_(True)
        real = real.detach().requires_grad_(True)
        logits = self.d(real)
        penalty = r1_penalty(logits, real)
        # The zero term gives every parameter a gradient: Adam skips one without, and its moments would not decay.
        total = self.config.r1_gamma / 2 * self.config.d_reg_every * penalty + 0 * logits[0].sum()
        self._update(self.d_optimizer, {"r1": penalty}, total)
        return {"r1": penalty.detach()}

    def train_generator(self, latents: Latents, offsets: Tensor | None = None) -> Losses:
        """Adversarial loss and distance to the teacher's images, computed once with their mask.

        ``offsets`` [N, style_dim]: moves of w for the relation loss; None leaves it out.
        """
        config = self.config
        intermediate = config.kd_mode == "intermediate"
        seen, expected = ({}, {}) if offsets is not None else (None, None)
        targets, mask = self._targets(latents, intermediate, expected)
        ws = latents.ws(self.g)
        out = self.g.synthesis(ws, latents.noise, return_rgbs=intermediate, features=seen)
        rgbs = out if intermediate else [out]
        losses, total = {}, 0.0
        if config.rgb_weight:
            losses["rgb"] = rgb_loss(rgbs, targets, mask, config.kd_mode, config.normalize_by_area)
            total = total + config.rgb_weight * losses["rgb"]
        if config.perceptual_weight:
            losses["perceptual"] = perceptual_loss(rgbs[-1], targets[-1], self.perceptual, mask)
            total = total + config.perceptual_weight * losses["perceptual"]
        if offsets is not None:
            losses["relation"] = self._relation(latents, offsets, seen, expected)
            total = total + config.relation_weight * losses["relation"]
        gan_weight = config.gan_weight_at(self.step) if self.d is not None else 0.0
        if gan_weight:
            self.d.requires_grad_(False)
            losses["generator"] = generator_loss(self.d(rgbs[-1]))
            total = total + gan_weight * losses["generator"]
        if losses:
            self._update(self.g_optimizer, losses, total)
        if mask is not None:
            losses["content_area"] = mask.mean()
        return {name: value.detach() for name, value in losses.items()}

    def _relation(self, latents: Latents, offsets: Tensor, seen: Losses, expected: Losses) -> Tensor:
        """Relation loss, given the features of the unmoved w."""
        moved, moved_expected = {}, {}
        self.g.synthesis(latents.ws(self.g) + offsets[:, None], latents.noise, features=moved)
        self.teacher.rgbs(latents, features=moved_expected, offset=offsets)
        return relation_loss(
            [(seen[name], moved[name]) for name in self.layers],
            [(expected[name], moved_expected[name]) for name in self.layers],
        )

    def _targets(
        self, latents: Latents, intermediate: bool, features: dict[str, Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        config = self.config
        if not (config.rgb_weight or config.perceptual_weight or features is not None):
            return [], None
        targets = self.teacher.rgbs(latents, intermediate, features=features)
        if self.parser is None:
            return targets, None
        with torch.no_grad():
            mask = self.parser(targets[-1], seeds=latents.seeds)
        mask = validate_mask(mask, targets[-1], self.parser.name).to(targets[-1])
        if self.coverage.samples < self._blind_after:
            self.coverage.add(mask)
            if self.coverage.samples >= self._blind_after:
                self.coverage.check(self.parser.name)
        return targets, mask

    def regularize_generator(self, latents: Latents, path_noise: Tensor) -> Losses:
        """Path length penalty, weighted for being applied every ``g_reg_every`` steps; updates the running mean."""
        ws = latents.ws(self.g)
        if not ws.requires_grad:
            ws = ws.detach().requires_grad_(True)
        image = self.g.synthesis(ws, latents.noise)
        penalty, mean, lengths = path_length_penalty(image, ws, self.path_mean, self.config.path_decay, path_noise)
        # See regularize_discriminator for the zero term.
        total = self.config.path_weight * self.config.g_reg_every * penalty + 0 * image[0, 0, 0, 0]
        self._update(self.g_optimizer, {"path": penalty}, total)
        self.path_mean = mean
        return {"path": penalty.detach(), "path_length": lengths.mean()}

    def _update(self, optimizer: torch.optim.Optimizer, losses: Losses, total: Tensor) -> None:
        for name, value in losses.items():
            if not torch.isfinite(value):
                raise NonFiniteLoss(f"the {name} loss became {value.item()} at step {self.step}")
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged weights towards the student's; buffers, which are not trained, stay as they are."""
        decay = self.config.ema_decay(self.step)
        trained = dict(self.g.named_parameters())
        for name, average in self.g_ema.named_parameters():
            average.lerp_(trained[name], 1 - decay)

    def is_finite(self) -> bool:
        """Whether every trained weight is a finite number."""
        networks = [n for n in (self.g, self.g_ema, self.d) if n is not None]
        return all(bool(torch.isfinite(p).all()) for network in networks for p in network.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration depends on, as tensors, numbers and containers."""
        state = {
            "step": self.step,
            "path_mean": self.path_mean,
            "rng": self.rng.get_state(),
            "g": self.g.state_dict(),
            "g_ema": self.g_ema.state_dict(),
            "g_optimizer": self.g_optimizer.state_dict(),
        }
        if self.d is not None:
            state |= {"d": self.d.state_dict(), "d_optimizer": self.d_optimizer.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`. Raises KeyError or RuntimeError where it belongs to other networks."""
        for name in ("g", "g_ema", "g_optimizer") + (("d", "d_optimizer") if self.d is not None else ()):
            getattr(self, name).load_state_dict(state[name])
        self.rng.set_state(state["rng"].cpu())
        self.path_mean = state["path_mean"].to(self.device)
        self.step = state["step"]
