"""Calls like one before: checks and choices are not made again for plain CPU tensors of the same shapes and strides.

Where a kernel has just streamed through the caches, the Python between two ops has to be fetched from memory, and costs
a layer of a megabyte more than its kernel does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._C import _is_any_autocast_enabled

from .. import backend
from .dispatch import is_plain

_MOST = 1024

Launch = Callable[[torch.Tensor, "torch.Tensor | None"], torch.Tensor]


def elements(option: object) -> object:
    """What stands for a list or tuple in a key: 1 and True are equal there, and not the same option."""
    return (*option, *map(type, option)) if isinstance(option, (list, tuple)) else option


class Recall:
    """Launches of one op by the facts that they hold for."""

    def __init__(self) -> None:
        self._launches: dict[tuple, Launch] = {}

    def key(self, x: torch.Tensor, second: torch.Tensor | None, *options: object) -> tuple | None:
        """All that the op looks at in ``x``, the tensor beside it and the options; None if there is more to look at."""
        if _is_any_autocast_enabled() or not is_plain((x,) if second is None else (x, second)):
            return None
        if not x.is_cpu or x.layout is not torch.strided or x.is_nested:
            return None
        graph = torch.is_grad_enabled()
        beside = None
        if second is not None:
            if not second.is_cpu or second.layout is not torch.strided or second.is_nested:
                return None
            if graph and second.requires_grad:
                return None
            beside = second.shape, second.stride(), second.dtype
        if graph and x.requires_grad:
            return None
        return x.shape, x.stride(), x.dtype, beside, options, tuple(map(type, options)), backend.preferred()

    def find(self, key: tuple | None) -> Launch | None:
        """The launch remembered under ``key``."""
        try:
            return self._launches.get(key)
        except TypeError:  # an option that cannot be hashed, and that the checks will refuse
            return None

    def remember(self, key: tuple, launch: Launch | None) -> None:
        """Keep ``launch``, if there is one, for calls of this key."""
        if launch is None:
            return
        if len(self._launches) >= _MOST:
            self._launches.clear()
        self._launches[key] = launch
