"""Calls like one before: checks and choices are not made again for plain CPU tensors of the same shapes and strides.

Where a kernel has just streamed through the caches, the Python between two ops has to be fetched from memory, and costs
a layer of a megabyte more than its kernel does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch._C import _is_any_autocast_enabled

from .. import backend
from .dispatch import is_plain

_MOST = 1024

# Takes the tensors of the key, in their order.
Launch = Callable[..., torch.Tensor]


def elements(option: object) -> object:
    """What stands for a list or tuple in a key: 1 and True are equal there, and not the same option."""
    return (*option, *map(type, option)) if isinstance(option, (list, tuple)) else option


class Recall:
    """Launches of one op by the facts that they hold for."""

    def __init__(self) -> None:
        self._launches: dict[tuple, Launch] = {}

    def key(self, tensors: Sequence[torch.Tensor | None], *options: object) -> tuple | None:
        """All that the op looks at in the tensors and the options; None if there is more to look at."""
        if _is_any_autocast_enabled() or not is_plain(t for t in tensors if t is not None):
            return None
        graph, facts = torch.is_grad_enabled(), []
        for t in tensors:
            if t is None:
                facts.append(None)
                continue
            if not t.is_cpu or t.layout is not torch.strided or t.is_nested or (graph and t.requires_grad):
                return None
            facts += t.shape, t.stride(), t.dtype
        return *facts, options, tuple(map(type, options)), backend.preferred()

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
