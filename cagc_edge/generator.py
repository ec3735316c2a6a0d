"""A generator from a flat student file, by way of the C library."""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

import numpy as np

from .library import library

NOISE_MODES = ("none", "const", "random")


class EdgeError(ValueError):
    """What the C library refused, in one line."""


class Direction(NamedTuple):
    """A named edit direction: a strength of 1 adds ``scale`` times ``vector`` [w_dim] to w."""

    name: str
    scale: float
    vector: np.ndarray


def _floats(array: np.ndarray) -> ctypes.Array:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def _check(status: int) -> None:
    if status:
        raise EdgeError(library().last_error().decode(errors="replace"))


def version() -> str:
    """The version of the C library."""
    return library().version().decode()


def random_z(seed: int, count: int, z_dim: int) -> np.ndarray:
    """Standard normal latents float32 [count, z_dim], the same for ``seed`` (0 to 2³² - 1) in every language."""
    z = np.empty((count, z_dim), np.float32)
    _check(library().random(seed, z.size, _floats(z)))
    return z


class Generator:
    """The student in a flat file.

    Args:
        file: path of the file, or its bytes.
        threads: threads that draw an image, 1 to 64.

    Raises:
        EdgeError: the file is missing, damaged, of another version or architecture, or there is no memory.
        OSError: the C library is missing or of another version.

    Attributes:
        z_dim, w_dim, num_ws, img_resolution: sizes, as of a generator in PyTorch.
        w_avg: mean of w, float32 [w_dim].
        directions: named edit directions.
        licence: licence of the weights, "" if the file has none.
        thumbnails: bytes of a PNG or JPEG file, b"" if the file has none.
    """

    def __init__(self, file: str | os.PathLike[str] | bytes, threads: int = 1) -> None:
        self._handle, lib = None, library()
        if isinstance(file, bytes):
            self._handle = lib.open_memory(file, len(file), threads)
        else:
            self._handle = lib.open(os.fsencode(file), threads)
        if not self._handle:
            raise EdgeError(lib.last_error().decode(errors="replace"))
        self.z_dim, self.w_dim = lib.z_dim(self._handle), lib.w_dim(self._handle)
        self.num_ws, self.img_resolution = lib.num_ws(self._handle), lib.resolution(self._handle)
        self.w_avg = np.ctypeslib.as_array(lib.w_avg(self._handle), (self.w_dim,)).copy()
        self.directions = [self._direction(i) for i in range(lib.direction_count(self._handle))]
        self.licence = (lib.licence(self._handle) or b"").decode(errors="replace")
        size = ctypes.c_size_t()
        address = lib.thumbnails(self._handle, ctypes.byref(size))
        self.thumbnails = ctypes.string_at(address, size.value) if address else b""

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            library().close(self._handle)
            self._handle = None

    def __reduce_ex__(self, protocol: object):
        raise TypeError("a generator holds memory of the C library: it cannot be copied or pickled")

    def _direction(self, index: int) -> Direction:
        lib = library()
        name = lib.direction_name(self._handle, index).decode(errors="replace")
        vector = np.ctypeslib.as_array(lib.direction(self._handle, index), (self.w_dim,)).copy()
        return Direction(name, lib.direction_scale(self._handle, index), vector)

    @property
    def has_mapping(self) -> bool:
        """Whether the file carries the mapping network."""
        return bool(library().has_mapping(self._handle))

    @property
    def has_noise(self) -> bool:
        """Whether the file carries the maps of noise mode "const"."""
        return bool(library().has_noise(self._handle))

    @property
    def plan(self) -> str:
        """The instruction set, and the algorithm of every convolution."""
        return library().plan(self._handle).decode()

    @property
    def memory(self) -> int:
        """Bytes of packed weights and workspace."""
        return library().weight_bytes(self._handle) + library().workspace_bytes(self._handle)

    @property
    def threads(self) -> int:
        """Threads that draw an image; may be set."""
        return library().threads(self._handle)

    @threads.setter
    def threads(self, threads: int) -> None:
        _check(library().set_threads(self._handle, threads))

    def mapping(self, z: np.ndarray, truncation_psi: float = 1, truncation_cutoff: int | None = None) -> np.ndarray:
        """ws float32 [N, num_ws, w_dim] for latents ``z`` [N, z_dim].

        Args:
            z: latents.
            truncation_psi: ψ, by which w is pulled towards ``w_avg``.
            truncation_cutoff: number of layers, from the first, that ψ applies to; None: all.

        Raises:
            EdgeError: ``z`` has another shape, or the file has no mapping network.
        """
        z = np.ascontiguousarray(z, np.float32)
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise EdgeError(f"z: got shape {list(z.shape)}, expected [N, {self.z_dim}]")
        cutoff = -1 if truncation_cutoff is None else max(0, truncation_cutoff)
        ws = np.empty((len(z), self.num_ws, self.w_dim), np.float32)
        _check(library().map(self._handle, _floats(z), len(z), truncation_psi, cutoff, _floats(ws)))
        return ws

    def synthesis(self, ws: np.ndarray, noise_mode: str | None = None, seed: int = 0) -> np.ndarray:
        """Images float32 [N, 3, R, R], about -1 to 1, for ``ws`` [N, num_ws, w_dim].

        Args:
            ws: one w per layer.
            noise_mode: "none", "const" (the maps in the file) or "random" (of ``seed``); None: "const" where the file
                has maps, else "none".
            seed: of noise mode "random", 0 to 2³² - 1.

        Raises:
            EdgeError: ``ws`` has another shape, the mode is unknown or needs maps that the file lacks, or there is no
                memory.
        """
        r = self.img_resolution
        return self._draw(ws, noise_mode, seed, 0, np.empty((len(ws), 3, r, r), np.float32))

    def pictures(self, ws: np.ndarray, noise_mode: str | None = None, seed: int = 0) -> np.ndarray:
        """Images uint8 [N, R, R, 4], red, green, blue and alpha; arguments and errors as of :meth:`synthesis`."""
        r = self.img_resolution
        return self._draw(ws, noise_mode, seed, 1, np.empty((len(ws), r, r, 4), np.uint8))

    def edit(self, ws: np.ndarray, index: int, strength: float, first: int = 0, last: int | None = None) -> np.ndarray:
        """A copy of ``ws`` moved by ``strength`` along direction ``index`` in layers ``first`` to ``last`` - 1.

        Raises:
            EdgeError: no such direction or layers, or ``ws`` has another shape.
        """
        ws = self._ws(ws).copy()
        end = -1 if last is None else last
        _check(library().edit(self._handle, index, strength, first, end, _floats(ws), len(ws)))
        return ws

    def _ws(self, ws: np.ndarray) -> np.ndarray:
        ws = np.ascontiguousarray(ws, np.float32)
        if ws.shape[1:] != (self.num_ws, self.w_dim):
            raise EdgeError(f"ws: got shape {list(ws.shape)}, expected [N, {self.num_ws}, {self.w_dim}]")
        return ws

    def _draw(self, ws: np.ndarray, noise_mode: str | None, seed: int, pixels: int, out: np.ndarray) -> np.ndarray:
        if noise_mode is None:
            noise_mode = "const" if self.has_noise else "none"
        if noise_mode not in NOISE_MODES:
            raise EdgeError(f"noise_mode: got {noise_mode!r}, expected one of {', '.join(NOISE_MODES)}")
        ws, mode = self._ws(ws), NOISE_MODES.index(noise_mode)
        _check(library().synthesize(self._handle, _floats(ws), len(ws), mode, seed, pixels, out.ctypes.data, None, 0))
        return out
