"""Choice of how a compiled program stores the weights of its mapping network and affine layers."""

from __future__ import annotations

from typing import NamedTuple

import torch

from cagc_kernels.native.synthesis import Program
from cagc_kernels.synthesis import STORAGE, GeneratorWeights, Storage

from ..models import AnyGenerator

# Of images in [-1, 1]: what float32 rounding changes, so that a compiled generator stays equal to the generator.
BOUND = 5e-5
CHECKED_PIXELS = 64  # images are compared at the first resolution from here on, or the generator's own
LATENTS = 2  # images that are compared
# Fewest bytes first. The mapping network is more sensitive: its layers add up their errors.
ORDER = (
    Storage("int8", "int8"),
    Storage("float16", "int8"),
    Storage("float16", "float16"),
    Storage("float16", "float32"),
)


class Choice(NamedTuple):
    """A storage, and the reason for it in words."""

    storage: Storage
    why: str


def check_name(weights: str | None) -> None:
    """Raise ValueError unless ``weights`` is None or one of :data:`cagc_kernels.synthesis.STORAGE`."""
    if weights is not None and weights not in STORAGE:
        raise ValueError(f"weights: got {weights!r}, expected None or one of {', '.join(STORAGE)}")


@torch.no_grad()
def choose(program: Program, weights: GeneratorWeights, generator: AnyGenerator) -> Choice:
    """Store ``weights`` in ``program`` in the fewest bytes that keep its images, and return the choice.

    The largest difference from the images of float32 weights is at most :data:`BOUND`, for :data:`LATENTS` fixed
    latents without noise. Reading weights takes most of the time of these layers, so fewest bytes is fastest.

    Args:
        program: of ``weights``, which it stores as float32.
        weights: of ``generator``; without a mapping network if the program does not run it.
        generator: that the program runs.
    """
    expected = _images(program, weights, generator)
    for storage in ORDER if weights.mapping else (Storage(styles="int8"), Storage(styles="float16")):
        try:
            program.store(weights, storage)
        except ValueError:  # weights that it cannot hold
            continue
        error = float((_images(program, weights, generator) - expected).abs().max())
        if error <= BOUND:
            return Choice(storage, f"the fewest bytes with an image error of at most {BOUND:.0e}: {error:.1e}")
    program.store(weights, Storage())
    return Choice(Storage(), f"fewer bytes change the image by more than {BOUND:.0e}")


def _images(program: Program, weights: GeneratorWeights, generator: AnyGenerator) -> torch.Tensor:
    layers = next((i + 1 for i, c in enumerate(weights.convs) if c.to_rgb and c.resolution >= CHECKED_PIXELS), 0)
    mapping, config, images = generator.mapping, generator.config, []
    latents = torch.randn(LATENTS, 1, config.z_dim, generator=torch.Generator().manual_seed(0))
    for z in latents:
        if weights.mapping:
            w = program.map(z)
        else:
            labels = torch.eye(config.c_dim)[:1].to(mapping.w_avg) if config.c_dim else None
            w = mapping.w(z.to(mapping.w_avg), labels).to("cpu", torch.float32)
        ws = w[:, None].expand(-1, config.num_ws, -1)
        images.append(program.images(ws, [None] * len(weights.convs), layers=layers))
    return torch.cat(images)
