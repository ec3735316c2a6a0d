"""Tensor wrappers of the compiled module ``_C``; ``REASON`` says why it is missing, and is None if it is not."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

# torch is imported first so that the module shares its OpenMP runtime. In the other order, wheels with a renamed
# libgomp load a second runtime, and a kernel took 7 times as long.
import torch

from ..arguments import accumulator, cast

try:
    _C = import_module("._C", __name__)
except ImportError as error:
    _C = None
    REASON: str | None = f"the compiled module is missing ({error}); pip install . builds it"
else:
    REASON = None

# The ops' functions on the CPU; they are looked up once, because a call of a small op takes a few microseconds.
_ON_CPU = {name.removesuffix("_cpu"): getattr(_C, name) for name in dir(_C) if name.endswith("_cpu")}

# Comma-separated architectures that the CUDA kernels were compiled for, or None.
CUDA_ARCHS: str | None = getattr(_C, "cuda_archs", None)


def direct(op: str) -> Callable[..., torch.Tensor | None] | None:
    """Return the compiled module's function for ``op`` on usual tensors of the CPU, which returns None for all others.

    It takes its arguments by name, among them ``allocate``, a function of :mod:`cagc_kernels.layout`, and ``threads``.
    """
    return None if _C is None else getattr(_C, f"{op}_of_tensors")


def wide_operand(t: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """Return ``t`` contiguous and in the dtype in which a kernel sums values of ``x``; None stays None."""
    return None if t is None else cast(t, accumulator(x.dtype)).contiguous()


def launch(op: str, lead: torch.Tensor, arguments: object) -> None:
    """Run the kernel of ``op`` on the device of ``lead``: on its current stream, or on PyTorch's number of threads.

    ``arguments`` is the op's argument struct of the compiled module, such as ``_C.BiasAct``.
    """
    if lead.is_cuda:
        with torch.cuda.device(lead.device):
            getattr(_C, f"{op}_cuda")(arguments, torch.cuda.current_stream().cuda_stream)
    else:
        _ON_CPU[op](arguments, torch.get_num_threads())
