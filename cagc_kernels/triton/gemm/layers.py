"""The convolutions of real generators, full and pruned, for the tuner and the compile check."""

from __future__ import annotations

from collections.abc import Iterator

from .configs import POLYPHASE, TRANSPOSED, Problem

WIDTHS = ("full", "p70", "r8")


def channels(size: int, widths: str = "full") -> list[int]:
    """Return StyleGAN2's channels per resolution, from 4 px on.

    ``widths``: "full"; "p70", uniformly pruned by 70 %; or "r8", pruned so and rounded up to a multiple of 8.
    """
    full = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
    kept = [c for resolution, c in full.items() if resolution <= size]
    if widths == "full":
        return kept
    kept = [c - int(c * 0.7) for c in kept]
    return kept if widths == "p70" else [-(-c // 8) * 8 for c in kept]


def problems(size: int, widths: str, batch: int, dtype: str, arch: int = 90) -> Iterator[Problem]:
    """Yield every 3 x 3 convolution of a generator, in order."""
    c = channels(size, widths)
    yield Problem(dtype, batch, 4, 4, c[0], c[0], 3, arch=arch)
    for i, (before, after) in enumerate(zip(c, c[1:], strict=False)):
        resolution = 4 << i
        yield Problem(dtype, batch, resolution, resolution, before, after, 3, (POLYPHASE, TRANSPOSED), arch=arch)
        yield Problem(dtype, batch, 2 * resolution, 2 * resolution, after, after, 3, arch=arch)
