"""One step of an optimiser, with gradients that several passes and several processes add up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common import distributed
from ..common.errors import CagcError


@dataclass(frozen=True)
class Losses:
    """Losses of an iteration: unweighted scalars of the whole batch, detached; None where there was none."""

    discriminator: Tensor | None = None
    r1: Tensor | None = None
    rgb: Tensor | None = None
    perceptual: Tensor | None = None
    feature: Tensor | None = None
    relation: Tensor | None = None
    generator: Tensor | None = None
    path: Tensor | None = None


@dataclass(frozen=True)
class Statistics:
    """What an iteration observed beside its losses: scalars of the whole batch, detached; None where it did not look.

    Attributes:
        real_score, fake_score, real_sign: means of the discriminator's logits of real images, of the student's, and of
            the sign of the former.
        augment_p: probability of an augmentation.
        content_area: share of the pixels that is content.
        path_length: mean path length.
    """

    real_score: Tensor | None = None
    fake_score: Tensor | None = None
    real_sign: Tensor | None = None
    augment_p: Tensor | None = None
    content_area: Tensor | None = None
    path_length: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """Losses and statistics of an iteration, or of a part of it."""

    losses: Losses = Losses()
    statistics: Statistics = Statistics()

    @classmethod
    def of(cls, values: Mapping[str, Tensor]) -> Outcome:
        """From values by name of a loss or a statistic."""
        losses = {name: value for name, value in values.items() if name in Losses.__dataclass_fields__}
        rest = {name: value for name, value in values.items() if name not in losses}
        return cls(Losses(**losses), Statistics(**rest))

    def values(self) -> dict[str, Tensor]:
        """By name, what there is."""
        every = vars(self.losses) | vars(self.statistics)
        return {name: value for name, value in every.items() if value is not None}

    def __or__(self, other: Outcome) -> Outcome:
        return Outcome.of(self.values() | other.values())


class NonFiniteLoss(CagcError):
    """A loss or its gradient became NaN or infinite; no weight was updated with it."""


class Update:
    """Gradients and losses of one update, summed over passes here and over processes in :meth:`apply`.

    There is no ``DistributedDataParallel`` around the networks: its hooks fire on the first backward pass of a
    parameter, but R1 and the path length differentiate a gradient, and one iteration runs the same network in several
    graphs. Instead the finished gradients travel once, in one vector, together with the losses and with a flag for
    each parameter whether any process has a gradient for it: one that has none must be skipped by the optimiser
    everywhere.

    Args:
        optimizer: of one group of parameters; their gradients are cleared.
        names: of the losses and statistics that :meth:`add` is given, in each process the same.
        scaler: of the loss, for float16; where its gradients overflow, the update is left out and the scale halved.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, names: Sequence[str], scaler: torch.amp.GradScaler) -> None:
        self._optimizer, self._scaler = optimizer, scaler
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._values = {name: self._parameters[0].new_zeros(()) for name in names}
        optimizer.zero_grad(set_to_none=True)

    def add(self, total: Tensor, values: Mapping[str, Tensor]) -> None:
        """Add the gradient of the scalar ``total``, and ``values``: this pass's shares of those of the whole batch."""
        self._scaler.scale(total).backward()
        self.note(values)

    def note(self, values: Mapping[str, Tensor]) -> None:
        """Add to the values alone."""
        for name, value in values.items():
            self._values[name] += value.detach()

    def apply(self, step: int) -> Outcome:
        """Sum over processes and step; return the losses and statistics of the whole batch.

        Raises:
            NonFiniteLoss: in every process, naming the loss of iteration ``step``; nothing was updated.
        """
        if distributed.world_size() > 1:
            self._reduce()
        self._scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else self._parameters[0].new_zeros(())
        *values, norm = torch.stack([*self._values.values(), norm]).tolist()
        for name, value in zip(self._values, values):
            if not math.isfinite(value):
                raise NonFiniteLoss(f"the {name} loss became {value} at step {step}")
        if not math.isfinite(norm) and self._scaler.get_scale() <= 1:
            raise NonFiniteLoss(f"the gradient of the {' + '.join(self._values)} loss became {norm} at step {step}")
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return Outcome.of(self._values)

    @torch.no_grad()
    def _reduce(self) -> None:
        parameters, names = self._parameters, list(self._values)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        present = torch.tensor([p.grad is not None for p in parameters], dtype=parts[0].dtype, device=parts[0].device)
        flat = torch.cat([part.reshape(-1) for part in parts] + [present, torch.stack(list(self._values.values()))])
        sizes = [p.numel() for p in parameters] + [len(parameters), len(names)]
        *parts, present, values = distributed.all_sum(flat).split(sizes)
        for parameter, gradient, seen in zip(parameters, parts, present.tolist()):
            parameter.grad = gradient.view_as(parameter) if seen else None
        self._values = dict(zip(names, values))
