"""Tensor wrappers of the compiled module ``_C``; ``REASON`` says why it is missing, and is None if it is not."""

from __future__ import annotations

from importlib import import_module

# torch is imported first so that the module shares its OpenMP runtime. In the other order, wheels with a renamed
# libgomp load a second runtime, and a kernel took 7 times as long.
import torch

try:
    _C = import_module("._C", __name__)
except ImportError as error:
    _C = None
    REASON: str | None = f"the compiled module is missing ({error}); pip install . builds it"
else:
    REASON = None

# Comma-separated architectures that the CUDA kernels were compiled for, or None.
CUDA_ARCHS: str | None = getattr(_C, "cuda_archs", None)


def launch(op: str, lead: torch.Tensor, arguments: object) -> None:
    """Run the kernel of ``op`` on the device of ``lead``: on its current stream, or on PyTorch's number of threads.

    ``arguments`` is the op's argument struct of the compiled module, such as ``_C.BiasAct``.
    """
    if lead.is_cuda:
        with torch.cuda.device(lead.device):
            getattr(_C, f"{op}_cuda")(arguments, torch.cuda.current_stream().cuda_stream)
    else:
        getattr(_C, f"{op}_cpu")(arguments, torch.get_num_threads())
