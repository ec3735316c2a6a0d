"""Counts MACs and bytes of any call, backward passes included, while PyTorch runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from cagc_kernels import use_backend


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.macs = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        operations = flop_registry.get(func._overloadpacket)
        if operations is None:
            with self:  # inference mode does not decompose composite functions
                out = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if out is NotImplemented else out
        out = func(*args, **kwargs)
        if not _is_filter(args):
            self.macs += operations(*args, **kwargs, out_val=out) // 2
            self.bytes += sum(t.nbytes for t in tree_leaves((args, out)) if isinstance(t, torch.Tensor))
        return out


def _is_filter(args: tuple[Any, ...]) -> bool:
    """Whether a convolution, forward or backward, uses one FIR filter for all channels, as upfirdn2d does."""
    return any(isinstance(t, torch.Tensor) and t.ndim == 4 and t.shape[1] == 1 and t.stride(0) == 0 for t in args[:3])


def counted(call: Callable[[], object]) -> tuple[int, int]:
    """Return (MACs, bytes) of the convolutions and matrix products in ``call``, backward passes included.

    Each operation reads its operands once and writes its results once; other operations count as fused into them. FIR
    filters are not counted, and up-sampling convolutions count at their input's resolution. For a generator's forward
    pass the result is the MACs of :mod:`cagc.metrics.macs` plus those of demodulation.
    """
    with use_backend("reference"), _Counter() as counter:
        call()
    return counter.macs, counter.bytes
