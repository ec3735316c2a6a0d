"""Registers and spills of the CUDA kernels in the compiled module: ``python -m cagc_kernels.resources``.

Reads the module with the cuobjdump of the triton package; exit status 1 if a kernel spills (uses a stack).
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Kernel(NamedTuple):
    """Architecture, name, registers per thread and stack bytes per thread of one compiled kernel."""

    arch: str
    name: str
    registers: int
    stack: int


def cuobjdump() -> Path:
    """Return the path of cuobjdump in the triton package; raises FileNotFoundError if triton is not installed."""
    spec = find_spec("triton")
    path = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump" if spec else None
    if path is None or not path.is_file():
        raise FileNotFoundError("cuobjdump: expected inside the triton package (pip install 'cagc[triton]')")
    return path


def kernels(binary: Path) -> list[Kernel]:
    """Return the resources of every kernel in a module or cubin; raises FileNotFoundError without triton."""
    run = subprocess.run([cuobjdump(), "-res-usage", binary], capture_output=True, text=True)
    found, arch, name = [], "", ""
    for line in run.stdout.splitlines():
        if match := re.search(r"arch = (\S+)", line):
            arch = match[1]
        elif match := re.search(r"Function (\S+):", line):
            name = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+)", line):
            found.append(Kernel(arch, name, int(match[1]), int(match[2])))
    return found


def main() -> int:
    """Print one line per kernel and return the exit status: 1 if a kernel spills or none is found."""
    from . import native

    if native.CUDA_ARCHS is None:
        print(f"no CUDA kernels: {native.REASON or 'compiled without nvcc'}")
        return 0
    found = kernels(Path(native._C.__file__))
    for k in found:
        print(f"{k.arch:<8} {k.registers:>4} registers {k.stack:>4} B stack  {k.name}")
    spilled = sum(k.stack > 0 for k in found)
    print(f"{len(found)} CUDA kernels for {native.CUDA_ARCHS}, at most {max(k.registers for k in found)} registers, "
          f"{spilled} with spills")  # fmt: skip
    return 1 if spilled or not found else 0


if __name__ == "__main__":
    sys.exit(main())
