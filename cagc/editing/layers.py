"""Validates the layers, by index of their w, that an edit applies to."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.errors import CagcError


def check_layers(layers: Sequence[int] | None, num_ws: int) -> list[int]:
    """Layer indices, ascending; None: all of them.

    Raises:
        CagcError: an index is not in 0 … num_ws - 1, or there is none.
    """
    if layers is None:
        return list(range(num_ws))
    chosen = sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= num_ws:
        raise CagcError(f"layers: got {list(layers)}, expected some of 0 to {num_ws - 1}")
    return chosen
