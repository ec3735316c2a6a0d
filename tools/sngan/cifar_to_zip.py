"""Write the training images of CIFAR-10 as a zip of PNG files, which every command takes as `--data`.

Reads the files that the authors of CIFAR-10 distribute (Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images", 2009): the Python or the binary archive, or the folder that either unpacks to. The Python archive's
pickles are read as containers, numbers, strings and bytes; no code in them is run.

    python tools/sngan/cifar_to_zip.py cifar-10-python.tar.gz cifar10.zip
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from cagc.common.console import one_line_errors
from cagc.common.errors import CagcError
from cagc.common.files import atomic_write, check_target
from cagc.common.inert_pickle import Budget, InertUnpickler
from cagc.common.inert_values import StoredArray
from cagc.common.reading import reading, regular_file

MAX_BYTES, MAX_BATCH_BYTES = 512 << 20, 64 << 20
"""Most bytes that an archive and a batch may unpack to; CIFAR-10 has 184 million in batches of 31 million."""
SIDE = 32
_PIXELS = 3 * SIDE**2
_BATCH = re.compile(r"(?:.*/)?(data_batch_\d+(?:\.bin)?)")
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # a fixed date, so that equal images give equal files


class _Limited(io.RawIOBase):
    """Limits a stream to `MAX_BYTES`, because a small file can unpack to any size. Raises CagcError beyond."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream, self._left = stream, MAX_BYTES

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise CagcError(f"unpacks to more than {MAX_BYTES:,} bytes (MAX_BYTES), which CIFAR-10 does not")
        return data


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of every training batch in an archive or folder, in their order in it."""
    if path.is_dir():
        for file in sorted(path.rglob("data_batch_*")):
            if (found := _BATCH.fullmatch(file.name)) and file.is_file():
                with file.open("rb") as stream:
                    yield found[1], _Limited(stream).read()
        return
    with regular_file(path).open("rb") as packed:
        zipped = packed.peek(2)[:2] == b"\x1f\x8b"
        with tarfile.open(fileobj=_Limited(gzip.GzipFile(fileobj=packed) if zipped else packed), mode="r|") as archive:
            for member in archive:
                if member.isfile() and (found := _BATCH.fullmatch(member.name)):
                    if member.size > MAX_BATCH_BYTES:
                        raise CagcError(f"got a batch of {member.size:,} bytes, expected {MAX_BATCH_BYTES:,} at most")
                    yield found[1], archive.extractfile(member).read()


def _binary(data: bytes) -> np.ndarray:
    if not data or len(data) % (_PIXELS + 1):
        raise CagcError(
            f"got {len(data)} bytes, expected a multiple of {_PIXELS + 1}: a label and 3 x {SIDE} x {SIDE} pixels"
        )
    return np.frombuffer(data, np.uint8).reshape(-1, _PIXELS + 1)[:, 1:]


def _pickled(data: bytes) -> np.ndarray:
    document = InertUnpickler(io.BytesIO(data), Budget(len(data))).load()
    found = document.get("data", document.get(b"data")) if isinstance(document, dict) else None
    pixels = found.numpy() if isinstance(found, StoredArray) else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
        got = "none" if pixels is None else f"{pixels.dtype} {list(pixels.shape)}"
        raise CagcError(f"got pixels {got}, expected an entry 'data' of uint8 [n, {_PIXELS}]")
    return pixels


def read_images(path: Path) -> dict[str, np.ndarray]:
    """Return the training images, uint8 [n, 3, 32, 32], by the name of their batch, sorted by name.

    Raises:
        CagcError: the archive is damaged or holds no training batch, or a batch has another format.
    """
    images = {}
    with reading("data:", path):
        for name, data in _files(path):
            with reading("batch", name):
                pixels = _binary(data) if name.endswith(".bin") else _pickled(data)
            images[name.removesuffix(".bin")] = pixels.reshape(-1, 3, SIDE, SIDE)
        if not images:
            raise CagcError("holds no CIFAR-10 training batch (data_batch_1 to data_batch_5)")
    return dict(sorted(images.items()))


@dataclass
class Options:
    """Options of the command.

    Attributes:
        archive: `cifar-10-python.tar.gz`, `cifar-10-binary.tar.gz`, or the folder that either unpacks to.
        out: the zip to write.
        overwrite: replace `out` if it exists.
    """

    archive: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    overwrite: bool = False


def convert(options: Options) -> None:
    """Write the zip. Raises CagcError if the archive cannot be read or `out` cannot be written."""
    check_target(options.out, options.overwrite)
    batches = read_images(options.archive)
    with atomic_write(options.out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as bundle:
        for name, images in batches.items():
            for i, image in enumerate(images):
                stream = io.BytesIO()
                Image.fromarray(image.transpose(1, 2, 0)).save(stream, "PNG")
                bundle.writestr(zipfile.ZipInfo(f"{name}/{i:05d}.png", _ZIP_DATE), stream.getvalue())
    print(f"{options.out}: {sum(map(len, batches.values())):,} images")


if __name__ == "__main__":
    with one_line_errors():
        convert(tyro.cli(Options, description=__doc__))
