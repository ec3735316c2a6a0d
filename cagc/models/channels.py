"""Channel groups: which tensor axes are kept or removed together.

A model declares its groups by name (``Generator.channel_groups``); scoring, planning and slicing use only these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ChannelAxis:
    """Dimension ``dim`` of the state-dict entry ``tensor``."""

    tensor: str
    dim: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are kept or removed together.

    Attributes:
        name: name of the layer that produces the channels, as in the model's ``config.channels``.
        width: number of channels.
        producer: prefix of the parameters that produce the channels.
        consumers: prefixes of the convolutions that read the channels; the first one is the main path.
        axes: every tensor axis that runs over the channels.
    """

    name: str
    width: int
    producer: str
    consumers: tuple[str, ...]
    axes: tuple[ChannelAxis, ...]


def slice_state(
    state: Mapping[str, torch.Tensor], groups: Iterable[ChannelGroup], kept: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """``state`` with only the channels ``kept[group.name]`` (1-D int64) of each group; untouched entries are shared."""
    sliced = dict(state)
    for group in groups:
        for axis in group.axes:
            tensor = sliced[axis.tensor]
            sliced[axis.tensor] = tensor.index_select(axis.dim, kept[group.name].to(tensor.device))
    return sliced
