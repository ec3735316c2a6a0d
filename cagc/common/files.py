"""Atomic file writes, removal of temporary files, and locks on folders."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import CagcError

try:
    import fcntl
except ImportError:  # Windows: folders are not locked there
    fcntl = None

_PREFIX = ".cagc-"  # of the names of temporary files
_CLEANED: set[Path] = set()  # folders from which this process has removed leftover temporary files


def check_target(path: str | Path, overwrite: bool = True) -> None:
    """Raise CagcError if the folder of ``path`` does not exist, or if ``path`` exists and must not be replaced."""
    path = Path(path)
    if not path.parent.is_dir():
        raise CagcError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.exists() and not overwrite:
        raise CagcError(f"{path} exists; add --overwrite to replace it")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to, and rename it to ``path`` on success.

    Readers see the old file or the new one, never a part. On an exception the temporary file is removed and
    ``path`` is unchanged. The temporary name keeps the suffix of ``path``, because some writers choose a format by it.
    The first call for a folder in a process removes temporary files that killed writers left there.

    Raises:
        CagcError: the folder of ``path`` does not exist.
        OSError: writing failed; the message contains ``path``.
    """
    path = Path(path)
    check_target(path)
    if path.parent.resolve() not in _CLEANED:
        remove_leftovers(path.parent)
    try:
        with _temporary_file(path) as temporary:
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


@contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """Create a file beside ``path``, locked while its writer is alive, and remove it at the end unless renamed."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{_PREFIX}{path.stem[:40]}-", suffix=path.suffix)
        _lock(handle, wait=True)
        if os.path.exists(name):  # otherwise another process removed it before it was locked
            break
        os.close(handle)
    try:
        yield Path(name)
    finally:
        os.close(handle)
        with suppress(FileNotFoundError):
            os.unlink(name)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files that killed writers left in ``folder``; locked files have a living writer and stay."""
    folder = Path(folder)
    for leftover in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            handle = os.open(leftover, os.O_RDONLY)
            try:
                if _lock(handle):
                    leftover.unlink()
            finally:
                os.close(handle)
    _CLEANED.add(folder.resolve())


def holds_files(folder: Path, besides: Iterable[str] = ()) -> bool:
    """Whether ``folder`` or its subfolders hold a file, ignoring ``besides`` at the top and temporary files."""
    spared = {folder / name for name in besides}
    files = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    return any(path not in spared and not path.name.startswith(_PREFIX) for path in files)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against other processes; the lock ends with the block, or when the process ends in any way.

    Raises:
        CagcError: another process holds the lock.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(handle):
            raise CagcError(f"{folder}: another process is at work in this folder; wait until it has ended, or stop it")
        yield
    finally:
        os.close(handle)


def _lock(handle: int, wait: bool = False) -> bool:
    """Try to lock an open file and return whether it succeeded; always true where the file system has no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
