"""Compile every Triton kernel for given GPUs, without one: ``python -m cagc_kernels.triton.compile [80 90 ...]``.

Prints registers and spills of each kernel; exit status 1 if one does not compile or spills. The interpreter
(``TRITON_INTERPRET=1``) accepts what the compiler rejects, so the tests alone do not show that a kernel compiles.
"""

from __future__ import annotations

import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ..resources import kernels

# Modules whose ``variants()`` list the kernels to compile. The convolutions share one list, of tiles per architecture.
CONVOLUTIONS = "gemm.variants"
MODULES = ("bias_act", "upfirdn2d", "filtered_lrelu", CONVOLUTIONS)

WARP = 32
ALIGNED = [["tt.divisibility", 16]]


def source(kernel, types: dict[str, str], constants: dict[str, object]) -> ASTSource:
    """Return the source that the JIT would compile for aligned pointers and sizes that are multiples of 16."""
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    constants = {name: constants[name] for name in kernel.arg_names if name in constants}
    attributes = {(i,): ALIGNED for i, name in enumerate(kernel.arg_names) if types.get(name, "").startswith("*")}
    attributes |= {(i,): ALIGNED for i, name in enumerate(kernel.arg_names) if name in ("numel", "columns")}
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)


def usage(cubin: bytes) -> tuple[int, int]:
    """Return (registers, stack bytes) per thread of the one kernel in ``cubin``; a stack means register spills."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        (kernel,) = kernels(Path(file.name))
    return kernel.registers, kernel.stack


def compile_one(job: tuple[int, str, int]) -> tuple[str, int | str, int | None]:
    """Compile one variant for one architecture and return (label, registers, stack), or (label, error, None)."""
    arch, stem, index = job
    kernel, label, types, constants = variants(stem, arch)[index]
    label = f"sm_{arch} {label}"
    try:
        options = {name: value for name, value in constants.items() if name not in kernel.arg_names}
        target = GPUTarget("cuda", arch, WARP)
        compiled = triton.compile(source(kernel, types, constants), target=target, options=options)
        return label, *usage(compiled.asm["cubin"])
    except Exception as error:  # the compiler raises many types, and each is a failure to report
        return label, f"{type(error).__name__}: {error}", None


def variants(stem: str, arch: int) -> list[tuple]:
    """Return a module's variants to compile; the tiles of convolutions depend on the architecture."""
    module = import_module(f"cagc_kernels.triton.{stem}")
    return list(module.variants(arch) if stem == CONVOLUTIONS else module.variants())


def main(arguments: list[str]) -> int:
    archs = [int(a) for a in arguments] or [80, 90]
    jobs = [(arch, stem, i) for arch in archs for stem in MODULES for i in range(len(variants(stem, arch)))]
    failed = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for label, first, stack in pool.map(compile_one, jobs, chunksize=2):
            failed += stack != 0
            result = f"FAILED {first}" if stack is None else f"{first:>4} registers {stack:>4} B stack"
            print(f"{label:<64} {result}")
    names = ", ".join(f"sm_{a}" for a in archs)
    print(f"{len(jobs) - failed} of {len(jobs)} Triton kernels compile for {names} without spills")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
