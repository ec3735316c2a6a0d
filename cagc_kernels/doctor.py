"""Report which backends work on this machine and how to fix the others: ``python -m cagc_kernels.doctor [--json]``.

Uses only the standard library and guards every probe, so that it runs without PyTorch, the compiled module or a driver.
The exit status is always 0.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version

from .backend import IMPLEMENTS


def _guarded(probe: Callable[[], object]) -> object:
    """Return the probe's result, or None if it raises."""
    try:
        return probe()
    except Exception:
        return None


def _tool(name: str, *arguments: str) -> str | None:
    """Return the last line of a tool's version output, or None if the tool is not installed."""
    path = shutil.which(name)
    if path is None:
        return None
    run = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=20)
    lines = (run.stdout or run.stderr).strip().splitlines()
    return lines[-1] if lines else path


def _gpu() -> str | None:
    torch = import_module("torch")
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} (sm_{major}{minor}), driver for CUDA {torch.version.cuda}"


def _capability() -> str | None:
    torch = import_module("torch")
    return ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else None


def covers(architectures: str, capability: str) -> bool:
    """Whether kernels compiled for CMake's ``architectures`` ("80,90a-real") run on a GPU of ``capability`` ("9.0").

    Machine code runs on GPUs of its major version with the same or a later minor version. PTX (no suffix, or
    "-virtual") also runs on every later GPU. An "a" suffix restricts both to exactly that GPU, an "f" suffix to its
    major version. "all" and "all-major" run everywhere; "native" is unknown here and counts as running.
    """
    major, minor = map(int, capability.split("."))
    for name in architectures.split(","):
        match = re.fullmatch(r"(\d+)(\d)([af]?)(-real|-virtual)?", name.strip())
        if match is None:
            return True
        its_major, its_minor = int(match[1]), int(match[2])
        if match[3] == "a":
            fits = (its_major, its_minor) == (major, minor)
        else:
            fits = its_major == major and its_minor <= minor
            fits |= not match[3] and match[4] != "-real" and (its_major, its_minor) <= (major, minor)
        if fits:
            return True
    return False


def machine() -> dict[str, object]:
    """Return versions and paths of the software that matters, with None for what is missing."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cagc_kernels": import_module("cagc_kernels").__version__,
        "cpus": os.cpu_count(),
        "torch": _guarded(lambda: import_module("torch").__version__),
        "numpy": _guarded(lambda: version("numpy")),
        "triton": _guarded(lambda: version("triton")),
        "nvtx": _guarded(lambda: version("nvtx")),
        "gpu": _guarded(_gpu),
        "capability": _guarded(_capability),
        "driver": ctypes.util.find_library("cuda"),
        "nvcc": _guarded(lambda: _tool("nvcc", "--version")),
        "compiler": _guarded(lambda: (_tool("c++", "--version") or "").splitlines()[0]) and shutil.which("c++"),
        "cmake": _guarded(lambda: shutil.which("cmake")),
        "CAGC_BACKEND": os.environ.get("CAGC_BACKEND"),
    }


def _finding(works: bool, detail: str, missing: str | None = None, fix: str | None = None) -> dict[str, object]:
    return {"works": works, "detail": detail, "missing": missing, "fix": fix}


def _reference(facts: dict[str, object]) -> dict[str, object]:
    if facts["torch"] is None:
        return _finding(False, "plain PyTorch", "PyTorch", "pip install torch")
    return _finding(True, f"plain PyTorch {facts['torch']}, any device")


def _native(facts: dict[str, object]) -> dict[str, object]:
    if facts["torch"] is None:
        return _finding(False, "compiled kernels", "PyTorch", "pip install torch")
    native = _guarded(lambda: import_module("cagc_kernels.native"))
    reason = getattr(native, "REASON", "its wrapper does not import")
    if reason:
        compiler = "" if facts["compiler"] else "install a C++17 compiler with OpenMP, then "
        return _finding(False, "compiled kernels", reason, compiler + "pip install . (in the clone; add -e to edit)")
    if native.CUDA_ARCHS is None:
        toolkit = "" if facts["nvcc"] else "install the CUDA toolkit, then "
        fix = toolkit + "CAGC_CUDA=ON pip install . (in the clone)"
        return _finding(True, "CPU", "CUDA kernels: compiled without nvcc", fix)
    if facts["gpu"] is None:
        torch_cuda = _guarded(lambda: import_module("torch").version.cuda)
        missing = "a CUDA device" if torch_cuda else "PyTorch with CUDA"
        fix = "run on a machine with an NVIDIA GPU and driver" if torch_cuda else "pip install torch (a CUDA build)"
        detail = f"CPU; CUDA kernels for {native.CUDA_ARCHS} are in the module"
        return _finding(True, detail, f"for CUDA: {missing}", fix)
    if facts["capability"] and not covers(native.CUDA_ARCHS, facts["capability"]):
        present = facts["capability"].replace(".", "")
        missing = f"CUDA kernels for sm_{present}: the module has {native.CUDA_ARCHS}"
        fix = f"CAGC_CUDA=ON CAGC_CUDA_ARCHS={present} pip install . (in the clone; needs nvcc)"
        return _finding(True, "CPU", missing, fix)
    return _finding(True, f"CPU and CUDA ({native.CUDA_ARCHS})")


def _triton(facts: dict[str, object]) -> dict[str, object]:
    if facts["torch"] is None:
        return _finding(False, "Triton kernels", "PyTorch", "pip install torch")
    if facts["triton"] is None:
        return _finding(False, "Triton kernels", "triton", "pip install 'cagc[triton]'")
    try:
        import_module("triton")
    except Exception as error:
        missing = f"a triton that imports ({type(error).__name__}: {error})"
        return _finding(False, f"Triton {facts['triton']}", missing, "pip install --force-reinstall 'triton>=3.6'")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return _finding(True, f"Triton {facts['triton']} in its interpreter: on the CPU, slowly")
    if facts["gpu"] is None:
        fix = "run on a machine with an NVIDIA GPU and driver, or set TRITON_INTERPRET=1 to run it slowly on the CPU"
        return _finding(False, f"Triton {facts['triton']}", "a CUDA device that PyTorch sees", fix)
    return _finding(True, f"Triton {facts['triton']} on {facts['gpu']}")


def diagnose() -> dict[str, object]:
    """Return :func:`machine` and, under "backends", what works, what is missing and the command that fixes it."""
    facts = machine()
    probes = {"reference": _reference, "native": _native, "triton": _triton}
    broken = _finding(False, "the probe itself failed", "unknown", "report this with the output of --json")
    found = {name: _guarded(lambda p=p: p(facts)) or broken for name, p in probes.items()}
    return {**facts, "backends": {name: {**finding, "ops": IMPLEMENTS[name]} for name, finding in found.items()}}


def main(arguments: list[str] | None = None) -> int:
    """Print the diagnosis, as JSON with ``--json``; always returns 0."""
    report = diagnose()
    if "--json" in (sys.argv[1:] if arguments is None else arguments):
        print(json.dumps(report, indent=2))
        return 0
    for name, value in report.items():
        if name != "backends":
            print(f"{name:<14} {'-' if value is None else value}")
    for name, found in report["backends"].items():
        print(f"\n{name:<10} {'works' if found['works'] else 'does not work'}: {found['detail']}")
        print(f"{'':<10} ops:     {', '.join(found['ops'])}")
        if found["missing"]:
            print(f"{'':<10} missing: {found['missing']}\n{'':<10} fix:     {found['fix']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
