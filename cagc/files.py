"""Files that are either whole or absent."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import CagcError


def check_target(path: str | Path, overwrite: bool = True) -> None:
    """Raise CagcError if the folder of ``path`` does not exist, or ``path`` does and is not to be replaced."""
    path = Path(path)
    if not path.parent.is_dir():
        raise CagcError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.exists() and not overwrite:
        raise CagcError(f"{path} exists; add --overwrite to replace it")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; on success it takes the name ``path``.

    Readers see the old file or the new one, never a part. On an exception the temporary file is removed and
    ``path`` is untouched. The temporary name keeps the suffix of ``path``, because some writers choose a format by it.

    Raises:
        CagcError: the folder of ``path`` does not exist.
        OSError: what writing raised, with ``path`` in its message.
    """
    path = Path(path)
    check_target(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk does not say where
            error.filename = str(path)
        raise
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def cache_folder() -> Path:
    """``CAGC_CACHE_DIR``, else ``cagc`` in ``XDG_CACHE_HOME`` or in ``~/.cache``.

    For a user without a home folder: one in the folder of temporary files that no other user shares.
    """
    if folder := os.environ.get("CAGC_CACHE_DIR"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "cagc"
    try:
        return Path.home() / ".cache" / "cagc"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"cagc-{os.getuid()}"
