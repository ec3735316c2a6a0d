"""Loads the images of a folder or a zip as tensors of one size."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..common.callbacks import Progress
from ..common.errors import CagcError
from ..common.reading import one_line, printable, reading
from ..models.labels import Labels
from .files import LABEL_FILE, in_flight, open_files, read_file
from .images import FORMS, SUFFIXES, has_form, open_image, to_form
from .labels import label_table, parse_labels

if TYPE_CHECKING:
    from PIL import Image


class Form(NamedTuple):
    """What every image becomes: height, width and channels (1 grey, 3 RGB, 4 RGBA)."""

    height: int
    width: int
    channels: int = 3

    @classmethod
    def of(cls, size: int | tuple[int, int], channels: int = 3) -> Form:
        """The form of a side, or of a height and a width. Raises ValueError for others."""
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 1:
            raise ValueError(f"resolution must be at least 1, got {size}")
        if channels not in FORMS:
            raise ValueError(f"channels: got {channels}, expected {', '.join(map(str, FORMS))} for images from files")
        return cls(int(height), int(width), channels)

    @property
    def square(self) -> bool:
        """Whether height and width are the same."""
        return self.height == self.width

    def __str__(self) -> str:
        return f"{self.height} px" if self.square else f"{self.height} x {self.width} px"

    def expected(self) -> str:
        """Words for an image of this form and of any size."""
        return "square" if self.square else f"{self.height}:{self.width} (height to width)"


def _fitted(image: Image.Image, form: Form) -> np.ndarray:
    """Crop the largest centre of the form's shape, resize it with antialiasing; uint8 [channels, height, width]."""
    from PIL import Image

    width = min(image.width, image.height * form.width / form.height)
    height = min(image.height, image.width * form.height / form.width)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    box = (left, top, left + width, top + height)
    resized = np.asarray(image.resize((form.width, form.height), Image.Resampling.LANCZOS, box=box))
    return resized.reshape(form.height, form.width, form.channels).transpose(2, 0, 1).copy()


def _decode(data: bytes, form: Form, convert: bool) -> tuple[np.ndarray, str]:
    """Return uint8 [channels, height, width], and a description of the conversions, "" if there were none."""
    with open_image(data) as image:
        _check_form(image, form, convert)
        converted = to_form(image, data, form.channels)
        return _fitted(converted, form), _conversions(image, converted.size, form)


def _conversions(image: Image.Image, size: tuple[int, int], form: Form) -> str:
    """Return what turns an opened image, upright of ``size``, into ``form``, in words, "" if it has that form."""
    width, height = size
    across, down = width * form.height, height * form.width
    steps = {
        f"{image.mode} turned into {FORMS[form.channels]}": not has_form(image, form.channels)
        and image.mode != FORMS[form.channels],
        "centre-cropped": across != down,
        f"resized to {form}": min(across, down) != form.height * form.width,
    }
    done = ", ".join(step for step, taken in steps.items() if taken)
    return done and f"{width} x {height} px, {done}"


class _WrongForm(CagcError):
    """An image of another shape or mode that must not be converted."""


def _check_form(image: Image.Image, form: Form, convert: bool) -> None:
    fits = image.width * form.height == image.height * form.width
    if convert or (fits and has_form(image, form.channels)):
        return
    alpha = " with transparency" if image.mode == "RGB" and image.has_transparency_data else ""
    raise _WrongForm(
        f"{image.width} x {image.height} px, {image.mode}{alpha}; expected a {form.expected()} "
        f"{FORMS[form.channels]} image (--convert-images crops and converts)"
    )


def read_image(
    path: str | os.PathLike[str], size: int | tuple[int, int], convert: bool = False, channels: int = 3
) -> tuple[Tensor, str]:
    """Read an image file as float32 [channels, height, width] in [-1, 1]; ``size`` is a side, or height and width.

    Returns:
        The image, and a description of the conversions, "" if there were none.

    Raises:
        CagcError: the file does not exist or cannot be decoded, or has another shape or mode and ``convert`` is false.
    """
    form = Form.of(size, channels)
    with reading("image", path):
        pixels, done = _decode(read_file(path), form, convert)
    return torch.from_numpy(pixels).float().div_(127.5).sub_(1), done


