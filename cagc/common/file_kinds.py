"""Detects the kind of a file from its first bytes; its name is not trusted."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import CagcError
from .reading import regular_file

SAFETENSORS, TORCH_ZIP, TORCH_LEGACY, PICKLE = "safetensors", "zip", "legacy torch", "pickle"
_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_TEXT_PICKLE = re.compile(rb"[\(\]\}cl]")

_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not downloaded; run `git lfs pull`"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"RIFF", "a WebP image or another RIFF file"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"SQLite format 3", "a database"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"BZh", "compressed by bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed by xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"GGUF", "a GGUF file"),
    (b"\x7fELF", "a program"),
)


def file_kind(path: Path) -> str:
    """Return :data:`SAFETENSORS`, :data:`TORCH_ZIP` (any zip), :data:`TORCH_LEGACY` or :data:`PICKLE`.

    Raises:
        CagcError: it is not a regular file, or of another kind, which the message names. OSError: it cannot be opened.
    """
    with regular_file(path).open("rb") as file:
        start = file.read(512)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return TORCH_ZIP
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        return TORCH_LEGACY if _LEGACY_MAGIC in start[:32] else PICKLE  # protocol 4 puts a frame's length before it
    size = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 2 <= size <= path.stat().st_size:
        return SAFETENSORS
    foreign = foreign_kind(start)
    if foreign is None and _TEXT_PICKLE.match(start):
        return PICKLE
    raise CagcError(f"{foreign or 'not a file of tensors'}; expected safetensors, a torch file or a pickle")


def foreign_kind(start: bytes) -> str | None:
    """Describe a file of another kind by its first 512 bytes, as a clause of a message; None if it is unknown."""
    if not start:
        return "the file is empty"
    for magic, name in _FOREIGN:
        if start.startswith(magic):
            return f"the file is {name}"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if re.match(rb"<[!?a-z]", text):
        return "the file is a web page: the download gave an error or a question instead of the file"
    if start[257:262] == b"ustar":
        return "the file is a tar archive; unpack it first"
    if not start.strip(b"\0"):
        return "the file is zeros: a download that was not finished"
    if text.startswith((b'{"', b"{\n", b"{\r", b"{ ")):
        return "the file is JSON text"
    if start.isascii() and all(byte >= 9 for byte in start) and not _looks_pickled(start):
        return "the file is text"
    return None


def _looks_pickled(start: bytes) -> bool:
    """Whether text begins like a pickle of protocol 0: with a container, or a class name on two lines."""
    return re.match(rb"(\(d|\(l|\(i|c[\w.]+\n[\w.]+\n|[\]}])", start) is not None
