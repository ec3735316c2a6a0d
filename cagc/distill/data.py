"""Images of any size, from a folder or a zip, as square tensors in an order that can be replayed."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..callbacks import Progress
from ..errors import CagcError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"))
# Only these decoders see a file, whatever its name says: Pillow's list also holds formats that start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
# A zip entry may claim any size once unpacked; no photograph comes near this.
_MAX_BYTES = 256 << 20
# Batches that are decoded at the same time, ahead of their use.
_AHEAD = min(4, os.cpu_count() or 1)


def _is_image(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in SUFFIXES


class _Folder:
    def __init__(self, root: Path):
        self.root = root
        found = (Path(folder, name).relative_to(root) for folder, _, names in os.walk(root) for name in names)
        self.names = sorted(path.as_posix() for path in found if _is_image(PurePosixPath(path.as_posix())))

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def stamp(self, name: str) -> tuple[int, int]:
        status = (self.root / name).stat()
        return status.st_size, status.st_mtime_ns


class _Zip:
    def __init__(self, path: Path):
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise CagcError(f"data: {path} cannot be read as a zip of images: {error}") from error
        entries = (info.filename for info in self.archive.infolist() if not info.is_dir())
        self.names = sorted({name for name in entries if _is_image(PurePosixPath(name))})

    def read(self, name: str) -> bytes:
        with self.archive.open(name) as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES >> 20} MB unpacked")
        return data

    def stamp(self, name: str) -> tuple[int, int]:
        info = self.archive.getinfo(name)
        return info.file_size, info.CRC


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # AVIF and WebP depend on how Pillow was built


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=_formats())


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB, upright: EXIF rotation applied, transparency laid over white, 16-bit samples scaled to 8.

    Raises ValueError for floating point pixels, whose range the file does not tell.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating point pixels have no known range")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _square(image: Image.Image, resolution: int) -> np.ndarray:
    """uint8 [3, resolution, resolution]: centre crop to a square, antialiased resize."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    resized = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)
    return np.asarray(resized).transpose(2, 0, 1).copy()


def _decode(data: bytes, resolution: int, convert: bool) -> tuple[np.ndarray, str]:
    """uint8 [3, resolution, resolution], and what was done to make it so, "" if nothing."""
    with _open(data) as image:
        _check_form(image, convert)
        rgb, mode = to_rgb(image), image.mode
        (width, height), pixels = rgb.size, _square(rgb, resolution)
    steps = {
        f"{mode} turned into RGB": mode != "RGB",
        "centre-cropped": width != height,
        f"resized to {resolution} px": min(width, height) != resolution,
    }
    done = ", ".join(step for step, taken in steps.items() if taken)
    return pixels, done and f"{width} x {height} px, {done}"


class _WrongForm(ValueError):
    """An image that is not square or not RGB, and no leave to convert it."""


def _check_form(image: Image.Image, convert: bool) -> None:
    if convert or (image.mode == "RGB" and image.width == image.height and not image.has_transparency_data):
        return
    alpha = " with transparency" if image.mode == "RGB" and image.has_transparency_data else ""
    raise _WrongForm(
        f"{image.width} x {image.height} px, {image.mode}{alpha}; expected a square RGB image "
        "(--convert-images crops and converts)"
    )


def read_image(path: str | os.PathLike[str], resolution: int, convert: bool = False) -> tuple[Tensor, str]:
    """One image file as [3, resolution, resolution] float32 in [-1, 1], and what was done to make it so, "" if nothing.

    Raises:
        CagcError: the file does not exist or cannot be decoded, or is not square or not RGB and ``convert`` is false.
    """
    try:
        pixels, done = _decode(Path(path).read_bytes(), resolution, convert)
    except FileNotFoundError:
        raise CagcError(f"image {path}: no such file") from None
    except Exception as error:  # a decoder may raise anything at all on a broken file
        raise CagcError(f"image {path}: {_reason(error)}") from None
    return torch.from_numpy(pixels).float().div_(127.5).sub_(1), done


