"""One optimiser step, with gradients summed over passes and processes."""

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
    """Losses of an iteration: unweighted, detached scalars over the whole batch; None for losses that did not run."""

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
    """Other statistics of an iteration: detached scalars over the whole batch; None for those not computed.

    Attributes:
        real_score, fake_score: means of the discriminator's logits of real images and of the student's.
        real_sign: mean sign of the logits of real images.
        augment_p: probability of each augmentation.
        content_area: share of content pixels.
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
        """Outcome from values by the name of a loss or a statistic."""
        losses = {name: value for name, value in values.items() if name in Losses.__dataclass_fields__}
        rest = {name: value for name, value in values.items() if name not in losses}
        return cls(Losses(**losses), Statistics(**rest))

    def values(self) -> dict[str, Tensor]:
        """All losses and statistics that are not None, by name."""
        every = vars(self.losses) | vars(self.statistics)
        return {name: value for name, value in every.items() if value is not None}

    def __or__(self, other: Outcome) -> Outcome:
        return Outcome.of(self.values() | other.values())


class NonFiniteLoss(CagcError):
    """A loss or its gradient became NaN or infinite; it was not used for an update."""


class Update:
    """Gradients and losses of one update, summed over passes here and over processes in :meth:`apply`.

    There is no ``DistributedDataParallel`` around the networks: its hooks fire on the first backward pass of a
    parameter, but R1 and the path length differentiate a gradient, and one iteration runs the same network in several
    graphs. Instead the finished gradients are summed once, as one vector, together with the losses and with a flag for
    each parameter that says whether any process has a gradient for it: the optimiser must skip a parameter without
    gradient in all processes.

    Args:
        optimizer: optimiser of one group of parameters, whose gradients are cleared.
        names: names of the losses and statistics passed to :meth:`add`, the same in every process.
        scaler: loss scaler for float16; if gradients overflow, the update is skipped and the scale halved.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, names: Sequence[str], scaler: torch.amp.GradScaler) -> None:
        self._optimizer, self._scaler = optimizer, scaler
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._values = {name: self._parameters[0].new_zeros(()) for name in names}
        optimizer.zero_grad(set_to_none=True)

    def add(self, total: Tensor, values: Mapping[str, Tensor]) -> None:
        """Add the gradient of the scalar ``total``, and ``values``, this pass's contributions to the batch."""
        self._scaler.scale(total).backward()
        self.note(values)

    def note(self, values: Mapping[str, Tensor]) -> None:
        """Add to the values only."""
        for name, value in values.items():
            self._values[name] += value.detach()

    def apply(self, step: int) -> Outcome:
        """Sum over processes and step the optimiser; return the losses and statistics of the whole batch.

        Raises:
            NonFiniteLoss: a loss of iteration ``step`` or its gradient is not finite; raised in every process, nothing
                was updated.
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
