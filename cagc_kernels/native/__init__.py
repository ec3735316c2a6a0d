"""Tensor wrappers over the compiled module, or the reason why it is missing."""

from __future__ import annotations

from importlib import import_module

# Before the module: both then share PyTorch's OpenMP runtime. The other order cost 7 times the time of a kernel
# with wheels whose libgomp is renamed.
import torch  # noqa: F401

try:
    _C = import_module("._C", __name__)
except ImportError as error:
    _C = None
    REASON: str | None = f"the compiled module is missing ({error}); pip install . builds it"
else:
    REASON = None

# Comma-separated architectures that the CUDA kernels were compiled for, or None.
CUDA_ARCHS: str | None = getattr(_C, "cuda_archs", None)
