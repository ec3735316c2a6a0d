"""Drives CMake from setuptools; what is compiled is said in CMakeLists.txt.

Read from the environment: CAGC_CUDA (AUTO, ON, OFF), CAGC_CUDA_ARCHS, CAGC_BUILD_DIR, CMAKE_ARGS.
Without a working compiler the package installs all the same, and `python -m cagc_kernels.doctor` says what is
missing; CAGC_CUDA=ON makes that an error.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        try:
            self.run_cmake(ext)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(f"the kernels did not compile: {error}") from error

    def run_cmake(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        prefix = target.parents[len(ext.name.split(".")) - 1]
        # One tree per interpreter, kept between runs: rebuilds are incremental.
        tree = Path(os.environ.get("CAGC_BUILD_DIR", ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"))
        tree.mkdir(parents=True, exist_ok=True)
        options = [f"-D{name}={os.environ[name]}" for name in ("CAGC_CUDA", "CAGC_CUDA_ARCHS") if name in os.environ]
        cmake = shutil.which("cmake") or "cmake"
        # What moves from one isolated build environment to the next is passed every time: a cached path never wins.
        configure = [
            cmake, "-S", str(ROOT), "-B", str(tree), "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *options,
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        subprocess.check_call(configure)
        subprocess.check_call([cmake, "--build", str(tree), *([f"-j{self.parallel}"] if self.parallel else [])])
        subprocess.check_call([cmake, "--install", str(tree), "--prefix", str(prefix)])

    def copy_extensions_to_source(self) -> None:
        """Copy the C library of cagc_edge beside its module too, for an editable installation."""
        super().copy_extensions_to_source()
        for library in (Path(self.build_lib) / "cagc_edge").glob("*cagc.*"):
            shutil.copy2(library, ROOT / "cagc_edge")


module = Extension("cagc_kernels.native._C", sources=[], optional=os.environ.get("CAGC_CUDA") != "ON")
has_kernels = (ROOT / "CMakeLists.txt").is_file()  # the distribution cagc apart from cagc-kernels compiles nothing
setup(ext_modules=[module] if has_kernels else [], cmdclass={"build_ext": CMakeBuild})
