"""Tensor wrappers over the compiled module, or the reason why it is missing."""

from __future__ import annotations

# Before the module: both then share PyTorch's OpenMP runtime. The other order costs a second thread pool.
import torch  # noqa: F401

try:
    from . import _C
except ImportError as error:
    _C = None
    REASON: str | None = f"the compiled module is missing ({error}); pip install . builds it"
else:
    REASON = None

# Comma-separated architectures the CUDA kernels were compiled for, or None.
CUDA_ARCHS: str | None = getattr(_C, "cuda_archs", None)
