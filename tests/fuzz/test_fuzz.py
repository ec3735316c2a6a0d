"""Damaged and hostile files: every reader gives a result or refuses in one line, within limits on time and memory.

``CAGC_FUZZ=300`` tries so many mutations of every format, a plain run a few; ``CAGC_FUZZ_KEEP=DIR`` keeps the files
that found a fault.
"""

from __future__ import annotations

import ast
import os
import shutil
import warnings
from pathlib import Path
from random import Random

import pytest

import cagc
from cagc_edge.library import library

from .readers import EXEMPT, READERS
from .sandbox import fault

MUTATIONS = int(os.environ.get("CAGC_FUZZ", 2))
ROOT = Path(cagc.__file__).parent
_READING = {
    "open_document", "load_plain", "read_document", "read_tensors", "read_json", "parse_json", "open_zip", "safe_open",
    "load_file", "InertUnpickler", "ZipFile", "read_text", "read_bytes", "loads",
}  # fmt: skip
_READING_IN_FULL = {"np.load", "torch.load", "json.load", "tarfile.open", "Image.open", "pickle.load"}


@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name, tmp_path):
    reader = READERS[name]
    if name == "flat":
        try:
            library()
        except OSError as error:
            pytest.skip(f"no C library: {error}")
    sound = reader.sound()
    path = tmp_path / f"file{reader.suffix}"
    path.write_bytes(sound)
    if name != "bisenet":  # a whole one has 50 MB
        reader.read(path)  # in this process, whose children then need not load PyTorch's meta device each
    faults = []
    for seed in range(MUTATIONS):
        rng = Random(f"{name} {seed}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path.write_bytes(rng.choice(reader.damage)(sound, rng))
        if (wrong := fault(reader.read, path)) is not None:
            if folder := os.environ.get("CAGC_FUZZ_KEEP"):
                shutil.copy(path, Path(folder, f"{name}-{seed}{reader.suffix}"))
            faults.append(f"seed {seed}: {wrong}")
    assert not faults, "\n".join(faults[:5]) + f"\n{len(faults)} of {MUTATIONS}"


def _functions_that_read() -> set[str]:
    """Every function of the package that takes bytes or text from a file, as "file:function"."""
    found = set()

    def visit(node: ast.AST, file: str, names: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            inner = (*names, child.name) if isinstance(child, (ast.FunctionDef, ast.ClassDef)) else names
            if isinstance(child, ast.Call):
                called = ast.unparse(child.func)
                if called.rpartition(".")[2] in _READING or called in _READING_IN_FULL:
                    found.add(f"{file}:{'.'.join(names)}")
            visit(child, file, inner)

    for path in ROOT.rglob("*.py"):
        visit(ast.parse(path.read_text()), path.name, ())
    return found


def test_every_reader_is_in_the_registry():
    covered = {function for reader in READERS.values() for function in reader.covers} | set(EXEMPT)
    assert _functions_that_read() <= covered
