"""From values per input channel of a convolution to scores per channel group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..channels import ChannelGroup

CONSUMERS = ("main", "all")


def consumer_names(groups: Sequence[ChannelGroup], consumers: str) -> list[str]:
    """Modules whose input channels are scored: the first consumer of each group ("main") or each consumer ("all")."""
    chosen = [group.consumers[:1] if consumers == "main" else group.consumers for group in groups]
    return [name for names in chosen for name in names]


def combine_consumers(
    groups: Sequence[ChannelGroup], values: Mapping[str, torch.Tensor], consumers: str
) -> dict[str, torch.Tensor]:
    """Scores by group from ``values`` [in] by module.

    "main": the next convolution alone counts, and for the last group the last toRGB, as in the paper's code. "all": the
    values of the next convolution and of the toRGB that read the same channels are added.
    """
    count = 1 if consumers == "main" else None
    return {group.name: torch.stack([values[name] for name in group.consumers[:count]]).sum(dim=0) for group in groups}
