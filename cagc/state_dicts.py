"""Reading networks from the state dicts of other code bases: names on their side, shapes on ours."""

from __future__ import annotations

import re

import torch

from .errors import CagcError

State = dict[str, torch.Tensor]


def count(state: State, pattern: str) -> int:
    """One more than the largest number that ``pattern`` captures in a key; 0 where none matches."""
    found = {int(match[1]) for key in state if (match := re.fullmatch(pattern, key))}
    return max(found) + 1 if found else 0


def need(state: State, key: str, source: str, layout: str) -> torch.Tensor:
    """The tensor ``key``, or a CagcError that names it, its ``source`` and the ``layout`` that has it."""
    if key not in state:
        raise CagcError(f"{source}: tensor {key!r} is missing; expected {layout}")
    return state[key]


def filter_taps(state: State, pattern: str) -> tuple[float, ...]:
    """Normalised 1-D taps of the first stored blur kernel; the published [1, 3, 3, 1] where none is stored."""
    kernel = next((t.double() for key, t in sorted(state.items()) if re.fullmatch(pattern, key)), None)
    if kernel is None:
        return (1.0, 3.0, 3.0, 1.0)
    taps = kernel.sum(dim=0) / kernel.sum()
    published = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
    if taps.shape == published.shape and torch.allclose(taps, published, atol=1e-6):
        return (1.0, 3.0, 3.0, 1.0)
    return tuple(taps.tolist())


def load(
    network: torch.nn.Module, state: State, names: dict[str, str], source: str, layout: str, optional: str = ""
) -> None:
    """Fill ``network`` from ``state``; ``names`` maps our names to theirs, axes of length one are free.

    Raises:
        CagcError: names the tensor that is missing, but for those of ours with ``optional`` in their names, or that has
            another shape.
    """
    target = network.state_dict()
    loaded = {}
    for ours, theirs in names.items():
        if optional and optional in ours and theirs not in state:
            continue
        tensor = need(state, theirs, source, layout)
        if tensor.numel() != target[ours].numel() or [n for n in tensor.shape if n != 1] != [
            n for n in target[ours].shape if n != 1
        ]:
            raise CagcError(f"{source}: {theirs} has shape {list(tensor.shape)}, expected {list(target[ours].shape)}")
        loaded[ours] = tensor.reshape(target[ours].shape).float()
    network.load_state_dict({**target, **loaded})
