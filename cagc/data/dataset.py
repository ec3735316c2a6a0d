"""Loads the images of a folder or a zip as square tensors."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..common.callbacks import Progress
from ..common.errors import CagcError
from ..common.reading import one_line, printable, reading
from .files import in_flight, open_files, read_file
from .images import SUFFIXES, open_image, to_rgb

if TYPE_CHECKING:
    from PIL import Image


def _square(image: Image.Image, resolution: int) -> np.ndarray:
    """Crop the central square, resize it with antialiasing, and return uint8 [3, resolution, resolution]."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    resized = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)
    return np.asarray(resized).transpose(2, 0, 1).copy()


def _decode(data: bytes, resolution: int, convert: bool) -> tuple[np.ndarray, str]:
    """Return uint8 [3, resolution, resolution], and a description of the conversions, "" if there were none."""
    with open_image(data) as image:
        _check_form(image, convert)
        mode = image.mode
        rgb = to_rgb(image, data)
        (width, height), pixels = rgb.size, _square(rgb, resolution)
    steps = {
        f"{mode} turned into RGB": mode != "RGB",
        "centre-cropped": width != height,
        f"resized to {resolution} px": min(width, height) != resolution,
    }
    done = ", ".join(step for step, taken in steps.items() if taken)
    return pixels, done and f"{width} x {height} px, {done}"


class _WrongForm(CagcError):
    """An image that is not square or not RGB and must not be converted."""


def _check_form(image: Image.Image, convert: bool) -> None:
    if convert or (image.mode == "RGB" and image.width == image.height and not image.has_transparency_data):
        return
    alpha = " with transparency" if image.mode == "RGB" and image.has_transparency_data else ""
    raise _WrongForm(
        f"{image.width} x {image.height} px, {image.mode}{alpha}; expected a square RGB image "
        "(--convert-images crops and converts)"
    )


def read_image(path: str | os.PathLike[str], resolution: int, convert: bool = False) -> tuple[Tensor, str]:
    """Read an image file as float32 [3, resolution, resolution] in [-1, 1].

    Returns:
        The image, and a description of the conversions, "" if there were none.

    Raises:
        CagcError: the file does not exist or cannot be decoded, or is not square or not RGB and ``convert`` is false.
    """
    with reading("image", path):
        pixels, done = _decode(read_file(path), resolution, convert)
    return torch.from_numpy(pixels).float().div_(127.5).sub_(1), done


