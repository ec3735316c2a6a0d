"""Compares a student's images with its teacher's, on the content and on the whole image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..common.callbacks import Progress
from ..common.errors import CagcError
from ..common.seeds import inputs_of_seeds
from .features import check_images
from .sampling import finite, noise_for

Measure = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student's images, teacher's images, mask) → a figure per sample [N]."""


def _check(a: Tensor, b: Tensor, mask: Tensor) -> None:
    check_images(a, "a")
    if b.shape != a.shape:
        raise ValueError(f"b: got shape {list(b.shape)}, expected {list(a.shape)} as a")
    expected = (a.shape[0], 1, *a.shape[2:])
    if tuple(mask.shape) != expected:
        raise ValueError(f"mask: got shape {list(mask.shape)}, expected {list(expected)}")


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [N, 3, H, W] over the pixels of mask [N, 1, H, W] → [N]; NaN where a mask is empty."""
    mask = mask.to(values.dtype)
    return (values * mask).sum(dim=(1, 2, 3)) / (mask.sum(dim=(1, 2, 3)) * values.shape[1])


def _average(per_sample: Tensor, seen: Tensor, reduction: str = "mean") -> Tensor:
    """Mean of per_sample [N] where `seen` [N] is true; NaN there gives NaN. Raises CagcError if none is seen."""
    if reduction == "none":
        return per_sample
    if reduction != "mean":
        raise ValueError(f"reduction: got {reduction!r}, expected 'mean' or 'none'")
    if not seen.any():
        raise CagcError("the content mask is empty for every sample")
    return per_sample[seen].mean()


def _seen(mask: Tensor) -> Tensor:
    """Whether each mask [N, 1, H, W] has content, [N]."""
    return mask.flatten(1).amax(dim=1) > 0


def content_l1(a: Tensor, b: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    """Mean |a - b| over content pixels: images [N, 3, H, W] in [-1, 1], mask [N, 1, H, W] in {0, 1} → scalar in [0, 2].

    Normalised by each mask's area, so that the value does not depend on the size of the content. Samples without
    content are left out; reduction "none" returns one value per sample [N], NaN for those. NaN in an image gives NaN.
    Raises CagcError when every mask is empty.
    """
    _check(a, b, mask)
    return _average(_masked_mean((a.double() - b.double()).abs(), mask), _seen(mask), reduction)


def content_psnr(a: Tensor, b: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    """10·log10(4 / MSE) in dB over content pixels (peak-to-peak 2), a value per sample, then their mean.

    Arguments as in `content_l1`. Computed in float64, so nothing wraps; identical content gives inf.
    """
    _check(a, b, mask)
    mse = _masked_mean((a.double() - b.double()).square(), mask)
    return _average(10 * torch.log10(4 / mse), _seen(mask), reduction)


_ALWAYS: dict[str, Measure] = {
    "l1": lambda a, b, mask: content_l1(a, b, mask, "none"),
    "psnr": lambda a, b, mask: content_psnr(a, b, mask, "none"),
}


def evaluate_pair(
    student: nn.Module,
    teacher: nn.Module,
    parser: Callable[..., Tensor],
    samples: int = 64,
    seed: int = 0,
    batch: int = 8,
    noise: str = "const",
    truncation: float = 1.0,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Compare two generators on the same latents (seeds seed, seed + 1, …) and the same noise maps.

    parser(images [N, 3, R, R] in [-1, 1], seeds=...) → mask [N, 1, R, R] in {0, 1}, called on the teacher's images.
    With a parser that has masks of certain seeds only (``parser.seeds``), the first `samples` of these seeds are used.
    noise: "const" (the teacher's constant maps in both), "random" (seeded, shared) or "none". Images are clamped to
    [-1, 1]. Returns content_l1, content_psnr (dB), image_l1, image_psnr (dB), content_coverage (mean share of pixels),
    samples and empty_masks (samples without content, left out of the content figures).
    Raises CagcError for generators of different latent size or resolution, when one draws NaN or infinity (it is
    named), or when no sample has content.
    """
    seeds = seeds_known(parser, samples, seed)
    return summarize(compare_pair(student, teacher, parser, seeds, batch, noise, truncation, progress))


def seeds_known(parser: Callable[..., Tensor], samples: int, seed: int) -> list[int]:
    """Seeds of the images to compare: the parser's own, or from ``seed`` on. Raises ValueError for no samples."""
    if samples < 1:
        raise ValueError(f"samples: got {samples}, expected at least 1")
    return list(getattr(parser, "seeds", ()) or range(seed, seed + samples))[:samples]


@torch.inference_mode()
def compare_pair(
    student: nn.Module,
    teacher: nn.Module,
    parser: Callable[..., Tensor],
    seeds: Sequence[int],
    batch: int = 8,
    noise: str = "const",
    truncation: float = 1.0,
    progress: Progress | None = None,
    measures: Mapping[str, Measure] | None = None,
) -> dict[str, Tensor]:
    """The figures of `evaluate_pair` per sample [len(seeds)], float64 on the CPU; arguments and errors as there.

    measures: further figures by name, reported as "image_<name>" (whole image) and "content_<name>" (content).
    """
    for key in ("img_size", "img_channels", "c_dim", "w_dim"):
        ours, theirs = getattr(student, key), getattr(teacher, key)
        if ours != theirs:
            raise CagcError(f"student: got {key} {ours}, expected the teacher's {theirs}")
    if batch < 1:
        raise ValueError(f"batch: got {batch}, expected at least 1")
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(seeds), batch):
        part = seeds[start : start + batch]
        noises = noise_for(teacher, part, noise)
        z, c = inputs_of_seeds(teacher, part)
        target, image = (
            finite(generator(z, c, truncation_psi=truncation, noise=noises), part, name).clamp(-1, 1)
            for name, generator in (("teacher", teacher), ("student", student))
        )
        mask = parser(target, seeds=part)
        everything = torch.ones_like(mask)
        seen = _seen(mask)
        for where, weight in (("content", mask), ("image", everything)):
            for name, measure in (_ALWAYS | dict(measures or {})).items():
                value = measure(image, target, weight).to(seen.device, torch.float64)
                parts.setdefault(f"{where}_{name}", []).append(value.where(seen | (where == "image"), torch.nan).cpu())
        parts.setdefault("content_coverage", []).append(mask.double().mean(dim=(1, 2, 3)).cpu())
        if progress is not None:
            progress(start + len(part), len(seeds))
    return {key: torch.cat(values) for key, values in parts.items()}


def summarize(figures: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over the samples of `compare_pair`, with their number; CagcError when no sample has content."""
    coverage = figures["content_coverage"]
    everything = torch.ones_like(coverage, dtype=torch.bool)
    of_content = [key for key in figures if key.startswith("content_") and key != "content_coverage"]
    result = {
        key: float(_average(values, coverage > 0 if key in of_content else everything))
        for key, values in figures.items()
    }
    return result | {"samples": len(coverage), "empty_masks": int((coverage == 0).sum())}
