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


def path_lengths(image: Tensor, ws: Tensor, noise: Tensor, create_graph: bool = True) -> Tensor:
    """Path lengths [N]: √(mean over layers of ‖∂⟨image, noise/R⟩/∂w‖²) of ``image`` [N, 3, R, R] drawn from ``ws``.

    ``ws`` [N, num_ws, w_dim] is part of the graph of ``image``; ``noise`` is standard normal, shaped as ``image``.
    """
    scaled = noise / math.sqrt(image.shape[2] * image.shape[3])
    (gradient,) = torch.autograd.grad((image * scaled).sum(), ws, create_graph=create_graph)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(lengths: Tensor, mean: Tensor | float, decay: float) -> tuple[Tensor, Tensor]:
    """Path length regularisation (Karras et al., CVPR 2020, eq. 4) with the lazily tracked mean of the public code.

    Args:
        lengths: [N] of the whole batch, see :func:`path_lengths`.
        mean: running mean of the path length before this batch.
        decay: weight of this batch in the running mean.

    Returns:
        penalty (scalar): mean of (length - mean)². The gradient passes through the updated mean too, as in the peers.
        mean (scalar, detached): updated.
    """
    mean = mean + decay * (lengths.mean() - mean)
    return (lengths - mean).square().mean(), mean.detach()
