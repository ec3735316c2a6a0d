"""Limits of a zip's directory, which are checked before Python reads it: each entry takes memory."""

from __future__ import annotations

import zipfile
from typing import BinaryIO

from .errors import CagcError

MAX_ZIP_ENTRIES = 2_000_000
MAX_IMAGE_ZIP_DIRECTORY_BYTES = 128 << 20
"""Of a zip of images, whose directory is longer than that of a zip of weights."""


def has_directory(file: BinaryIO, max_bytes: int) -> bool:
    """Whether the zip in ``file`` has a directory; a truncated one has not.

    Raises:
        CagcError: its directory claims more than ``max_bytes``, or more entries than :data:`MAX_ZIP_ENTRIES`.
    """
    end = zipfile._EndRecData(file)
    if end is None:
        return False
    size, entries = end[zipfile._ECD_SIZE], end[zipfile._ECD_ENTRIES_TOTAL]
    if size > max_bytes:
        raise CagcError(f"a zip with a directory of {size:,} bytes, expected at most {max_bytes:,}")
    if entries > MAX_ZIP_ENTRIES:
        raise CagcError(f"a zip of {entries:,} entries, expected at most {MAX_ZIP_ENTRIES:,} (MAX_ZIP_ENTRIES)")
    return True
