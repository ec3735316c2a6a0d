"""Loads the C library of csrc/include/cagc/c_api.h and declares its functions to ctypes."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path

API_VERSION = 1
_NAME = {"darwin": "libcagc.dylib", "win32": "cagc.dll"}.get(sys.platform, "libcagc.so")
_handle, _floats, _status = c_void_p, POINTER(c_float), c_int

# name: (result, arguments)
_FUNCTIONS = {
    "version": (c_char_p, []),
    "api_version": (c_int32, []),
    "last_error": (c_char_p, []),
    "open": (_handle, [c_char_p, c_int32]),
    "open_memory": (_handle, [c_char_p, c_size_t, c_int32]),
    "close": (None, [_handle]),
    "z_dim": (c_int32, [_handle]),
    "w_dim": (c_int32, [_handle]),
    "num_ws": (c_int32, [_handle]),
    "resolution": (c_int32, [_handle]),
    "has_mapping": (c_int32, [_handle]),
    "has_noise": (c_int32, [_handle]),
    "w_avg": (_floats, [_handle]),
    "weight_bytes": (c_size_t, [_handle]),
    "workspace_bytes": (c_size_t, [_handle]),
    "plan": (c_char_p, [_handle]),
    "set_threads": (_status, [_handle, c_int32]),
    "threads": (c_int32, [_handle]),
    "random": (_status, [c_uint32, c_size_t, _floats]),
    "map": (_status, [_handle, _floats, c_size_t, c_float, c_int32, _floats]),
    "synthesize": (
        _status, [_handle, _floats, c_size_t, c_int, c_uint32, c_int, c_void_p, c_void_p, c_size_t]
    ),
    "direction_count": (c_int32, [_handle]),
    "direction_name": (c_char_p, [_handle, c_int32]),
    "direction_scale": (c_float, [_handle, c_int32]),
    "direction": (_floats, [_handle, c_int32]),
    "edit": (_status, [_handle, c_int32, c_float, c_int32, c_int32, _floats, c_size_t]),
    "licence": (c_char_p, [_handle]),
    "thumbnails": (c_void_p, [_handle, POINTER(c_size_t)]),
}  # fmt: skip


class Library:
    """The functions of the C interface, without their prefix."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        loaded = ctypes.CDLL(os.fspath(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(loaded, f"cagc_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        if (found := self.api_version()) != API_VERSION:
            raise OSError(f"{path}: got version {found} of the C interface, expected {API_VERSION}")


@functools.cache
def library() -> Library:
    """The library that ``CAGC_LIBRARY`` names, or the one beside this file.

    Raises:
        OSError: it is missing, or of another version.
    """
    path = os.environ.get("CAGC_LIBRARY") or Path(__file__).with_name(_NAME)
    if not Path(path).is_file():
        raise OSError(f"{path}: no such file; build the library (docs/edge.md) and set CAGC_LIBRARY to it")
    return Library(path)
