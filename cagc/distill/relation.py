"""Moves of w that a student should answer as its teacher does (Xu et al., "Mind the Gap in Distilling StyleGANs")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import CagcError
from ..models import Generator
from .draws import SampleStreams


def relation_layers(generator: Generator, resolutions: Sequence[int]) -> list[str]:
    """Layers whose features are compared: the last convolution at each of ``resolutions`` that ``generator`` has.

    Raises:
        CagcError: it has none of them.
    """
    names = [f"b{r}.conv1" for r in resolutions if r <= generator.config.resolution]
    if not names:
        raise CagcError(
            f"relation_resolutions: got {list(resolutions)}, expected some up to {generator.config.resolution}"
        )
    return names


@torch.no_grad()
def latent_directions(generator: Generator, resolutions: Sequence[int], count: int = 5) -> Tensor:
    """Directions of w [D, w_dim], of length 1, that move the styles most.

    With A the rows of both styles' weights at a resolution, each scaled to length 1, these are the ``count`` leading
    eigenvectors of AᵀA, for every resolution from 8 up to the largest of ``resolutions`` that ``generator`` has.
    """
    directions = []
    for resolution in generator.synthesis.resolutions[1:]:
        if resolution > max(resolutions):
            break
        block = getattr(generator.synthesis, f"b{resolution}")
        rows = torch.cat([block.conv0.affine.weight, block.conv1.affine.weight]).double()
        rows = torch.nn.functional.normalize(rows, dim=1)
        _, vectors = torch.linalg.eigh(rows.t() @ rows)
        directions.append(vectors.flip(1)[:, :count].t())
    return torch.cat(directions).to(generator.w_avg)


def draw_offsets(directions: Tensor, strength: float, streams: SampleStreams) -> Tensor:
    """Offsets of w [N, w_dim]: a direction of ``directions`` [D, w_dim] each, times strength · N(0, 1)."""
    chosen = torch.tensor(streams.integers("direction", len(directions)), device=directions.device)
    return directions[chosen] * (strength * streams.normal("length", 1)).to(directions)
