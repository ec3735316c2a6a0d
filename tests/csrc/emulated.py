"""Builds the emulator of this folder once per session and lends its launchers to the native wrappers."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
POINTER = ctypes.c_uint64
OPS = ("bias_act", "epilogue", "filtered_lrelu", "sparse_channel_conv2d", "upfirdn2d")


def tool(name: str) -> str | None:
    """A program of this environment, else of the machine."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)


def missing() -> str | None:
    """Why the emulator cannot be built here; None if it can."""
    for name, names in (("CMake", ["cmake"]), ("a C++ compiler", ["c++"]), ("make or ninja", ["make", "ninja"])):
        if not any(map(tool, names)):
            return f"the emulator needs {name}"
    return None


@functools.cache
def build() -> Path:
    """The build folder, made in some seconds and removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="cagc-emulator-")
    build.keep = folder
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"] if tool("ninja") else []
    for command in (
        [tool("cmake"), "-S", HERE, "-B", folder.name, *generator],
        [tool("cmake"), "--build", folder.name, "--parallel", "2"],
    ):
        run = subprocess.run([*map(str, command)], capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return Path(folder.name)


@functools.cache
def library() -> ctypes.CDLL:
    """The emulated launchers."""
    loaded = ctypes.CDLL(str(build() / "libcagc_emulated.so"))
    for name in OPS:
        getattr(loaded, name).argtypes = [POINTER, ctypes.c_size_t]
        getattr(loaded, name).restype = ctypes.c_char_p
    loaded.planted.argtypes = [ctypes.c_int, POINTER, POINTER, ctypes.c_int]
    loaded.planted.restype = ctypes.c_char_p
    loaded.emulator_set.argtypes = [ctypes.c_uint64, ctypes.c_int]
    return loaded


class Launcher:
    """Stands in for :func:`cagc_kernels.native.launch`: runs the CUDA kernel of an op on the emulator."""

    def __init__(self) -> None:
        self.launches = 0

    def __call__(self, op: str, lead: object, arguments: object) -> None:
        self.launches += 1
        if error := getattr(library(), op)(arguments.address, arguments.size):
            raise RuntimeError(error.decode())


@contextmanager
def emulated(op: str, seed: int = 0, multiprocessors: int = 1) -> Iterator[Launcher]:
    """Inside the block ``backend="native"`` runs the CUDA kernels of ``op`` on CPU tensors.

    ``seed`` shuffles the threads, 0 leaves them in ascending order; ``multiprocessors`` bounds a grid.
    """
    wrapper, launcher = import_module(f"cagc_kernels.native.{op}"), Launcher()
    library().emulator_set(seed, multiprocessors)
    before = {name: getattr(wrapper, name) for name in ("launch", "_direct") if hasattr(wrapper, name)}
    wrapper.launch, wrapper._direct = launcher, lambda **_: None
    try:
        yield launcher
    finally:
        for name, function in before.items():
            setattr(wrapper, name, function)
