"""One iteration of distillation: two losses, two lazy regularisers and the averaged weights.

The order within an iteration, and the random numbers of each part, are those of the paper's training: discriminator, R1
on the same real images, generator, path length, average. All random numbers are passed in as :class:`Draws`.

Each process computes its share of a batch in one or several passes, and the gradients are summed before an update.
Quantities over the samples of a batch (minibatch standard deviation, mean path length, area of the content) are taken
over the whole batch, whatever the number of processes; only the relation loss is computed within a pass.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor

from ..common import distributed
from ..common.errors import CagcError
from ..content import ContentParser
from ..models import AnyDiscriminator, AnyGenerator
from .augment import Augment
from .clock import PhaseClock
from .config import DistillConfig
from .draws import Draws, Layout, SampleStreams, keeps_groups
from .latents import Latents, with_noise
from .losses import PerceptualDistance, discriminator_loss, generator_loss
from .objective import Objective, Targets
from .regularizers import path_length_penalty, path_lengths, r1_penalty
from .relation import draw_offsets
from .teachers import Teacher
from .update import Outcome, Statistics, Update

# The parts of Draws that the teacher's targets depend on.
_COMPARED = ("generator", "offsets")

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Trainer:
    """Student, its averaged copy, discriminator and optimisers, with the updates of one iteration.

    Args:
        student: copied; the copy and its average start from these weights.
        teacher: source of targets.
        discriminator: copied; None only where ``config.gan_weight`` is 0.
        config: settings.
        parser: content mask, from the teacher's images; None: everything.
        perceptual: distance to use instead of the one that ``config`` names; a mean over the images of a batch.
        augment: augmentation of the discriminator's images; None: no augmentation.
        kept: layer → the teacher's channels that the student kept, needed with ``config.feature_weight``.

    Raises:
        CagcError: the networks do not match, the batch is smaller than the number of processes, or ``config.frozen``
            leaves nothing to train or matches nothing.
    """

    def __init__(
        self,
        student: AnyGenerator,
        teacher: Teacher,
        discriminator: AnyDiscriminator | None,
        config: DistillConfig,
        parser: ContentParser | None = None,
        perceptual: PerceptualDistance | None = None,
        augment: Augment | None = None,
        kept: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.config, self.teacher, self.augment = config, teacher, augment
        self.device, self.dtype = student.w_avg.device, student.w_avg.dtype
        self.g = copy.deepcopy(student).train().requires_grad_(True)
        self.g_ema = copy.deepcopy(student).eval().requires_grad_(False)
        if teacher.labels is not None:
            self.g.labels = self.g_ema.labels = teacher.labels
        self._freeze()
        self.g_optimizer = self._adam(self.g, config.g_reg_every if config.path_weight else 0)
        self.d = self.d_optimizer = None
        if config.gan_weight:
            if discriminator is None:
                raise CagcError("discriminator: got None, expected one with gan_weight above 0")
            self.d = copy.deepcopy(discriminator).to(self.device).train().requires_grad_(True)
            self.d_optimizer = self._adam(self.d, config.d_reg_every if config.r1_gamma else 0)
        self.objective = Objective(teacher, config, parser, perceptual, self.device, kept)
        self.layout, self.path_layout = self._layouts()
        self._pool: dict[int, list[Targets]] = {}
        self.clock = PhaseClock(self.device)
        self.path_mean = torch.zeros([], device=self.device, dtype=student.w_avg.dtype)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.step = 0

    def _layouts(self) -> tuple[Layout, Layout]:
        batch, limit = self.config.batch_size, self.config.micro_batch
        if batch < distributed.world_size():
            raise CagcError(
                f"batch_size: got {batch}, expected at least one image for each of {distributed.world_size()} processes"
            )
        group = 1 if self.d is None else self.d.config.group_size(batch)
        layout = Layout.of(batch, group, limit)
        shards = distributed.world_size() * len(layout.passes)
        if not keeps_groups(batch, group, shards) and distributed.is_main():
            warnings.warn(
                f"batch_size {batch} in {shards} parts: the minibatch standard deviation is taken over fewer than "
                f"{group} images, unlike in one part; a multiple of {group * shards} would avoid it",
                stacklevel=3,
            )
        return layout, Layout.of(max(1, batch // self.config.path_batch_shrink), micro_batch=limit)

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
        """Draw this process's share of the random numbers of iteration ``self.step``."""
        config, layout = self.config, self.layout
        optional: dict[str, Any] = {}
        if self.d is not None:
            optional["discriminator"] = self._draw_latents("discriminator", layout)
        if self.objective.directions is not None:
            streams = self._streams("offsets", layout)
            optional["offsets"] = draw_offsets(self.objective.directions, config.relation_strength, streams)
        if config.path_weight and self.step % config.g_reg_every == 0:
            optional["path"] = self._draw_latents("path", self.path_layout)
            optional["path_noise"] = self._streams("path", self.path_layout).normal(
                "image", self.g.img_channels, *self.g.img_size
            )
        if self.augment is not None:
            optional["augment"] = {
                name: self.augment.draw(self._streams(f"augment {name}", layout))
                for name in ("real", "fake", "generator", "r1")
            }
        return Draws(self._draw_latents("generator", layout), **optional)

    def lead(self, real: Tensor, number: int, labels: Tensor | None = None) -> Outcome:
        """Update ``number`` of the discriminator before iteration ``self.step``, one of ``config.d_steps`` - 1.

        ``real`` and ``labels`` as in :meth:`iteration`. The iteration itself is the last update.
        """
        latents = self._draw_latents(f"discriminator {number}", self.layout)
        augment = {
            name: self.augment.draw(self._streams(f"augment {name} {number}", self.layout))
            for name in (("real", "fake") if self.augment is not None else ())
        }
        self._set_learning_rate()
        with self.clock("discriminator"):
            return self.train_discriminator(real, Draws(latents, discriminator=latents, augment=augment), labels)

    def _streams(self, part: str, layout: Layout) -> SampleStreams:
        step = self.config.pool_step(self.step) if part in _COMPARED else self.step
        return SampleStreams(self.config.seed, step, part, layout.numbers, self.device)

    def _draw_latents(self, part: str, layout: Layout) -> Latents:
        streams = self._streams(part, layout)
        latents = self.teacher.latents(streams, self.config.mixing_probability)
        if self.config.noise != "random":
            return with_noise(latents, self.config.noise, self.config.noise)
        shapes = self.g.synthesis.noise_shapes()
        noise = streams.noise("noise", shapes)
        return with_noise(latents, noise, noise if self.config.share_noise else streams.noise("teacher", shapes))

    def iteration(self, real: Tensor | None, draws: Draws, labels: Tensor | None = None) -> Outcome:
        """Run iteration ``self.step`` and increment ``self.step``.

        Args:
            real: this process's images [N, 3, R, R] in [-1, 1], those of ``self.layout.numbers``; None where there is
                no discriminator.
            draws: random numbers of this iteration.
            labels: those of ``real`` [N, c_dim]; None for a discriminator without labels.

        Raises:
            NonFiniteLoss: a loss (named in the message) is NaN or infinite; its update was not made.
            CagcError: the parser's mask is invalid, or 256 masks in a row were empty.
        """
        config, outcome = self.config, Outcome()
        self._set_learning_rate()
        if self.d is not None:
            with self.clock("discriminator"):
                outcome |= self.train_discriminator(real, draws, labels)
            if config.r1_gamma and self.step % config.d_reg_every == 0:
                with self.clock("regularisers"):
                    outcome |= self.regularize_discriminator(real, draws, labels)
        outcome |= self.train_generator(draws)
        if draws.path is not None:
            with self.clock("regularisers"):
                outcome |= self.regularize_generator(draws.path, draws.path_noise)
        self.update_average()
        self.step += 1
        return outcome

    def _set_learning_rate(self) -> None:
        for optimizer in (self.g_optimizer, self.d_optimizer):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = group["initial_lr"] * self.config.lr_factor(self.step)

    def _update(self, optimizer: torch.optim.Optimizer, *losses: str) -> Update:
        return Update(optimizer, losses, self.scaler)

    def autocast(self) -> AbstractContextManager[None]:
        """Context in which the networks run in ``config.precision``."""
        dtype = _HALF.get(self.config.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def _synthesis(self, latents: Latents, offset: Tensor | None = None, **options: Any) -> Tensor | list[Tensor]:
        with self.autocast():
            ws = latents.ws(self.g)
            out = self.g.synthesis(ws if offset is None else ws + offset[:, None], latents.noise, **options)
        return [image.to(self.dtype) for image in out] if isinstance(out, list) else out.to(self.dtype)

    def _logits(self, images: Tensor, labels: Tensor | None, draws: Draws, name: str, part: slice) -> Tensor:
        if self.augment is not None:
            images = self.augment(images, draws.augment[name][part])
        with self.autocast():
            return self.d(images, labels if self.d.config.c_dim else None).to(self.dtype)

    def train_discriminator(self, real: Tensor, draws: Draws, labels: Tensor | None = None) -> Outcome:
        """Adversarial loss on ``real`` [N, 3, R, R] with its labels [N, c_dim], and on the student's images."""
        self.d.requires_grad_(True)
        update = self._update(self.d_optimizer, "discriminator", "real_score", "fake_score", "real_sign")
        for part in self.layout.passes:
            share = self.layout.share(part)
            with torch.no_grad():
                fake = self._synthesis(draws.discriminator[part])
            real_logits = self._logits(real[part], _part(labels, part), draws, "real", part)
            fake_logits = self._logits(fake, draws.discriminator[part].c, draws, "fake", part)
            loss = share * discriminator_loss(real_logits, fake_logits, self.config.gan_loss)
            scores = {"real_score": real_logits, "fake_score": fake_logits, "real_sign": real_logits.sign()}
            update.add(loss, {"discriminator": loss} | {k: share * v.detach().mean() for k, v in scores.items()})
        outcome = update.apply(self.step)
        probability = None
        if self.augment is not None:
            probability = self.augment.adapt(outcome.statistics.real_sign, self.config.batch_size)
        return replace(outcome, statistics=replace(outcome.statistics, real_sign=None, augment_p=probability))

    def regularize_discriminator(self, real: Tensor, draws: Draws, labels: Tensor | None = None) -> Outcome:
        """R1 on ``real`` [N, 3, R, R], scaled because it runs only every ``d_reg_every`` steps."""
        self.d.requires_grad_(True)
        update = self._update(self.d_optimizer, "r1")
        for part in self.layout.passes:
            images = real[part].detach().requires_grad_(True)
            logits = self._logits(images, _part(labels, part), draws, "r1", part)
            penalty = self.layout.share(part) * r1_penalty(logits, images)
            # The zero term gives every parameter a gradient; without one Adam would not decay its moments.
            total = self.config.r1_gamma / 2 * self.config.d_reg_every * penalty + 0 * logits[0].sum()
            update.add(total, {"r1": penalty})
        return update.apply(self.step)

    def train_generator(self, draws: Draws) -> Outcome:
        """Adversarial loss and distance to the teacher's images, computed once with their mask."""
        objective, passes = self.objective, self.layout.passes
        weights = objective.weights(self.step)
        if self.d is not None and (gan_weight := self.config.gan_weight_at(self.step)):
            weights["generator"] = gan_weight
            self.d.requires_grad_(False)
        if not weights:
            return Outcome()
        latents = [draws.generator[part] for part in passes]
        offsets = [None if draws.offsets is None else draws.offsets[part] for part in passes]
        with self.clock("teacher"), self.autocast():
            targets = self._targets(latents, offsets)
            area = objective.content_area(targets)
        if self.config.whole_at(self.step):
            targets = [replace(t, mask=None) for t in targets]
        update = self._update(self.g_optimizer, *weights)
        for i, part in enumerate(passes):
            with self.clock("student"):
                compared = objective.compare(self._synthesis, latents[i], offsets[i], targets[i])
                losses = dict(compared.losses)
                if "generator" in weights:
                    logits = self._logits(compared.images, latents[i].c, draws, "generator", part)
                    losses["generator"] = generator_loss(logits, self.config.gan_loss)
                losses = {k: objective.share(k, len(latents[i]), targets[i], area) * losses[k] for k in weights}
            with self.clock("backward"):
                update.add(sum(weights[name] * losses[name] for name in weights), losses)
        with self.clock("backward"):
            return update.apply(self.step) | Outcome(statistics=Statistics(content_area=area))

    def _targets(self, latents: list[Latents], offsets: list[Tensor | None]) -> list[Targets]:
        """Targets of each pass: computed, or with a pool reused from an earlier step, stored in half the memory."""
        if self.config.target_pool is None:
            return [self.objective.targets(*batch) for batch in zip(latents, offsets)]
        step = self.config.pool_step(self.step)
        if step not in self._pool:
            found = [self.objective.targets(*batch) for batch in zip(latents, offsets)]
            self._pool[step] = [targets.to(torch.float16) for targets in found]
        # The first use rounds as later ones do, so that a resumed run, whose pool is empty, gets the same numbers.
        return [targets.to(self.dtype) for targets in self._pool[step]]

    def regularize_generator(self, latents: Latents, path_noise: Tensor) -> Outcome:
        """Path length penalty, scaled because it runs only every ``g_reg_every`` steps; updates the running mean.

        The mean is over the whole batch. With more than one pass the lengths are computed twice: first all of them
        without a graph, and then each pass with its graph.
        """
        layout, decay = self.path_layout, self.config.path_decay
        update = self._update(self.g_optimizer, "path")
        graph = None
        if len(layout.passes) == 1:
            lengths, image = graph = self._path_lengths(latents, path_noise)
        else:
            parts = [self._path_lengths(latents[p], path_noise[p], False)[0].detach() for p in layout.passes]
            lengths = torch.cat([path_noise.new_empty(0), *parts])
        everyone = torch.zeros(layout.batch, dtype=lengths.dtype, device=self.device)
        everyone[list(layout.numbers)] = lengths.detach()
        distributed.all_sum(everyone)
        for part in layout.passes:
            lengths, image = graph or self._path_lengths(latents[part], path_noise[part])
            rows = torch.tensor(layout.numbers[part], device=self.device)
            penalty, _ = path_length_penalty(everyone.index_copy(0, rows, lengths), self.path_mean, decay)
            # See regularize_discriminator for the zero term.
            total = self.config.path_weight * self.config.g_reg_every * penalty + 0 * image[0, 0, 0, 0]
            update.add(total, {})
        penalty, mean = path_length_penalty(everyone, self.path_mean, decay)
        update.note({"path": penalty / distributed.world_size()})
        outcome = update.apply(self.step)
        self.path_mean = mean
        return outcome | Outcome(statistics=Statistics(path_length=everyone.mean()))

    def _path_lengths(self, latents: Latents, noise: Tensor, create_graph: bool = True) -> tuple[Tensor, Tensor]:
        with self.autocast():
            ws = latents.ws(self.g)
            if not ws.requires_grad:
                ws = ws.detach().requires_grad_(True)
            image = self.g.synthesis(ws, latents.noise).to(self.dtype)
        return path_lengths(image, ws, noise, create_graph), image

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged weights towards the student's; statistics of batch normalisation are copied."""
        decay = self.config.ema_decay(self.step)
        trained = dict(self.g.named_parameters())
        for name, average in self.g_ema.named_parameters():
            average.lerp_(trained[name], 1 - decay)
        for average, buffer in zip(self.g_ema.buffers(), self.g.buffers(), strict=True):
            average.copy_(buffer)

    def is_finite(self) -> bool:
        """Whether every trained weight is a finite number."""
        networks = [n for n in (self.g, self.g_ema, self.d) if n is not None]
        return all(bool(torch.isfinite(p).all()) for network in networks for p in network.parameters())

    def checksums(self) -> dict[str, float]:
        """One number per network, to detect that the weights of processes differ."""
        networks = {"g": self.g, "g_ema": self.g_ema, "d": self.d}
        networks = {name: [p.detach() for p in n.parameters()] for name, n in networks.items() if n is not None}
        return {name: sum(p.double().sum() for p in parameters).item() for name, parameters in networks.items()}

    def state_dict(self) -> dict[str, Any]:
        """State that the next iterations depend on, as tensors, numbers and containers."""
        state = {
            "step": self.step,
            "path_mean": self.path_mean,
            "scaler": self.scaler.state_dict(),
            "g": self.g.state_dict(),
            "g_ema": self.g_ema.state_dict(),
            "g_optimizer": self.g_optimizer.state_dict(),
        }
        if self.d is not None:
            state |= {"d": self.d.state_dict(), "d_optimizer": self.d_optimizer.state_dict()}
        if self.augment is not None:
            state["augment"] = self.augment.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`. Raises KeyError or RuntimeError for other networks."""
        names = ("g", "g_ema", "g_optimizer", "scaler")
        names += ("d", "d_optimizer") if self.d is not None else ()
        names += ("augment",) if self.augment is not None else ()
        for name in names:
            getattr(self, name).load_state_dict(state[name])
        self.path_mean = state["path_mean"].to(self.device)
        self.step = state["step"]


def _part(labels: Tensor | None, part: slice) -> Tensor | None:
    return None if labels is None else labels[part]
