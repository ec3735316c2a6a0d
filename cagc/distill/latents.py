"""Latents and noise of a batch of generated images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..models import AnyGenerator, Noise


@dataclass(frozen=True)
class Latents:
    """All random inputs of one batch of generated images; with them a generator is deterministic.

    Attributes:
        z: [N, z_dim], standard normal; None where ``w`` is given.
        c: [N, c_dim], labels of both z and z_mix; None for a generator without labels.
        z_mix, mixing_index: style mixing, as in ``Generator.ws``.
        w: [N, w_dim], instead of ``z``.
        rows: [N], indices of the recorded samples that ``w`` belongs to.
        seeds: seeds of ``z``, if it was drawn by seed.
        noise: noise of the student, as in ``Generator.synthesis``.
        teacher_noise: noise of the teacher, likewise.
    """

    z: Tensor | None = None
    c: Tensor | None = None
    z_mix: Tensor | None = None
    mixing_index: int | None = None
    w: Tensor | None = None
    rows: Tensor | None = None
    seeds: Sequence[int] | None = None
    noise: Noise = "none"
    teacher_noise: Noise = "none"

    def __len__(self) -> int:
        return len(self.w if self.z is None else self.z)

    def __getitem__(self, part: slice) -> Latents:
        """The latents of the images in the slice ``part``."""
        cut = {name: getattr(self, name) for name in ("z", "c", "z_mix", "w", "rows", "seeds")}
        cut = {name: value if value is None else value[part] for name, value in cut.items()}
        noise, teacher_noise = (_noise_of(noise, part) for noise in (self.noise, self.teacher_noise))
        return replace(self, **cut, noise=noise, teacher_noise=teacher_noise)

    def ws(self, generator: AnyGenerator, truncation: float = 1.0) -> Tensor:
        """``ws`` [N, num_ws, w_dim] of these latents for ``generator``."""
        if self.w is not None:
            return self.w[:, None].expand(-1, generator.num_ws, -1)
        return generator.ws(self.z, self.z_mix, self.mixing_index, truncation, self.c)


def with_noise(latents: Latents, noise: Noise, teacher_noise: Noise) -> Latents:
    """The same latents with this noise for student and teacher."""
    return replace(latents, noise=noise, teacher_noise=teacher_noise)


def _noise_of(noise: Noise, part: slice) -> Noise:
    return noise if isinstance(noise, str) else [n if n.shape[0] == 1 else n[part] for n in noise]
