"""Writes generated images to disk, one per seed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from . import runtime
from .common.callbacks import Progress
from .common.errors import CagcError
from .common.files import atomic_write
from .common.seeds import inputs_of_seeds
from .metrics.sampling import finite, noise_for
from .models import AnyGenerator
from .pictures import image_grid

MOST_SEEDS = 1_000_000


def parse_seeds(text: str) -> list[int]:
    """Parse a list of seeds: ``"0-3,7"`` gives ``[0, 1, 2, 3, 7]``, without duplicates.

    Raises:
        CagcError: the text is no such list, a range runs backwards, a seed is 2^32 or more (PyTorch's generators use 32
            bits), or there are more than a million seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise CagcError(f"seeds: got {text!r}, expected numbers and ranges such as 0-15 or 3,7,11")
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= 2**32:
            raise CagcError(f"seeds: got {last}, expected at most {2**32 - 1}")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise CagcError(f"seeds: got {text!r}, expected at most {MOST_SEEDS:,} of them")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


@torch.inference_mode()
def generate(
    generator: AnyGenerator,
    seeds: Sequence[int],
    out: str | Path,
    truncation: float = 1.0,
    noise: str = "const",
    batch: int = 16,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Write ``out/NNNNN.png`` for each seed and return the paths; the same seed gives the same image in any batch.

    Raises:
        CagcError: ``out`` is a file, or an image exists and ``overwrite`` is false; nothing is written then. An image
            holds NaN or infinity: that image and later ones are not written.
        ValueError: ``noise`` is not "const", "random" or "none", or ``batch`` is below 1.
    """
    if batch < 1:
        raise ValueError(f"batch: got {batch}, expected at least 1")
    if not math.isfinite(truncation):
        raise CagcError(f"truncation: got {truncation}, expected a finite number")
    out = Path(out)
    paths = [out / f"{seed:05d}.png" for seed in seeds]
    if out.exists() and not out.is_dir():
        raise CagcError(f"out: {out} is a file, expected a folder")
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise CagcError(f"out: {existing[0]} exists (and {len(existing) - 1} more); add --overwrite to replace them")
    like = next(generator.parameters())
    compiled = runtime.compile(generator, max(1, min(batch, len(seeds))), like.dtype, like.device)
    done = 0
    for start in range(0, len(seeds), batch):
        chunk = seeds[start : start + batch]
        z, c = inputs_of_seeds(generator, chunk)
        images = compiled(z, c, truncation_psi=truncation, noise=noise_for(generator, chunk, noise))
        finite(images, chunk)
        images = images.clamp(-1, 1)
        out.mkdir(parents=True, exist_ok=True)
        for image in images:
            with atomic_write(paths[done]) as temporary:
                image_grid(image[None], tile=max(image.shape[-2:])).save(temporary)
            done += 1
        if progress is not None:
            progress(done, len(seeds))
    return paths
