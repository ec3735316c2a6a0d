"""File operations that fail on demand: the process is killed at one of them, or the disk is full from then on."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MAKE, _OTHER = {"os.mkdir"}, {"os.rename", "os.remove", "os.rmdir", "os.chmod"}


class Killed(BaseException):
    """Raised as if the process were killed: afterwards no file operation takes place, not even clean-up."""


class _Faults:
    def __init__(self) -> None:
        self.root, self.kind, self.at, self.count = None, "", None, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root is None or not self._concerns(event, arguments):
            return
        self.count += 1
        if self.at is None or self.count <= self.at:
            return
        if self.kind == "kill":
            raise Killed
        if event in _MAKE or event == "open":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    def _concerns(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, _, flags = arguments
            return bool(flags & (os.O_WRONLY | os.O_RDWR)) and str(path).startswith(self.root)
        if event not in _MAKE | _OTHER:
            return False
        # Relative names are those that shutil.rmtree gives beside the descriptor of a folder.
        return str(arguments[0]).startswith(self.root) or not os.path.isabs(arguments[0])


_faults = _Faults()
sys.addaudithook(_faults)


@contextmanager
def faults(root: Path, kind: str = "", at: int | None = None) -> Iterator[_Faults]:
    """Within the block: count the operations that change files under ``root``, and let those after the first ``at``
    fail, by ``kind``: "kill" or "full"."""
    _faults.root, _faults.kind, _faults.at, _faults.count = str(root), kind, at, 0
    try:
        yield _faults
    finally:
        _faults.root = None
