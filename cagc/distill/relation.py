"""Layers and moves of w for the relation loss (Xu et al., "Mind the Gap in Distilling StyleGANs", ECCV 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..common.errors import CagcError
from ..models import AnyGenerator, LayerSpec
from .draws import SampleStreams


def relation_layers(generator: AnyGenerator, resolutions: Sequence[int]) -> list[str]:
    """Layers whose features are compared: the last convolution at each of ``resolutions`` that ``generator`` has.

    Its output is at least as high as the resolution, and lower than the next power of two: the layers of StyleGAN3 have
    margins.

    Raises:
        CagcError: ``generator`` has none of the resolutions.
    """
    found = _convolutions(generator)
    heights = [[height for height in found if r <= height < 2 * r] for r in resolutions]
    names = [found[fitting[-1]][-1].name for fitting in heights if fitting]
    if not names:
        raise CagcError(f"relation_resolutions: got {list(resolutions)}, expected some up to {max(found)}")
    return names


def _convolutions(generator: AnyGenerator) -> dict[int, list[LayerSpec]]:
    """Convolutions of the main path by their output height, in order."""
    found: dict[int, list[LayerSpec]] = {}
    for spec in generator.config.layers():
        if spec.leads_on:
            found.setdefault(spec.size[0], []).append(spec)
    return found


@torch.no_grad()
def latent_directions(generator: AnyGenerator, resolutions: Sequence[int], count: int = 5) -> Tensor:
    """Unit directions of w [D, w_dim] along which the styles change most.

    Let A be the weights of both affine layers at a resolution, with rows scaled to length 1. The directions are the
    ``count`` leading eigenvectors of AᵀA, for every height of convolutions from 8 to those of the largest of
    ``resolutions``.

    Raises:
        CagcError: the layers of ``generator`` are not modulated.
    """
    if all(spec.w is None for spec in generator.config.layers()):
        raise CagcError(f"relation_weight: got a {generator.config.architecture} teacher, expected 0: it has no styles")
    directions = []
    for height, specs in _convolutions(generator).items():
        if not 8 <= height < 2 * max(resolutions):
            continue
        rows = torch.cat([generator.get_submodule(spec.module).affine.weight for spec in specs]).double()
        rows = torch.nn.functional.normalize(rows, dim=1)
        _, vectors = torch.linalg.eigh(rows.t() @ rows)
        directions.append(vectors.flip(1)[:, :count].t())
    return torch.cat(directions).to(generator.w_avg)


def draw_offsets(directions: Tensor, strength: float, streams: SampleStreams) -> Tensor:
    """Offsets of w [N, w_dim]: for each sample a random row of ``directions`` [D, w_dim] times strength · N(0, 1)."""
    chosen = torch.tensor(streams.integers("direction", len(directions)), device=directions.device)
    return directions[chosen] * (strength * streams.normal("length", 1)).to(directions)
