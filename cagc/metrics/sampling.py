"""Reproducible images: a seed gives the same latent and noise for every generator and batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from ..common.errors import CagcError
from ..common.seeds import inputs_of_seeds, noise_batch

NOISE_MODES = ("random", "const", "none")


def seed_batches(samples: int, seed: int, batch: int) -> Iterator[range]:
    """Yield ranges of at most `batch` seeds that cover seed … seed + samples - 1."""
    for name, value in (("samples", samples), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1")
    for start in range(seed, seed + samples, batch):
        yield range(start, min(start + batch, seed + samples))


def noise_for(generator: nn.Module, seeds: Sequence[int], mode: str) -> str | list[Tensor]:
    """Noise argument for `generator.synthesis`, one sample per seed, which other generators accept too.

    "random": tensors [N, 1, h, w] seeded by sample. "const": the generator's own constant maps [1, 1, h, w].
    Raises ValueError for another mode.
    """
    if mode not in NOISE_MODES:
        raise ValueError(f"noise: got {mode!r}, expected one of {', '.join(NOISE_MODES)}")
    if mode == "const":
        noisy = [spec.module for spec in generator.config.layers() if spec.noise]
        return [generator.get_submodule(module).noise_const[None, None] for module in noisy]
    if mode == "none":
        return mode
    return noise_batch(generator, seeds)


def finite(images: Tensor, seeds: Sequence[int], name: str = "generator") -> Tensor:
    """Return `images` [N, ...], one per seed, unchanged.

    Raises CagcError where the generator `name` drew NaN or infinity, because figures over the remaining images would
    not describe the generator.
    """
    bad = ~images.isfinite().flatten(1).all(dim=1)
    if bad.any():
        raise CagcError(
            f"{name}: got NaN or infinity in {int(bad.sum())} of {len(images)} images, the first of seed "
            f"{seeds[int(bad.nonzero()[0])]}; expected finite images"
        )
    return images


def draw(generator: nn.Module, seeds: Sequence[int], noise: str = "random", truncation: float = 1.0) -> Tensor:
    """Images [N, 3, R, R] of `generator`, one per seed, clamped to [-1, 1]. Raises CagcError as :func:`finite`."""
    z, c = inputs_of_seeds(generator, seeds)
    images = generator(z, c, truncation_psi=truncation, noise=noise_for(generator, seeds, noise))
    return finite(images, seeds).clamp(-1, 1)
