"""Regularisers of GAN training that differentiate a gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def r1_penalty(real_logits: Tensor, real_images: Tensor) -> Tensor:
    """R1 gradient penalty, scalar: mean over images of ‖∂D/∂x‖² (Mescheder et al., ICML 2018), without the factor γ/2.

    ``real_logits`` [N, 1] are the discriminator's for ``real_images`` [N, 3, R, R], which must require a gradient.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def path_length_penalty(
    image: Tensor, ws: Tensor, mean: Tensor | float, decay: float, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Path length regularisation (Karras et al., CVPR 2020, eq. 4) with the lazily tracked mean of the public code.

    Args:
        image: [N, 3, R, R] drawn from ``ws``.
        ws: [N, num_ws, style_dim], part of the graph of ``image``.
        mean: running mean of the path length before this batch.
        decay: weight of this batch in the running mean.
        noise: standard normal, shaped as ``image``.

    Returns:
        penalty (scalar): mean of (length - mean)². The gradient passes through the updated mean too, as in the peers.
        mean (scalar, detached): updated.
        lengths [N] (detached): √(mean over layers of ‖∂⟨image, noise/R⟩/∂w‖²).
    """
    scaled = noise / math.sqrt(image.shape[2] * image.shape[3])
    (gradient,) = torch.autograd.grad((image * scaled).sum(), ws, create_graph=True)
    lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
    mean = mean + decay * (lengths.mean() - mean)
    return (lengths - mean).square().mean(), mean.detach(), lengths.detach()
