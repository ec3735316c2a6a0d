"""The examples of docs/edge.md: a C program against the installed library, and a Python one without PyTorch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cagc
from cagc.export import export_flat

ROOT = Path(__file__).resolve().parents[2]


def command(*words: object, **options) -> str:
    run = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("student") / "student.cagc"
    export_flat(cagc.load_generator("faces64-student"), path)
    return path


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Headers, libraries and their descriptions, as `cmake --install --component c` gives them."""
    trees = [Path(os.environ["CAGC_BUILD_DIR"])] if "CAGC_BUILD_DIR" in os.environ else ROOT.glob("build/*")
    built = [tree for tree in trees if (tree / "libcagc.a").is_file()]
    missing = [tool for tool in ("cmake", "cc", "pkg-config") if shutil.which(tool) is None]
    if missing or not built:
        pytest.skip(f"no {', '.join(missing)}" if missing else "no build tree with the C library")
    prefix = tmp_path_factory.mktemp("installed")
    command("cmake", "--install", built[0], "--component", "c", "--prefix", prefix)
    return prefix


def test_python_example_without_pytorch(student, tmp_path):
    code = (
        "import runpy, sys\n"
        "for name in ('torch', 'cagc', 'cagc_kernels'): sys.modules[name] = None\n"
        "runpy.run_path(sys.argv[1])"
    )
    script = code.replace("sys.argv[1]", repr(str(ROOT / "examples/draw.py")))
    command(sys.executable, "-c", script, student, 7, tmp_path / "a.ppm", cwd=ROOT)
    assert (tmp_path / "a.ppm").read_bytes().startswith(b"P6 64 64 255\n")


def test_c_example_by_pkg_config(student, installed, tmp_path):
    """It draws the image of the Python example, with the shared and with the static library."""
    folder = next(installed.rglob("cagc.pc")).parent
    flags = command("pkg-config", "--cflags", "--libs", "cagc", env=os.environ | {"PKG_CONFIG_PATH": str(folder)})
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", ROOT / "examples/draw.c", "-o", tmp_path / "draw"]
    archive = folder.parent / "libcagc.a"
    shared = [*flags.split(), f"-Wl,-rpath,{folder.parent}"]
    static = [f"-I{installed / 'include'}", archive, "-lstdc++", "-lm", "-lpthread"]
    command(sys.executable, "examples/draw.py", student, 7, tmp_path / "python.ppm", cwd=ROOT)
    for i, link in enumerate((shared, static)):
        command("cc", *strict, *link)
        command(tmp_path / "draw", student, 7, tmp_path / f"{i}.ppm")
        assert (tmp_path / f"{i}.ppm").read_bytes() == (tmp_path / "python.ppm").read_bytes()
    damaged = tmp_path / "damaged.cagc"
    damaged.write_bytes(student.read_bytes()[:-1])
    run = subprocess.run([tmp_path / "draw", damaged, "7", tmp_path / "x.ppm"], capture_output=True, text=True)
    assert run.returncode == 1 and "truncated" in run.stderr and not (tmp_path / "x.ppm").exists()


def test_a_cmake_project_finds_the_library(installed, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\n"
        "project(draw LANGUAGES C CXX)\n"
        "find_package(cagc 0.1 REQUIRED)\n"
        f"add_executable(draw {(ROOT / 'examples/draw.c').as_posix()})\n"
        "target_link_libraries(draw PRIVATE cagc::static)\n"
    )
    command("cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}")
    command("cmake", "--build", tmp_path / "build")
    run = subprocess.run([tmp_path / "build/draw"], capture_output=True, text=True)
    assert run.returncode == 2 and "usage" in run.stderr
