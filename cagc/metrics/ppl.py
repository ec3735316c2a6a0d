"""Perceptual path length (Karras et al., CVPR 2019, section 4.1), in W, over the whole path, without a crop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..models import Generator
from ..seeds import derived_seed, z_batch
from .sampling import noise_for, seed_batches


@torch.inference_mode()
def perceptual_path_length(
    generator: Generator,
    distance: Callable[[Tensor, Tensor], Tensor],
    samples: int = 1000,
    seed: int = 0,
    epsilon: float = 1e-4,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Mean of d(G(w_t), G(w_{t+ε})) / ε² over random t in [0, 1) on lines between random w.

    Both images of a pair share their noise maps. (The paper's authors neither share them nor divide by ε².)

    Args:
        generator: in any state; not changed.
        distance: images, images [N, 3, R, R] in [-1, 1] → mean perceptual distance, scalar. It belongs to the figure.
        samples: pairs, from seeds ``seed``, ``seed`` + 1, ...
        epsilon: step along the path; smaller ones drown in single precision.
        batch: pairs at a time; the figure does not depend on it.
        progress: called with the pairs done and all.
    """
    total, done = 0.0, 0
    for seeds in seed_batches(samples, seed, batch):
        starts, ends, places = ([derived_seed(f"path {what}", s) for s in seeds] for what in ("start", "end", "place"))
        a, b = (generator.mapping(z_batch(z, generator.config.style_dim).to(generator.w_avg)) for z in (starts, ends))
        t = torch.stack([torch.rand(1, generator=torch.Generator().manual_seed(s)) for s in places]).to(a)
        noise = noise_for(generator, seeds, "random")
        pair = [
            generator.synthesis(torch.lerp(a, b, at)[:, None].expand(-1, generator.config.num_ws, -1), noise)
            for at in (t, t + epsilon)
        ]
        total += float(distance(*pair)) * len(seeds)
        done += len(seeds)
        if progress is not None:
            progress(done, samples)
    return total / done / epsilon**2
