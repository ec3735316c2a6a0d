"""Counts the instructions of an image under emulation: ``python -m benchmarks.instructions``.

Builds the C library for x86-64 without its levels and for AArch64, by GCC and by Clang, each with the vectors of
csrc/cpu/isa/simd.h and with those of two registers, of which eight are used, that stood there before. Draws with QEMU's
user emulation and writes benchmarks/results/DEVICE/instructions.json. Needs qemu-user, g++-aarch64-linux-gnu and clang.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cagc
from cagc.export import export_flat
from cagc.models import GeneratorConfig

from .generators import random_generator, widths
from .results import RESULTS, ROOT, command, commit, device_folder

SOURCES = (
    "c_api", "flat_file", "flat_student", "cpu/synthesis", "cpu/packing", "cpu/team", "cpu/isa/levels",
    "cpu/synthesis_kernels",
)  # fmt: skip
FLAGS = ("-std=c++17", "-fno-math-errno", "-fno-trapping-math", f"-I{ROOT / 'csrc/include'}")
BEFORE = 8, 8
"""Floats per vector, and vectors, of the blocking that every target without AVX2 had."""


@dataclass(frozen=True)
class Target:
    """A compiler and the emulator of what it compiles for."""

    name: str
    emulator: str
    compiler: tuple[str, ...]
    linker: tuple[str, ...]


TARGETS = (
    Target("x86-64, GCC", "qemu-x86_64", ("g++",), ("g++",)),
    Target("AArch64, GCC", "qemu-aarch64", ("aarch64-linux-gnu-g++",), ("aarch64-linux-gnu-g++",)),
    Target(
        "AArch64, Clang", "qemu-aarch64", ("clang++", "--target=aarch64-linux-gnu"), ("aarch64-linux-gnu-g++",)
    ),
)  # fmt: skip


def build(target: Target, folder: Path, options: Sequence[str] = ("-O3",)) -> Path:
    """Compile the C library with edge_images.c for ``target`` in ``folder``; return the program."""
    objects = []
    version = f'-DCAGC_VERSION="{cagc.__version__}"'
    for source in SOURCES:
        objects.append(str(folder / f"{Path(source).name}.o"))
        source_file = str(ROOT / f"csrc/{source}.cpp")
        _run(*target.compiler, *FLAGS, version, *options, "-c", source_file, "-o", objects[-1])
    main = str(ROOT / "benchmarks/edge_images.c")
    program = folder / "edge_images"
    c = [f"-I{ROOT / 'csrc/include'}", "-x", "c", main, "-x", "none"]
    _run(*target.linker, *c, *objects, "-static", "-o", str(program))
    return program


def draw(emulator: Sequence[str], program: Path, student: Path, images: int) -> tuple[np.ndarray, str]:
    """Return ``images`` images [N, 3, R, R] that ``program`` draws, and what it and the emulator print."""
    out = program.with_suffix(".f32")
    printed = _run(*emulator, str(program), str(student), str(images), str(out))
    pixels = np.fromfile(out, np.float32)
    size = round((pixels.size / 3 / images) ** 0.5)
    return pixels.reshape(images, 3, size, size), printed


def compiler_version(target: Target) -> str:
    """Return the compiler's name and version, such as "GCC 12.2.0"."""
    found = re.search(r"\d+\.\d+\.\d+", _run(target.compiler[0], "--version").splitlines()[0])
    return f"{target.name.rpartition(' ')[2]} {found[0] if found else ''}"


def missing() -> list[str]:
    """Return the programs that are needed and not installed."""
    needed = ["cc", *(t.emulator for t in TARGETS), *(word for t in TARGETS for word in (t.compiler[0], t.linker[0]))]
    return sorted({name for name in needed if shutil.which(name) is None})


def _run(*words: str) -> str:
    run = subprocess.run(words, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{words[0]} failed: {run.stderr[-2000:]}")
    return run.stderr + run.stdout


def _students(folder: Path) -> dict[str, Path]:
    config = GeneratorConfig(256, widths(256, 0.3, 8))
    made = {"faces64-student": cagc.load_generator("faces64-student"), "256 px, 0.3": random_generator(config, "cpu")}
    for i, (name, generator) in enumerate(made.items()):
        export_flat(generator, folder / f"{i}.cagc", storage="float32")
    return {name: folder / f"{i}.cagc" for i, name in enumerate(made)}


def count(target: Target, program: Path, plugin: Path, student: Path) -> dict[str, int]:
    """Return the instructions of one image with its w, and how many of them are products of vectors."""
    counted = []
    for images in (1, 2):
        printed = draw((target.emulator, "-plugin", str(plugin)), program, student, images)[1]
        found = re.search(r"counted (\d+) (\d+)", printed)
        assert found, printed
        counted.append([int(number) for number in found.groups()])
    return {name: after - before for name, before, after in zip(("instructions", "products"), *counted)}


def main(arguments: list[str] | None = None) -> None:
    """Count for every target and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file; default: instructions.json of this machine's results")
    given = parser.parse_args(arguments)
    if absent := missing():
        parser.error(f"needs {', '.join(absent)}")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plugin, students = folder / "count.so", _students(folder)
        _run("cc", "-O2", "-shared", "-fPIC", str(ROOT / "benchmarks/instructions.c"), "-o", str(plugin))
        for target in TARGETS:
            for when in ("before", "after"):
                flags = [f"-DCAGC_WIDE={BEFORE[0]}", f"-DCAGC_REGISTERS={BEFORE[1]}"] if when == "before" else []
                program = build(target, folder, ("-O3", *flags))
                for student, path in students.items():
                    row = {"target": target.name, "compiler": compiler_version(target), "when": when}
                    rows.append(row | {"student": student} | count(target, program, plugin, path))
                    print(rows[-1], flush=True)
    emulator = _run("qemu-aarch64", "--version").splitlines()[0]
    document = {"rows": rows, "emulator": emulator, "commit": commit(), "command": command()}
    out = given.out or RESULTS / device_folder("cpu") / "instructions.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