class ImageDataset(Sequence[Tensor]):
    """The images of a folder (recursive) or zip as tensors [channels, height, width], float32 in [-1, 1].

    Images are ordered by name and resized (Lanczos, antialiased). They must have the shape and the channels, unless
    `convert` is true: then they are cropped to their centre and converted by `to_form`. `resolution` is the side of
    square images, or their height and width; `channels` 1 (grey), 3 (RGB) or 4 (RGBA). Hidden files, `__MACOSX` and
    files without an image suffix are ignored. A file that cannot be decoded is left out, listed in `skipped`, and named
    in a warning. If the decoded set fits into `cache_bytes`, it is read at once and kept as uint8. Otherwise only
    headers are checked now and images are decoded on demand; an image that then fails is replaced by the next good one.

    Attributes:
        names: names of the usable images.
        skipped: name → reason, of images that cannot be read.
        changed: name → description of the conversions, of images that are converted.
        form: height, width and channels of the images.

    Raises:
        CagcError: the path does not exist, holds no image that can be read, or holds one of another shape or mode while
            `convert` is false. ValueError: `resolution` is below 1, or `channels` is another number.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resolution: int | tuple[int, int],
        cache_bytes: int = 512 << 20,
        progress: Progress | None = None,
        convert: bool = False,
        channels: int = 3,
    ):
        self.path, self.form, self.convert = Path(path), Form.of(resolution, channels), convert
        self._shown = printable(self.path)
        if not self.path.exists():
            raise CagcError(f"data: {self._shown} does not exist; expected a folder or a zip of images")
        with reading("data:", self.path):
            self._files = open_files(self.path)
        if not self._files.names:
            raise CagcError(f"data: {self._shown} holds no image ({', '.join(SUFFIXES)})")
        cached = len(self._files.names) * math.prod(self.form) <= cache_bytes
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
            _check_form(image, self.form, self.convert)
            if done := _conversions(image, image.size, self.form):
                self.changed[name] = done

    def _decode(self, name: str, data: bytes) -> np.ndarray:
        pixels, done = _decode(data, self.form, self.convert)
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
        """Return image `index` as a tensor [channels, height, width], float32 in [-1, 1]."""
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Return the images at `indices`, [N, channels, height, width] float32 in [-1, 1].

        Raises IndexError outside [-len, len).
        """
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

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.form.height, self.form.width

    def labels(self, c_dim: int) -> Labels:
        """Return the labels of the images, one row each in their order, from the ``dataset.json`` of the folder or zip.

        Raises:
            CagcError: there is no such file, or it does not fit the images or ``c_dim``.
        """
        with reading("data:", self.path):
            content = self._files.label_file()
            if content is None:
                raise CagcError(f"holds no {LABEL_FILE} with the labels that a class-conditional network needs")
            source = f"as often as in {printable(self.path.name)}"
            try:
                return label_table(parse_labels(content), self.names, c_dim, source)
            except CagcError as error:
                raise CagcError(f"{LABEL_FILE} {error}") from None

    def fingerprint(self) -> str:
        """Return a hash, 16 hexadecimal digits, of the form and of the name and content of every image file."""
        # Square RGB sets keep the hash that they had before there were others.
        form = self.form.height if self.form.square and self.form.channels == 3 else tuple(self.form)
        content = [form, *((name, self._digests[name]) for name in self.names)]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def describe(self) -> str:
        """Return one line for a log: name, images used, images converted and how most are, images skipped."""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        changed = ""
        if self.changed:
            changed = f", {len(self.changed):,} converted ({Counter(self.changed.values()).most_common(1)[0][0]})"
        return f"{printable(self.path.name)}: {len(self):,} images at {self.form}{changed}{skipped}"


def _attempt(read: Callable[[str], Any], name: str) -> Any:
    try:
        return read(name)
    except Exception as error:  # a decoder may raise anything at all on a broken file
        return error
