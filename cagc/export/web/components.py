"""A generator whose w is its principal components: small, because it needs no mapping network and narrow affine layers.

With w = w_avg + c B, where the rows of B [K, w_dim] are principal directions of w times their standard deviations, an
affine layer A w + a is (A Bᵀ) c + (a + A w_avg): the images of all w of that form stay the same, and c is close to
standard normal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cagc_kernels.synthesis import GeneratorWeights

from ...editing.directions import Directions
from ...models import AnyGenerator


class ComponentGenerator:
    """What a flat file takes from ``generator``, with ``components`` (K directions of w) as its w; no mapping network.

    Attributes:
        z_dim, w_dim: K.
        w_avg: zeros [K].
    """

    def __init__(self, generator: AnyGenerator, components: Directions) -> None:
        self._generator, self._components = generator, components
        self.z_dim = self.w_dim = len(components)
        self.w_avg = torch.zeros(self.w_dim)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def frozen_weights(self, mapping: bool = False) -> GeneratorWeights | None:
        """Weights of the generator with affine layers from components, and no mapping network; None if it has none."""
        weights = self._generator.frozen_weights()
        if weights is None:
            return None
        basis = self._basis()
        centre = self._generator.w_avg.double().cpu()

        def narrow(layer: Any) -> Any:
            affine, bias = layer.affine @ basis.T, layer.affine_bias + layer.affine @ centre
            return replace(layer, affine=affine, affine_bias=bias)

        convs = [
            replace(narrow(conv), to_rgb=None if conv.to_rgb is None else narrow(conv.to_rgb)) for conv in weights.convs
        ]
        return replace(weights, convs=convs, mapping=[], style_dim=self.w_dim)

    def directions(self, directions: Directions) -> Directions:
        """``directions`` of w as directions of the components; what lies outside their span is lost."""
        # The rows of the basis are orthogonal, so that its pseudo-inverse is its transpose over their squared lengths.
        basis = self._basis()
        steps = directions.vectors.double() * directions.spread.double()[:, None]
        moved = steps @ (basis / basis.square().sum(1, keepdim=True)).T
        spread = moved.norm(dim=1)
        unit = moved / spread.clamp_min(1e-12)[:, None]
        return replace(directions, vectors=unit.float(), spread=spread.float())

    def _basis(self) -> Tensor:
        return self._components.vectors.double() * self._components.spread.double()[:, None]