class ImageDataset(Sequence[Tensor]):
    """The images of a folder (recursive) or zip as tensors [3, resolution, resolution] float32 in [-1, 1], RGB.

    Images must be square and RGB, unless `convert`: then they are centre-cropped, and other modes turned into RGB as by
    `to_rgb`. They are resized (Lanczos, antialiased), in the order of their names. Hidden files, `__MACOSX` and files
    without an image suffix are no images. A file that cannot be decoded is left out, kept with its
    reason in `skipped`, and named in one warning. A set of up to `cache_bytes` decoded is read at once and kept
    as uint8; a larger one has its headers checked now and is decoded on demand, where a file that turns out broken is
    named the same way and replaced by the next good one.

    Attributes: names (of the usable images), skipped (name → reason), changed (name → what was done to an image that
    was decoded, where anything was), resolution.
    Raises CagcError when the path does not exist, holds no image, holds only broken ones, or one that is not square or
    not RGB without `convert`; ValueError for a resolution below 1. `progress(done, total)` is called as files are read.
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
        if not self.path.exists():
            raise CagcError(f"data: {self.path} does not exist; expected a folder or a zip of images")
        self._files = _Folder(self.path) if self.path.is_dir() else _Zip(self.path)
        if not self._files.names:
            raise CagcError(f"data: {self.path} holds no image ({', '.join(sorted(SUFFIXES))})")
        cached = len(self._files.names) * 3 * self.resolution**2 <= cache_bytes
        self.skipped: dict[str, str] = {}
        self.changed: dict[str, str] = {}
        kept = self._read_all(self._decode if cached else self._check_header, progress)
        self.names = list(kept)
        self._cache = torch.from_numpy(np.stack(list(kept.values()))) if cached and kept else None
        self._complain()

    def _read_all(self, read: Callable[[str], Any], progress: Progress | None) -> dict[str, Any]:
        kept, names = {}, self._files.names
        with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            # Large photographs are welcome; Pillow still refuses those of twice its limit.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            for done, (name, value) in enumerate(zip(names, pool.map(lambda n: _attempt(read, n), names)), 1):
                if isinstance(value, _WrongForm):
                    pool.shutdown(cancel_futures=True)
                    raise CagcError(f"data: {name} in {self.path}: {value}")
                if isinstance(value, Exception):
                    self.skipped[name] = _reason(value)
                else:
                    kept[name] = value
                if progress is not None:
                    progress(done, len(names))
        return kept

    def _check_header(self, name: str) -> None:
        with _open(self._files.read(name)) as image:
            _check_form(image, self.convert)

    def _decode(self, name: str) -> np.ndarray:
        pixels, done = _decode(self._files.read(name), self.resolution, self.convert)
        if done:
            self.changed[name] = done
        return pixels

    def _complain(self) -> None:
        if not self.skipped:
            return
        shown = ", ".join(f"{name} ({reason})" for name, reason in list(self.skipped.items())[:5])
        more = f" and {len(self.skipped) - 5} more" if len(self.skipped) > 5 else ""
        if not self.names:
            raise CagcError(f"data: none of the {len(self.skipped)} images in {self.path} can be read: {shown}{more}")
        warnings.warn(
            f"data: skipped {len(self.skipped)} of {len(self.skipped) + len(self.names)} images in "
            f"{self.path}: {shown}{more}",
            stacklevel=3,
        )

    @property
    def is_cached(self) -> bool:
        """Whether the decoded images are kept."""
        return self._cache is not None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        """Image `index` as a tensor [3, R, R] float32 in [-1, 1]."""
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Images [N, 3, R, R] float32 in [-1, 1] at `indices`, each in [-len, len). Raises IndexError outside."""
        for index in indices:
            if not -len(self) <= index < len(self):
                raise IndexError(f"index {index} is outside a set of {len(self)} images")
        if self._cache is not None:
            pixels = self._cache[torch.as_tensor(indices, dtype=torch.long)]
        else:
            pixels = torch.from_numpy(np.stack([self._decode_late(i) for i in indices]))
        return pixels.float().div_(127.5).sub_(1)

    def _decode_late(self, index: int) -> np.ndarray:
        for step in range(len(self)):
            name = self.names[(index + step) % len(self)]
            if name in self.skipped:
                continue
            value = _attempt(self._decode, name)
            if not isinstance(value, Exception):
                return value
            self.skipped[name] = _reason(value)
            warnings.warn(f"data: skipped {name} in {self.path} ({_reason(value)})", stacklevel=4)
        raise CagcError(f"data: no image in {self.path} can be decoded any more")

    def fingerprint(self) -> str:
        """Hash, 16 hexadecimal digits, of the resolution and of every image's name, size and checksum or date."""
        stamps = [self.resolution, *((name, *self._files.stamp(name)) for name in self.names)]
        return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]

    def describe(self) -> str:
        """One line for a log or a report: path, images used, images skipped."""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"{self.path.name}: {len(self):,} images at {self.resolution} px{skipped}"


