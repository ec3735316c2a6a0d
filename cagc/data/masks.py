"""Content masks: validating, resizing and applying them, and folders of masks drawn by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.errors import CagcError
from ..common.reading import printable, reading
from .files import open_files
from .images import read_mask

_SEED_DIGITS = 20  # digits of the largest seed, 2^64 - 1


def check_images(images: Tensor) -> None:
    """Raise ValueError unless `images` is a floating-point tensor [N, C, H, W], C of any number."""
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.shape[1] or not images.is_floating_point():
        got = f"{list(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images: expected floating point [N, C, H, W], got {got}")


def validate_mask(mask: Tensor, images: Tensor, name: str = "content parser") -> Tensor:
    """Return `mask` if it has shape [N, 1, H, W] for `images` [N, 3, H, W], and holds only zeros and ones.

    Raises:
        CagcError: names the type, shape or value that was given and what was expected.
    """
    expected = [images.shape[0], 1, *images.shape[-2:]]
    if not isinstance(mask, Tensor):
        raise CagcError(f"{name}: expected a mask tensor {expected}, got {type(mask).__name__}")
    if list(mask.shape) != expected:
        raise CagcError(f"{name}: expected a mask of shape {expected}, got {list(mask.shape)}")
    wrong = (mask != 0) & (mask != 1)
    if wrong.any():
        raise CagcError(f"{name}: expected mask values 0 and 1, got {mask[wrong][0].item():g}")
    return mask


def resize_mask(mask: Tensor, size: int | tuple[int, int], rule: str = "nearest") -> Tensor:
    """Resize a binary mask [N, H, W] or [N, 1, H, W] to `size` (side, or height and width), keeping its dtype.

    `nearest` takes the source pixel under each target pixel's centre, floor((i + 0.5)·H/h): the CAGC authors' rule for
    channel scores. `bilinear` interpolates without antialiasing and thresholds at 0.5: their rule for distillation.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if rule == "nearest":
        rows, columns = (
            (2 * torch.arange(n, device=mask.device) + 1) * m // (2 * n)
            for n, m in zip((height, width), mask.shape[-2:])
        )
        return mask[..., rows[:, None], columns]
    if rule == "bilinear":
        as_batch = mask.reshape(-1, 1, *mask.shape[-2:]).float()
        soft = F.interpolate(as_batch, (height, width), mode="bilinear", align_corners=False)
        return (soft > 0.5).to(mask.dtype).reshape(*mask.shape[:-2], height, width)
    raise ValueError(f"rule: expected 'nearest' or 'bilinear', got {rule!r}")


def apply_mask(images: Tensor, mask: Tensor) -> Tensor:
    """Set `images` [N, C, H, W] to zero (mid-grey) outside `mask` [N, 1, H, W]; differentiable in `images`."""
    if mask.shape != (images.shape[0], 1, *images.shape[-2:]):
        raise ValueError(f"mask: expected {[images.shape[0], 1, *images.shape[-2:]]}, got {list(mask.shape)}")
    return images * mask


class ContentCoverage:
    """Counts content over many masks, to detect a parser that never finds content."""

    def __init__(self) -> None:
        self.samples = 0
        self.empty = 0
        self._area = 0.0

    def add(self, mask: Tensor) -> None:
        """Count `mask` [N, 1, H, W]."""
        area = mask.detach().flatten(1).double().mean(1)
        self.samples += len(area)
        self.empty += int((area == 0).sum())
        self._area += float(area.sum())

    @classmethod
    def joined(cls, parts: Iterable[ContentCoverage]) -> ContentCoverage:
        """Return the counts over the masks of all ``parts``."""
        whole = cls()
        for part in parts:
            whole.samples += part.samples
            whole.empty += part.empty
            whole._area += part._area
        return whole

    @property
    def mean_area(self) -> float:
        """Share of all pixels that are content, in [0, 1]."""
        return self._area / max(1, self.samples)

    def check(self, name: str = "content parser") -> None:
        """Raise CagcError if masks were added and all of them are empty."""
        if self.samples and self.empty == self.samples:
            raise CagcError(
                f"{name}: found no content in any of {self.samples} images; choose another parser or other classes"
            )


class MaskFolder:
    """Masks drawn by hand: a folder or zip of image files, each named by the seed of its generated image.

    `read_mask` defines what is content in a file. Masks of another size are resized by `resize_mask`. Draw them over
    images that `cagc generate --seeds` wrote.

    Attributes:
        seeds: seeds of the masks, ascending.
        name: the name that plans and reports record.

    Raises:
        CagcError: there are no masks at `path`, a file is not named by a seed, or two files have the same seed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._shown = printable(self.path)
        with reading("cannot read masks from", self.path):
            self._files = open_files(self.path)
        self._names: dict[int, str] = {}
        for file in self._files.names:
            if self.path.is_dir() and "/" in file:
                continue
            stem = Path(file).stem
            if not stem.isdecimal() or len(stem) > _SEED_DIGITS:
                raise CagcError(
                    f"{self._shown}: mask {file!r} must be named by the seed of its image, such as 00017.png"
                )
            if int(stem) in self._names:
                raise CagcError(f"{self._shown}: two masks for seed {int(stem)}, one of them {file!r}")
            self._names[int(stem)] = file
        if not self._names:
            raise CagcError(f"{self._shown}: no mask image in it (expected files such as 00017.png, named by seed)")
        self.seeds = sorted(self._names)
        self.name = f"masks:{printable(self.path.name)}"

    def _reading(self, file: str) -> AbstractContextManager[None]:
        return reading(f"{self._shown}: cannot read mask", repr(file))

    def _mask(self, file: str) -> Tensor:
        with self._reading(file):
            return torch.from_numpy(read_mask(self._files.read(file)))

    @cached_property
    def fingerprint(self) -> str:
        """The parser's name with a hash of its seeds and files. Raises CagcError if a file cannot be read."""
        digest = hashlib.sha256()
        for seed, file in sorted(self._names.items()):
            with self._reading(file):
                digest.update(f"{seed} ".encode() + hashlib.sha256(self._files.read(file)).digest())
        return f"{self.name} {digest.hexdigest()[:16]}"

    def __call__(self, images: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Return the masks [N, 1, H, W] of the images with these `seeds`.

        Raises:
            CagcError: `seeds` is missing, or one of them has no mask. ValueError: the number of seeds differs from N.
        """
        check_images(images)
        if seeds is None:
            raise CagcError(f"{self.name}: needs the seeds of the images; these images have none")
        seeds = [int(seed) for seed in seeds]
        if len(seeds) != len(images):
            raise ValueError(f"seeds: expected {len(images)}, one for each image, got {len(seeds)}")
        missing = [seed for seed in seeds if seed not in self._names]
        if missing:
            raise CagcError(
                f"{self._shown}: no mask for seeds {missing[:5]} (it has {len(self.seeds)} masks, "
                f"seeds {self.seeds[0]} to {self.seeds[-1]})"
            )
        masks = [resize_mask(self._mask(self._names[seed])[None], tuple(images.shape[-2:])) for seed in seeds]
        return torch.stack(masks).to(images)
