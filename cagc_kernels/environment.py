"""What measurements and verdicts depend on besides the code that runs, and the folder in which they are kept."""

from __future__ import annotations

import os
import tempfile
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def versions() -> dict[str, str | None]:
    """Return the versions of torch, triton and cagc; None for a package that is not installed."""
    cagc = import_module("cagc_kernels").__version__
    return {"torch": torch.__version__, "triton": _version("triton"), "cagc": cagc}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cuda_driver() -> str | None:
    """Return the version of CUDA that the driver supports, as PyTorch's integer; None where there is no CUDA device."""
    return str(torch._C._cuda_getDriverVersion()) if torch.cuda.is_available() else None


def cache_folder() -> Path:
    """Return the cache folder: ``CAGC_CACHE_DIR``, else ``cagc`` in ``XDG_CACHE_HOME`` or in ``~/.cache``.

    A user without a home folder gets one in the system's temporary folder, named by the user's number.
    """
    if folder := os.environ.get("CAGC_CACHE_DIR"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "cagc"
    try:
        return Path.home() / ".cache" / "cagc"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"cagc-{os.getuid()}"
