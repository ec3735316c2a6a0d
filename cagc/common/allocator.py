"""What the C library does with freed memory."""

from __future__ import annotations

import ctypes

# Numbers of options in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def libc() -> ctypes.CDLL | None:
    """Return the C library of this process, or None where it cannot be called."""
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):
        return None


def keep_memory() -> bool:
    """Make glibc keep freed memory for the tensors to come; return whether this succeeded.

    Otherwise large tensors get fresh pages each time, which cost several passes over memory.
    """
    mallopt = getattr(libc(), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
