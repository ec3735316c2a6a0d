"""The headers of csrc stand alone, without Python or PyTorch; the CPU kernels compile for the baseline alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
COMPILER = shutil.which("g++") or shutil.which("c++")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


def compiles(*arguments: str) -> None:
    command = [COMPILER, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    command += [f"-I{CSRC / 'include'}", *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("header", sorted((CSRC / "include" / "cagc").glob("*.h")), ids=lambda p: p.name)
def test_header_stands_alone(header):
    compiles("-x", "c++", "-include", str(header), "/dev/null")


@pytest.mark.parametrize("source", sorted((CSRC / "cpu").rglob("*.cpp")), ids=lambda p: p.name)
def test_cpu_kernels_of_the_baseline(source):
    compiles("-fopenmp", str(source))
