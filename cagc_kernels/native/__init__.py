"""Tensor wrappers over the compiled module, or the reason why it is missing."""

from __future__ import annotations

from importlib import import_module

# Before the module: both then share PyTorch's OpenMP runtime. The other order cost 7 times the time of a kernel
# with wheels whose libgomp is renamed.
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
    """Run the kernel of ``op`` where ``lead`` is: on the current stream, or on as many threads as PyTorch takes.

    ``arguments`` is the struct of the compiled module that the op takes, such as ``_C.BiasAct``.
    """
    if lead.is_cuda:
        with torch.cuda.device(lead.device):
            getattr(_C, f"{op}_cuda")(arguments, torch.cuda.current_stream().cuda_stream)
    else:
        getattr(_C, f"{op}_cpu")(arguments, torch.get_num_threads())
