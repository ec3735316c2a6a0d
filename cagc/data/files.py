"""Lists and reads the image files of a folder or a zip, within limits."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path, PurePosixPath

from ..common.errors import CagcError
from ..common.file_kinds import foreign_kind
from ..common.reading import one_line, regular_file
from ..common.zips import MAX_IMAGE_ZIP_DIRECTORY_BYTES, has_directory
from .images import SUFFIXES, Budget, looks_like_image

MAX_FILE_BYTES = 256 << 20
"""Largest image file in bytes, in a folder or unpacked from a zip."""
MAX_EXPANSION, _SMALL_ZIP_BYTES = 200, 4 << 30
"""Images of more than 4 GB in a zip may unpack to at most this many times the size of the zip."""

LABEL_FILE = "dataset.json"
"""Name of the file with the labels of the images, at the top of a folder or zip."""
MAX_LABEL_BYTES = 64 << 20
"""Largest file of labels in bytes."""

in_flight = Budget(MAX_FILE_BYTES)
"""Limits the bytes of image files that the threads of a process hold at the same time."""


def _is_image(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in SUFFIXES


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise CagcError(f"got {size:,} bytes, expected at most {MAX_FILE_BYTES:,} (MAX_FILE_BYTES)")


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of an image file.

    Raises:
        CagcError: it is too large, or a folder, FIFO, socket or device. OSError: it cannot be opened.
    """
    _check_size(regular_file(path).stat().st_size)
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    _check_size(len(data))
    return data


def label_bytes(path: Path) -> bytes:
    """Return the bytes of a file of labels. Raises CagcError if it is no regular file or larger than a limit."""
    with regular_file(path).open("rb") as file:
        content = file.read(MAX_LABEL_BYTES + 1)
    _check_labels(len(content))
    return content


def _check_labels(size: int) -> None:
    if size > MAX_LABEL_BYTES:
        raise CagcError(f"{LABEL_FILE} has {size:,} bytes or more, expected at most {MAX_LABEL_BYTES:,}")


class ImageFolder:
    """The image files in a folder and its subfolders. `names` are sorted relative paths with forward slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        found = (Path(folder, name).relative_to(root) for folder, _, names in os.walk(root) for name in names)
        self.names = sorted(path.as_posix() for path in found if _is_image(PurePosixPath(path.as_posix())))

    def read(self, name: str) -> bytes:
        """Return the bytes of the file `name`. Raises the errors of `read_file`."""
        return read_file(self.root / name)

    def size(self, name: str) -> int:
        """Return the number of bytes of the file `name`. Raises OSError."""
        return (self.root / name).stat().st_size

    def label_file(self) -> bytes | None:
        """Return the bytes of :data:`LABEL_FILE`; None if there is none. Raises the errors of :func:`label_bytes`."""
        path = self.root / LABEL_FILE
        return label_bytes(path) if path.exists() else None


class ImageZip:
    """The image files in a zip, readable from several threads and processes. `names` are sorted.

    Raises:
        CagcError: `path` is not a regular file or not a zip, or its entries overlap or unpack to more than a limit.
            A damaged directory may raise anything.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = regular_file(path).stat().st_size
        with path.open("rb") as file:
            has_directory(file, MAX_IMAGE_ZIP_DIRECTORY_BYTES)
        try:
            self._archive, self._process = zipfile.ZipFile(path), os.getpid()
        except zipfile.BadZipFile as error:
            with path.open("rb") as file:
                found = foreign_kind(file.read(512)) or one_line(error)
            raise CagcError(f"{found}; expected a folder or a zip of images") from None
        entries = [info for info in self._archive.infolist() if not info.is_dir()]
        if sum(info.compress_size for info in entries) > size:
            raise CagcError("got entries that overlap, expected each to have bytes of its own")
        images = [info for info in entries if _is_image(PurePosixPath(info.filename))]
        unpacked = sum(info.file_size for info in images)
        if unpacked > max(_SMALL_ZIP_BYTES, MAX_EXPANSION * size):
            raise CagcError(
                f"got images of {unpacked:,} bytes in {size:,}, expected at most {MAX_EXPANSION} times as many "
                "(MAX_EXPANSION)"
            )
        self.names = sorted({info.filename for info in images})

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_archive": None, "_process": None}

    def read(self, name: str) -> bytes:
        """Return the unpacked bytes of the entry `name`.

        Raises CagcError if it is not an image, too large, or compressed by another method than deflate. A damaged entry
        may raise anything.
        """
        if self._process != os.getpid():  # forked processes share the position of an open file
            self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
        info = self._archive.getinfo(name)
        _check_size(info.file_size)
        return self._unpack(info, image=True)

    def _unpack(self, info: zipfile.ZipInfo, image: bool) -> bytes:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CagcError(f"got zip compression method {info.compress_type}, expected 0 (stored) or 8 (deflated)")
        with self._archive.open(info) as stream:
            if image and not looks_like_image(stream.peek(16)):
                raise CagcError("not an image")
            return stream.read()

    def size(self, name: str) -> int:
        """Return the unpacked number of bytes of the entry `name`."""
        return self._archive.getinfo(name).file_size

    def label_file(self) -> bytes | None:
        """Return the bytes of :data:`LABEL_FILE`; None if there is none. Raises CagcError if it is too large."""
        if LABEL_FILE not in self._archive.namelist():
            return None
        info = self._archive.getinfo(LABEL_FILE)
        _check_labels(info.file_size)
        return self._unpack(info, image=False)


def open_files(path: Path) -> ImageFolder | ImageZip:
    """Return the image files of a folder or zip. Raises the errors of `ImageZip`, or FileNotFoundError."""
    return ImageFolder(path) if path.is_dir() else ImageZip(path)
