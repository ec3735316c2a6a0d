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
POINTER, INT64, DOUBLE, INT = ctypes.c_uint64, ctypes.c_int64, ctypes.c_double, ctypes.c_int

# The arguments of each op in csrc/module.cpp, without the last one (threads or a stream).
SIGNATURES = {
    "bias_act": [POINTER] * 6 + [INT64] * 3 + [DOUBLE] * 3 + [INT] * 3,
    "bias_act_slope": [POINTER] * 5 + [INT64] * 3 + [DOUBLE] * 3 + [INT] * 2 + [POINTER, INT64],
    "sparse_channel_conv2d": [POINTER] * 7 + [INT64] * 22 + [INT] * 5,
    "modulated_conv2d": [POINTER] * 10 + [INT64] * 10 + [INT] + [DOUBLE] * 3 + [INT] * 2,
    "upfirdn2d": [POINTER] * 3 + [INT64] * 18 + [INT] * 2 + [DOUBLE, INT],
}


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
    for name, types in SIGNATURES.items():
        if not hasattr(loaded, name):
            continue
        getattr(loaded, name).argtypes = types
        getattr(loaded, name).restype = ctypes.c_char_p
    loaded.planted.argtypes = [INT, POINTER, POINTER, INT]
    loaded.planted.restype = ctypes.c_char_p
    loaded.emulator_set.argtypes = [ctypes.c_uint64, INT]
    return loaded


class EmulatedModule:
    """Stands in for the compiled module: ``<op>_cpu`` runs the CUDA kernel on the emulator."""

    def __init__(self) -> None:
        self.launches = 0

    def __getattr__(self, name: str):
        launcher = getattr(library(), name.removesuffix("_cpu"))

        def call(*arguments) -> None:
            self.launches += 1
            if error := launcher(*arguments[:-1]):
                raise RuntimeError(error.decode())

        return call


@contextmanager
def emulated(op: str, seed: int = 0, multiprocessors: int = 1) -> Iterator[EmulatedModule]:
    """Inside the block ``backend="native"`` runs the CUDA kernels of ``op`` on CPU tensors.

    ``seed`` shuffles the threads, 0 leaves them in ascending order; ``multiprocessors`` bounds a grid.
    """
    wrapper, module = import_module(f"cagc_kernels.native.{op}"), EmulatedModule()
    library().emulator_set(seed, multiprocessors)
    before, wrapper._C = wrapper._C, module
    try:
        yield module
    finally:
        wrapper._C = before