class ImageDataset(Sequence[Tensor]):
    """The images of a folder (recursive) or zip as RGB tensors [3, resolution, resolution], float32 in [-1, 1].

    Images are ordered by name and resized (Lanczos, antialiased). They must be square and RGB, unless `convert` is
    true: then they are cropped to the central square and converted by `to_rgb`. Hidden files, `__MACOSX` and files
    without an image suffix are ignored. A file that cannot be decoded is left out, listed in `skipped`, and named in a
    warning. If the decoded set fits into `cache_bytes`, it is read at once and kept as uint8. Otherwise only headers
    are checked now and images are decoded on demand; an image that then fails is replaced by the next good one.

    Attributes:
        names: names of the usable images.
        skipped: name → reason, of images that cannot be read.
        changed: name → description of the conversions, of decoded images that were converted.
        resolution: side of the images in pixels.

    Raises:
        CagcError: the path does not exist, holds no image that can be read, or holds one that is not square or not RGB
            while `convert` is false. ValueError: `resolution` is below 1.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resolution: int,
        cache_bytes: int = 512 << 20,
        progress: Progress | None = None,
        convert: bool = False,
    ):
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {resolution}")
        self.path, self.resolution, self.convert = Path(path), int(resolution), convert
        self._shown = printable(self.path)
        if not self.path.exists():
            raise CagcError(f"data: {self._shown} does not exist; expected a folder or a zip of images")
        with reading("data:", self.path):
            self._files = open_files(self.path)
        if not self._files.names:
            raise CagcError(f"data: {self._shown} holds no image ({', '.join(SUFFIXES)})")
        cached = len(self._files.names) * 3 * self.resolution**2 <= cache_bytes
        self.skipped: dict[str, str] = {}
        self.changed: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        kept = self._read_all(self._decode if cached else self._check_header, progress)
        self.names = list(kept)
        self._cache = torch.from_numpy(np.stack(list(kept.values()))) if cached and kept else None
        self._complain()

    def _read_all(self, read: Callable[[str, bytes], Any], progress: Progress | None) -> dict[str, Any]:
        kept, names = {}, self._files.names

        def first_read(name: str) -> Any:
            with in_flight.spend(self._files.size(name)):
                data = self._files.read(name)
                self._digests[name] = hashlib.blake2b(data, digest_size=16).hexdigest()
                return read(name, data)

        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            for done, (name, value) in enumerate(zip(names, pool.map(lambda n: _attempt(first_read, n), names)), 1):
                if isinstance(value, _WrongForm):
                    pool.shutdown(cancel_futures=True)
                    raise CagcError(f"data: {printable(name)} in {self._shown}: {value}")
                if isinstance(value, Exception):
                    self.skipped[name] = one_line(value)
                else:
                    kept[name] = value
                if progress is not None:
                    progress(done, len(names))
        return kept

    def _check_header(self, name: str, data: bytes) -> None:
        with open_image(data) as image:
            _check_form(image, self.convert)

    def _decode(self, name: str, data: bytes) -> np.ndarray:
        pixels, done = _decode(data, self.resolution, self.convert)
        if done:
            self.changed[name] = done
        return pixels

    def _complain(self) -> None:
        if not self.skipped:
            return
        shown = ", ".join(f"{printable(name)} ({reason})" for name, reason in list(self.skipped.items())[:5])
        more = f" and {len(self.skipped) - 5} more" if len(self.skipped) > 5 else ""
        if not self.names:
            raise CagcError(f"data: none of the {len(self.skipped)} images in {self._shown} can be read: {shown}{more}")
        warnings.warn(
            f"data: skipped {len(self.skipped)} of {len(self.skipped) + len(self.names)} images in "
            f"{self._shown}: {shown}{more}",
            stacklevel=3,
        )

    @property
    def is_cached(self) -> bool:
        """Whether the decoded images are kept in memory."""
        return self._cache is not None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        """Return image `index` as a tensor [3, R, R], float32 in [-1, 1]."""
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Return the images at `indices`, [N, 3, R, R] float32 in [-1, 1]. Raises IndexError outside [-len, len)."""
        return self.pixels(indices).float().div_(127.5).sub_(1)

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Return the images at `indices` as `batch` does, but as uint8 in [0, 255]."""
        for index in indices:
            if not -len(self) <= index < len(self):
                raise IndexError(f"index {index} is outside a set of {len(self)} images")
        if self._cache is not None:
            return self._cache[torch.as_tensor(indices, dtype=torch.long)]
        return torch.from_numpy(np.stack([self._decode_late(i) for i in indices]))

    def _decode_late(self, index: int) -> np.ndarray:
        for step in range(len(self)):
            name = self.names[(index + step) % len(self)]
            if name in self.skipped:
                continue
            value = _attempt(lambda n: self._decode(n, self._files.read(n)), name)
            if not isinstance(value, Exception):
                return value
            self.skipped[name] = one_line(value)
            warnings.warn(f"data: skipped {printable(name)} in {self._shown} ({one_line(value)})", stacklevel=4)
        raise CagcError(f"data: no image in {self._shown} can be decoded any more")

    def fingerprint(self) -> str:
        """Return a hash, 16 hexadecimal digits, of the resolution and of the name and content of every image file."""
        content = [self.resolution, *((name, self._digests[name]) for name in self.names)]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def describe(self) -> str:
        """Return one line for a log or a report: name, images used, images skipped."""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"{printable(self.path.name)}: {len(self):,} images at {self.resolution} px{skipped}"


def _attempt(read: Callable[[str], Any], name: str) -> Any:
    try:
        return read(name)
    except Exception as error:  # a decoder may raise anything at all on a broken file
        return error
