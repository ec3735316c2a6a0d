"""Latents and noise from seeds: the same seed gives the same image in any batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch


def derived_seed(*parts: str | int) -> int:
    """Return a seed in [0, 2⁶³) that depends on ``parts`` and is unrelated to the seeds of other parts.

    It is a hash, because PyTorch's CPU generator uses only the low 32 bits of a seed: adding 2⁴⁰ changes nothing.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def z_from_seed(seed: int, z_dim: int) -> torch.Tensor:
    """Draw a standard normal latent [z_dim], float32, on the CPU, which depends only on ``seed``."""
    return torch.randn(z_dim, generator=torch.Generator().manual_seed(int(seed)))


def z_batch(seeds: Iterable[int], z_dim: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Draw the latents [N, z_dim] of ``seeds``, float32."""
    rows = [z_from_seed(seed, z_dim) for seed in seeds]
    return torch.stack(rows).to(device) if rows else torch.empty(0, z_dim, device=device)


def inputs_of_seeds(generator: Any, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Latents [N, z_dim] of ``seeds`` and their labels [N, c_dim] (None where there are none), for ``generator``.

    The labels are those of ``generator.labels``. Both are on the generator's device and of its dtype.
    """
    z = z_batch(seeds, generator.z_dim).to(generator.w_avg)
    return z, None if generator.labels is None else generator.labels.take(seeds).to(generator.w_avg)


def noise_batch(generator: torch.nn.Module, seeds: Iterable[int]) -> list[torch.Tensor]:
    """Draw noise maps [N, 1, h, w] for each layer with noise, one sample per seed, in the generator's dtype."""
    samples = [generator.make_noise(1, seed=derived_seed("noise", int(seed)), device="cpu") for seed in seeds]
    return [torch.cat(maps).to(generator.w_avg) for maps in zip(*samples)]
