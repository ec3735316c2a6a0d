"""Estimates the memory of a training step before the first one.

The memory of tensors saved for backward passes grows linearly with the batch: it is measured for one and for two images
and extrapolated. Weights, gradients and Adam's moments are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .regularizers import path_lengths, r1_penalty
from .teachers import LiveTeacher
from .trainer import Trainer


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated memory of one process, in bytes.

    Attributes:
        weights: weights of student, average, discriminator and teacher.
        optimisers: gradients and both moments of Adam.
        targets: the pool of the teacher's targets; 0 without one.
        phases: tensors saved by the graph of each phase, in its largest pass.
    """

    weights: int
    optimisers: int
    targets: int
    phases: dict[str, int]

    @property
    def total(self) -> int:
        """Peak in the largest phase, without perceptual features, convolution workspaces and PyTorch itself."""
        return self.weights + self.optimisers + self.targets + max(self.phases.values())

    def describe(self) -> str:
        """One line for the log."""
        largest = max(self.phases, key=self.phases.get)
        parts = (self.total, self.weights, self.optimisers, self.phases[largest], self.targets)
        total, weights, optimisers, graph, targets = (f"{part / 2**20:,.0f}" for part in parts)
        return (
            f"memory: {total} MiB a process expected at least, of them {weights} weights, {optimisers} gradients and "
            f"optimisers, {graph} the graph of the {largest}"
        ) + (f", {targets} the teacher's targets" if self.targets else "")


def estimate(trainer: Trainer) -> MemoryEstimate:
    """Estimate the memory of a step of ``trainer`` in which every regulariser runs.

    Runs the networks on one and on two images. It uses no random state and changes nothing: running statistics of the
    networks are restored.
    """
    buffers = [b for network in (trainer.g, trainer.d) if network is not None for b in network.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        return _estimate(trainer)
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def _estimate(trainer: Trainer) -> MemoryEstimate:
    g, d, config = trainer.g, trainer.d, trainer.config
    shape = (g.img_channels, *g.img_size)

    def labels(count: int, c_dim: int) -> Tensor | None:
        return torch.zeros(count, c_dim, device=trainer.device, dtype=trainer.dtype) if c_dim else None

    def image(count: int) -> tuple[Tensor, Tensor]:
        with trainer.autocast():
            z = torch.zeros(count, g.z_dim, device=trainer.device, dtype=trainer.dtype)
            ws = g.mapping(z, labels(count, g.c_dim))
            ws = ws if ws.requires_grad else ws.requires_grad_(True)
            return g.synthesis(ws, "const").to(trainer.dtype), ws

    def judge(images: Tensor) -> Tensor:
        with trainer.autocast():
            return d(images, labels(len(images), d.config.c_dim)).to(trainer.dtype)

    def blank(count: int) -> Tensor:
        return torch.zeros(count, *shape, device=trainer.device, dtype=trainer.dtype, requires_grad=True)

    def penalty(count: int) -> Tensor:
        images = blank(count)
        return r1_penalty(judge(images), images)

    def lengths(count: int) -> Tensor:
        drawn, ws = image(count)
        return path_lengths(drawn, ws, blank(count).detach())

    size = max(part.stop - part.start for part in trainer.layout.passes)
    path = max((part.stop - part.start for part in trainer.path_layout.passes), default=0)
    phases = {"generator": (lambda n: image(n)[0] if d is None else judge(image(n)[0]), size)}
    if d is not None:
        phases["discriminator"] = (lambda n: judge(blank(2 * n).detach()), size)
        phases |= {"R1 penalty": (penalty, size)} if config.r1_gamma else {}
    phases |= {"path length": (lengths, path)} if config.path_weight and path else {}
    weights = [p for n in (g, trainer.g_ema, d) if n is not None for p in n.parameters()]
    if isinstance(trainer.teacher, LiveTeacher):
        weights += trainer.teacher.generator.parameters()
    trained = [p for p in weights if p.requires_grad]
    kept = {name: _extrapolated(function, count, weights) for name, (function, count) in phases.items()}
    return MemoryEstimate(_bytes(weights), 3 * _bytes(trained), _pool(trainer), kept)


def _pool(trainer: Trainer) -> int:
    """Bytes of this process's part of the target pool, extrapolated from one sample."""
    config = trainer.config
    if config.target_pool is None:
        return 0
    draws, one = trainer.draw(), slice(0, 1)
    offsets = None if draws.offsets is None else draws.offsets[one]
    targets = trainer.objective.targets(draws.generator[one], offsets).to(torch.float16)
    return targets.nbytes() * (config.target_pool // config.batch_size) * len(trainer.layout.numbers)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.untyped_storage().nbytes() for t in tensors)


def _extrapolated(function: Callable[[int], Tensor], count: int, weights: list[Tensor]) -> int:
    one, two = (_kept(function, n, weights) for n in (1, 2))
    return one + (count - 1) * (two - one)


def _kept(function: Callable[[int], Tensor], count: int, weights: list[Tensor]) -> int:
    """Bytes of the storages that the graph of ``function(count)`` saves, without weights."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        # Keeping a reference to the storage prevents its address from being reused.
        storages.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage())
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        function(count)
    for weight in weights:
        storages.pop(weight.untyped_storage().data_ptr(), None)
    return sum(storage.nbytes() for storage in storages.values())
