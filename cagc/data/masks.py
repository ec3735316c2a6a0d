"""Content masks: what one is, resizing and applying it, and folders of masks that were drawn by hand."""

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

_SEED_DIGITS = 20  # those of the largest seed, 2^64 - 1


def check_images(images: Tensor) -> None:
    """Raises ValueError unless `images` is a floating-point tensor [N, 3, H, W]."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        got = f"{list(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images: expected floating point [N, 3, H, W], got {got}")


def validate_mask(mask: Tensor, images: Tensor, name: str = "content parser") -> Tensor:
    """Return `mask` if it is [N, 1, H, W], of zeros and ones, for `images` [N, 3, H, W].

    Raises:
        CagcError: another type, shape or values, with what came and what was expected.
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
    """Binary mask [N, H, W] or [N, 1, H, W] → the same at `size` (side, or height and width), same dtype.

    `nearest` takes the source pixel under each target pixel's centre, floor((i + 0.5)·H/h): the CAGC authors' rule for
    channel scores. `bilinear` interpolates without antialiasing and keeps what exceeds 0.5: theirs for distillation.
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
    """images [N, C, H, W] with zeros (mid-grey in [-1, 1]) outside mask [N, 1, H, W]; differentiable in `images`."""
    if mask.shape != (images.shape[0], 1, *images.shape[-2:]):
        raise ValueError(f"mask: expected {[images.shape[0], 1, *images.shape[-2:]]}, got {list(mask.shape)}")
    return images * mask


class ContentCoverage:
    """Counts content over many masks, to tell a parser that sees nothing from one that misses a sample."""

    def __init__(self) -> None:
        self.samples = 0
        self.empty = 0
        self._area = 0.0

    def add(self, mask: Tensor) -> None:
        """mask [N, 1, H, W]."""
        area = mask.detach().flatten(1).double().mean(1)
        self.samples += len(area)
        self.empty += int((area == 0).sum())
        self._area += float(area.sum())

    @classmethod
    def joined(cls, parts: Iterable[ContentCoverage]) -> ContentCoverage:
        """Of the masks of all ``parts``."""
        whole = cls()
        for part in parts:
            whole.samples += part.samples
            whole.empty += part.empty
            whole._area += part._area
        return whole

    @property
    def mean_area(self) -> float:
        """Share of all pixels that is content, in [0, 1]."""
        return self._area / max(1, self.samples)

    def check(self, name: str = "content parser") -> None:
        """Raises CagcError if masks came and every one was empty."""
        if self.samples and self.empty == self.samples:
            raise CagcError(
                f"{name}: found no content in any of {self.samples} images; choose another parser or other classes"
            )


class MaskFolder:
    """Masks drawn by hand: a folder or zip of images whose file name is the seed of the image that each belongs to.

    What counts as content in a file is told by `read_mask`. Masks of another size are resized by `resize_mask`. Draw
    them over what `cagc generate --seeds` wrote.

    Attributes:
        seeds: of the masks, ascending.
        name: what plans and reports record.

    Raises:
        CagcError: no masks at `path`, a file that is not named by a seed, or two files for one seed.
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
        """Name, and hash of the seeds and files. Raises CagcError if a file cannot be read."""
        digest = hashlib.sha256()
        for seed, file in sorted(self._names.items()):
            with self._reading(file):
                digest.update(f"{seed} ".encode() + hashlib.sha256(self._files.read(file)).digest())
        return f"{self.name} {digest.hexdigest()[:16]}"

    def __call__(self, images: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Raises CagcError if `seeds` is missing or names an image without a mask, ValueError if its length differs."""
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