def _attempt(read: Callable[[str], Any], name: str) -> Any:
    try:
        return read(name)
    except Exception as error:  # a decoder may raise anything at all on a broken file
        return error


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__


class ImageStream(Iterator[Tensor]):
    """Endless batches [batch, 3, R, R] of a data set: every epoch a new order and new horizontal flips, from one seed.

    Sample number k depends on (seed, k) alone, so a stream restored from `state_dict` goes on exactly where it was,
    even in the middle of an epoch. Batches run across the end of an epoch. `numbers`: the samples of each batch that
    are delivered, for one of several processes; all of them unless set. Images that are not kept decoded are decoded
    ahead in threads, which Pillow runs side by side.
    Raises CagcError for a set smaller than a batch.
    """

    def __init__(self, dataset: ImageDataset, batch: int, seed: int = 0, flip: bool = True):
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        if len(dataset) < batch:
            raise CagcError(f"data: {len(dataset)} usable images are fewer than the batch of {batch}")
        self.dataset, self.batch, self.seed, self.flip = dataset, batch, seed, flip
        self.numbers: Sequence[int] = range(batch)
        self.position = 0
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        self._pool = None if getattr(dataset, "is_cached", True) else ThreadPoolExecutor(max_workers=_AHEAD)
        self._waiting: deque[Future[Tensor]] = deque()

    def _draw(self, number: int) -> tuple[int, bool]:
        epoch, offset = divmod(number, len(self.dataset))
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(len(self.dataset))
            self._epoch = epoch, order, rng.random(len(self.dataset)) < 0.5
        return int(self._epoch[1][offset]), bool(self.flip and self._epoch[2][offset])

    def __next__(self) -> Tensor:
        ahead = 1 if self._pool is None else _AHEAD
        while len(self._waiting) < ahead:
            start = self.position + len(self._waiting) * self.batch
            drawn = [self._draw(start + i) for i in self.numbers]
            self._waiting.append(self._submit(drawn))
        images = self._waiting.popleft().result()
        self.position += self.batch
        return images

    def _submit(self, drawn: list[tuple[int, bool]]) -> Future[Tensor]:
        if self._pool is not None:
            return self._pool.submit(self._load, drawn)
        loaded: Future[Tensor] = Future()
        loaded.set_result(self._load(drawn))
        return loaded

    def _load(self, drawn: list[tuple[int, bool]]) -> Tensor:
        images = self.dataset.batch([index for index, _ in drawn])
        flipped = torch.tensor([flip for _, flip in drawn])
        return torch.where(flipped[:, None, None, None].to(images.device), images.flip(3), images)

    def state_dict(self) -> dict[str, Any]:
        """Position of the stream (samples drawn) with what it depends on, JSON-ready."""
        return {"position": self.position, "seed": self.seed, "flip": self.flip, "images": len(self.dataset)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Raises CagcError when it belongs to another seed, flip setting or number of images."""
        for key, value in self.state_dict().items():
            if key not in state:
                raise CagcError(f"data: the saved position has no entry {key!r}")
            if key != "position" and state[key] != value:
                raise CagcError(f"data: the saved position is for {key} = {state[key]}, this run has {value}")
        self.position = int(state["position"])
        self._epoch = None
        self._waiting.clear()
