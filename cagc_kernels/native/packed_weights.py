"""Weights of the eager ops, packed for :class:`~.planar_conv.PlanarConv` once they are seen to stay as they are.

A weight is packed at the second call with the same unchanged tensor, so that training, which changes it in every step,
does not pay for packing; each pack that a change makes useless doubles the calls before the next one. Every later call
compares a fingerprint of the whole weight with that of the packed values: also a change that PyTorch's version counter
does not see, as through ``weight.data``, is seen. A pack is freed with its tensor.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from . import _C
from .planar_conv import PlanarConv

# Packs take four times the memory of their weights. Where all of them would exceed this, no further one is made.
MOST_BYTES = 1 << 30
# Calls with an unchanged weight up to and including the one that packs it; the most after changes of packed weights.
CALLS, MOST_CALLS = 2, 1024


class Pack(NamedTuple):
    """A packed convolution, the weight's sums of squares per filter [O, I], and the fingerprint of its values."""

    conv: PlanarConv
    energy: torch.Tensor
    fingerprint: int

    @property
    def bytes(self) -> int:
        return self.conv.bytes + self.energy.nbytes


class Info(NamedTuple):
    """The number of packs and their bytes."""

    packs: int
    bytes: int


@dataclass(eq=False)
class _Entry:
    """What is known of a weight: a weak reference, its state at the last call, calls in that state, and its pack."""

    weight: weakref.ref
    state: tuple
    calls: int = 1
    needed: int = CALLS
    pack: Pack | None = None

    def restart(self, state: tuple) -> None:
        """Begin to count calls with a changed weight."""
        if self.pack is not None:
            self.needed = min(2 * self.needed, MOST_CALLS)
        self.state, self.calls, self.pack = state, 1, None


_Key = tuple[int, int, bool]  # id of the weight, up, mirrored
_entries: dict[_Key, _Entry] = {}
# Reentrant, because the garbage collector may free a weight, and so call _forget, wherever memory is allocated.
_lock = threading.RLock()


def find(weight: torch.Tensor, up: int, mirrored: bool) -> Pack | None:
    """Return the pack of ``weight`` [O, I, 3, 3], float32 and contiguous, made now if it is due; None without one.

    ``up`` is that of :class:`~.planar_conv.PlanarConv`, which is given the weight itself or, with ``mirrored``,
    ``weight.flip(2, 3)``.
    """
    if weight.is_inference():  # it has no version counter
        return None
    key, state = (id(weight), up, mirrored), (weight.data_ptr(), weight._version, weight.shape)
    with _lock:
        entry = _entries.get(key)
        if entry is None or entry.weight() is not weight:
            _entries[key] = _Entry(weakref.ref(weight, partial(_forget, key)), state)
            return None
        if entry.state != state:
            entry.restart(state)
            return None
        entry.calls += 1
        if entry.pack is None:
            if entry.calls >= entry.needed and info().bytes + 4 * weight.nbytes <= MOST_BYTES:
                entry.pack = _pack(weight, up, mirrored)
            return entry.pack
        pack = entry.pack
    if _fingerprint(weight) == pack.fingerprint:
        return pack
    with _lock:
        if entry.pack is pack:
            entry.restart(state)
    return None


def info() -> Info:
    """Return how many packs there are, and their bytes."""
    packs = [entry.pack for entry in list(_entries.values()) if entry.pack is not None]
    return Info(len(packs), sum(pack.bytes for pack in packs))


def clear() -> None:
    """Free all packs; weights are packed anew as if they had never been seen."""
    with _lock:
        _entries.clear()


@torch.inference_mode(False)  # autograd may keep the sums in a later call
@torch.no_grad()
def _pack(weight: torch.Tensor, up: int, mirrored: bool) -> Pack:
    # A copy, so that the fingerprint is that of the packed values even if another thread changes the weight meanwhile.
    weight = weight.clone()
    conv = PlanarConv(weight.flip(2, 3) if mirrored else weight, up=up)
    return Pack(conv, weight.square().sum(dim=(2, 3)), _fingerprint(weight))


def _fingerprint(weight: torch.Tensor) -> int:
    return _C.fingerprint(values=weight.data_ptr(), count=weight.numel(), threads=torch.get_num_threads())


def _forget(key: _Key, reference: weakref.ref) -> None:
    entry = _entries.get(key)
    if entry is not None and entry.weight is reference:
        del _entries[key]
