"""Latents by seed: sample ``i`` is the same image whatever batch it is drawn in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch


def derived_seed(*parts: str | int) -> int:
    """Seed in [0, 2⁶³) that is a function of ``parts`` and unrelated to that of any others.

    Hashed, because PyTorch's CPU generator reads the low 32 bits of a seed only: adding 2⁴⁰ to one changes nothing.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def z_from_seed(seed: int, z_dim: int) -> torch.Tensor:
    """Standard normal latent [z_dim], float32, on the CPU, a function of ``seed`` alone."""
    return torch.randn(z_dim, generator=torch.Generator().manual_seed(int(seed)))


def z_batch(seeds: Iterable[int], z_dim: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Latents [N, z_dim] of ``seeds``, float32."""
    rows = [z_from_seed(seed, z_dim) for seed in seeds]
    return torch.stack(rows).to(device) if rows else torch.empty(0, z_dim, device=device)


def noise_batch(generator: torch.nn.Module, seeds: Iterable[int]) -> list[torch.Tensor]:
    """Noise maps [N, 1, h, w] of each noisy layer of ``generator``, one sample a seed, of its dtype and device."""
    samples = [generator.make_noise(1, seed=derived_seed("noise", int(seed)), device="cpu") for seed in seeds]
    return [torch.cat(maps).to(generator.w_avg) for maps in zip(*samples)]
