"""One step of an optimiser, with gradients that several passes and several processes add up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import distributed
from ..errors import CagcError

Losses = dict[str, Tensor]


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
        losses: names of what :meth:`add` is given, in each process the same.
        scaler: of the loss, for float16; where its gradients overflow, the update is left out and the scale halved.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, losses: Sequence[str], scaler: torch.amp.GradScaler) -> None:
        self._optimizer, self._scaler = optimizer, scaler
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._losses = {name: self._parameters[0].new_zeros(()) for name in losses}
        optimizer.zero_grad(set_to_none=True)

    def add(self, total: Tensor, losses: Losses) -> None:
        """Add the gradient of the scalar ``total``, and ``losses``: shares of the values of the whole batch."""
        self._scaler.scale(total).backward()
        self.note(losses)

    def note(self, losses: Losses) -> None:
        """Add to ``losses`` alone."""
        for name, value in losses.items():
            self._losses[name] += value.detach()

    def apply(self, step: int) -> Losses:
        """Sum over processes and step; return the losses of the whole batch.

        Raises:
            NonFiniteLoss: in every process, naming the loss of iteration ``step``; nothing was updated.
        """
        if distributed.world_size() > 1:
            self._reduce()
        self._scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else self._parameters[0].new_zeros(())
        *values, norm = torch.stack([*self._losses.values(), norm]).tolist()
        for name, value in zip(self._losses, values):
            if not math.isfinite(value):
                raise NonFiniteLoss(f"the {name} loss became {value} at step {step}")
        if not math.isfinite(norm) and self._scaler.get_scale() <= 1:
            raise NonFiniteLoss(f"the gradient of the {' + '.join(self._losses)} loss became {norm} at step {step}")
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return self._losses

    @torch.no_grad()
    def _reduce(self) -> None:
        parameters, names = self._parameters, list(self._losses)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        present = torch.tensor([p.grad is not None for p in parameters], dtype=parts[0].dtype, device=parts[0].device)
        flat = torch.cat([part.reshape(-1) for part in parts] + [present, torch.stack(list(self._losses.values()))])
        sizes = [p.numel() for p in parameters] + [len(parameters), len(names)]
        *parts, present, losses = distributed.all_sum(flat).split(sizes)
        for parameter, gradient, seen in zip(parameters, parts, present.tolist()):
            parameter.grad = gradient.view_as(parameter) if seen else None
        self._losses = dict(zip(names, losses))
