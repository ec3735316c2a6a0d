"""Singular value scaling of a pruned generator before it is trained again (Kim, Kim & Yang, AAAI 2025).

Pruned weights have few dominant singular values, and fine-tuning hardly changes that. Taking the square root of each
evens them out and keeps the singular vectors.
"""

from __future__ import annotations

import copy

import torch

from ..common.errors import CagcError
from ..models import AnyGenerator


@torch.no_grad()
def singular_value_scaling(generator: AnyGenerator) -> AnyGenerator:
    """A copy of ``generator`` with every weight and bias of its synthesis network rescaled.

    A weight [out, ...] (convolutions, affine layers and toRGB) is taken as the matrix [out, -1] = U·diag(σ)·Vᵀ and
    becomes U·diag(√σ)·Vᵀ; a bias b becomes b / √(‖b‖ + 1e-8). Both act on the stored values, before their run-time
    scale, as in the published code. The mapping network, ``w_avg``, the constant input and noise strengths stay. The
    images change: the result is a starting point for training, not a usable generator.

    Decompositions are computed in float64; the result has the generator's device, dtype and mode.

    Raises:
        CagcError: ``generator`` is not style-based.
    """
    if all(spec.w is None for spec in generator.config.layers()):
        raise CagcError(f"rescale 'svs': got a {type(generator).__name__}, expected a style-based generator")
    scaled = copy.deepcopy(generator)
    for module in scaled.synthesis.modules():
        own = dict(module.named_parameters(recurse=False))
        if "weight" in own:
            own["weight"].copy_(root_of_singular_values(own["weight"]))
        if "bias" in own:
            own["bias"].mul_((own["bias"].norm() + 1e-8).rsqrt())
    return scaled


def root_of_singular_values(weight: torch.Tensor) -> torch.Tensor:
    """``weight`` [out, ...] with each singular value of the matrix [out, -1] replaced by its square root."""
    u, s, vt = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    return ((u * s.sqrt()) @ vt).reshape(weight.shape).to(weight.dtype)
