"""Perceptual path length: how far the image moves, in a perceptual distance, for a small step of the latent.

Karras et al., "A Style-Based Generator Architecture", CVPR 2019, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..common import distributed
from ..common.callbacks import Progress
from ..common.checks import choice
from ..common.seeds import derived_seed, z_batch
from ..models import AnyGenerator
from .sampling import finite, noise_for, seed_batches

Distance = Callable[[Tensor, Tensor], Tensor]


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Unit vectors at ``t`` [N, 1] on the great circle from the direction of ``a`` to that of ``b`` [N, D]."""
    a = a / a.norm(dim=1, keepdim=True)
    b = b / b.norm(dim=1, keepdim=True)
    cosine = (a * b).sum(dim=1, keepdim=True)
    angle = t * cosine.clamp(-1, 1).acos()
    orthogonal = b - cosine * a
    orthogonal = orthogonal / orthogonal.norm(dim=1, keepdim=True)
    return a * angle.cos() + orthogonal * angle.sin()


@torch.inference_mode()
def perceptual_path_length(
    generator: AnyGenerator,
    distance: Distance,
    samples: int = 1000,
    seed: int = 0,
    epsilon: float = 1e-4,
    batch: int = 16,
    progress: Progress | None = None,
    space: str = "w",
    sampling: str = "full",
    percentiles: tuple[float, float] = (1.0, 99.0),
) -> float:
    """Mean of d(G(x(t)), G(x(t + ε))) / ε² along paths x between random latents, without a crop.

    Both images of a pair share their noise maps. The processes of ``torchrun`` share the pairs.

    Args:
        generator: in evaluation mode; not changed.
        distance: (two images [1, 3, R, R]) → squared perceptual distance, scalar. State it with every figure.
        samples: pairs, from seeds ``seed``, ``seed`` + 1, ...; 100,000 as published.
        epsilon: step ε; in float32, differences for smaller steps are rounding noise.
        batch: pairs at a time; the result does not depend on it.
        progress: called as progress(pairs done, pairs in all).
        space: "w": straight lines between mapped latents; "z": great circles between latents.
        sampling: "full": t uniform in [0, 1]; "end": t = 0.
        percentiles: distances outside these percentiles are left out, as published.

    Raises:
        ValueError: ``space``, ``sampling`` or ``epsilon`` is not as above.
        CagcError: an image holds NaN or infinity.
    """
    choice("space", space, ("w", "z"))
    choice("sampling", sampling, ("full", "end"))
    if not epsilon > 0:
        raise ValueError(f"epsilon: got {epsilon}, expected a number above 0")

    def pair(seeds: Sequence[int]) -> list[Tensor]:
        noise = noise_for(generator, seeds, "random")
        return [generator.synthesis(ws, noise) for ws in _path(generator, seeds, space, sampling, epsilon)]

    found = _distances(distance, pair, samples, seed, batch, progress) / epsilon**2
    low, high = (
        torch.quantile(found, p / 100, interpolation=rule) for p, rule in zip(percentiles, ("lower", "higher"))
    )
    return found[(found >= low) & (found <= high)].mean().item()


@torch.inference_mode()
def authors_path_length(
    generator: AnyGenerator,
    distance: Distance,
    samples: int = 5000,
    seed: int = 0,
    epsilon: float = 1e-4,
    batch: int = 16,
    progress: Progress | None = None,
) -> float:
    """What the code of "Content-Aware GAN Compression" prints as PPL; not comparable with anything else.

    The two images of a pair have different noise, which adds to the distance, and the mean over all pairs is not
    divided by ε². Arguments as in :func:`perceptual_path_length`, in W and over the full path.
    """

    def pair(seeds: Sequence[int]) -> list[Tensor]:
        others = [derived_seed("other image of the pair", seed) for seed in seeds]
        noises = [noise_for(generator, drawn, "random") for drawn in (seeds, others)]
        ends = _path(generator, seeds, "w", "full", epsilon)
        return [generator.synthesis(ws, noise) for ws, noise in zip(ends, noises)]

    return _distances(distance, pair, samples, seed, batch, progress).mean().item()


def _distances(
    distance: Distance,
    pair: Callable[[Sequence[int]], list[Tensor]],
    samples: int,
    seed: int,
    batch: int,
    progress: Progress | None,
) -> Tensor:
    """Distance [samples], float64 on the CPU, between the images of each pair; the processes share the pairs."""
    batches = [list(seeds) for seeds in seed_batches(samples, seed, batch)]
    own = batches[distributed.part_of(len(batches))]

    def measure() -> list[float]:
        found: list[float] = []
        for seeds in own:
            first, second = (finite(images, seeds) for images in pair(seeds))
            found += [float(distance(first[i : i + 1], second[i : i + 1])) for i in range(len(seeds))]
            if progress is not None:
                progress(len(found), sum(map(len, own)))
        return found

    parts = distributed.gather(distributed.together(measure))
    return torch.tensor([found for part in parts for found in part], dtype=torch.float64)


def _path(
    generator: AnyGenerator, seeds: Sequence[int], space: str, sampling: str, epsilon: float
) -> tuple[Tensor, Tensor]:
    """``ws`` at both ends of each pair's step; both images of a pair have the label of its seed."""
    dim, like = generator.z_dim, generator.w_avg
    starts, ends, places = ([derived_seed(f"path {what}", s) for s in seeds] for what in ("start", "end", "place"))
    start, end = (z_batch(drawn, dim).to(like) for drawn in (starts, ends))
    t = torch.stack([torch.rand(1, generator=torch.Generator().manual_seed(place)) for place in places]).to(like)
    t = t if sampling == "full" else torch.zeros_like(t)
    c = None if generator.labels is None else generator.labels.take(seeds).to(like)
    if space == "z":
        return tuple(generator.ws(slerp(start, end, at) * dim**0.5, c=c) for at in (t, t + epsilon))
    a, b = generator.ws(start, c=c), generator.ws(end, c=c)
    return tuple(torch.lerp(a, b, at[:, None]) for at in (t, t + epsilon))
