"""Losses of a growing teacher: multi-scale L1, perceptual distance, and small critics of frozen features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cagc.metrics.features import FeatureExtractor


def multiscale_l1(images: Tensor, targets: Tensor, finest: float, coarsest: int = 8) -> Tensor:
    """Return the mean L1 distance over halvings down to ``coarsest`` px; full resolution has the weight ``finest``.

    A network this small cannot predict fine detail from w; there, L1 asks for the mean of the images, which is blurred.
    """
    total, weight, sum_of_weights = 0.0, finest, 0.0
    while images.shape[-1] >= coarsest:
        total, sum_of_weights = total + weight * (images - targets).abs().mean(), sum_of_weights + weight
        images, targets, weight = F.avg_pool2d(images, 2), F.avg_pool2d(targets, 2), 1.0
    return total / sum_of_weights


def map_distance(maps: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Return the mean of 1 - cos over depths and positions of maps, as ``cagc.distill.losses.FeatureDistance``."""
    return torch.stack([1 - F.cosine_similarity(a, b, dim=1).mean() for a, b in zip(maps, targets)]).mean()


class FeatureCritics(nn.Module):
    """A critic on each depth of a frozen feature extractor (Sauer et al., "Projected GANs", NeurIPS 2021).

    Maps [N, C_k, H_k, W_k] → logits [N, 1, h_k, w_k] per depth. The first call fixes the scale of each channel.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 24, 40, 112, 320), width: int = 48) -> None:
        super().__init__()
        self.scales = nn.ParameterList(nn.Parameter(torch.zeros(1, c, 1, 1), requires_grad=False) for c in channels)
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(c, width, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, width, 3, stride=2, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, 1, 1)),
            )
            for c in channels
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        if not self.scales[0].any():
            for scale, x in zip(self.scales, maps):
                scale.data.copy_(1 / (x.detach().std(dim=(0, 2, 3), keepdim=True) + 1e-3))
        return [head(x * scale) for head, scale, x in zip(self.heads, self.scales, maps)]

    def loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        """Return the hinge loss of the critics, averaged over depths."""
        logits = zip(self(real), self([x.detach() for x in fake]))
        return torch.stack([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in logits]).mean()

    def praise(self, fake: list[Tensor]) -> Tensor:
        """Return the generator's loss, minus the mean logit over depths; gradients reach only ``fake``."""
        self.requires_grad_(False)
        loss = -torch.stack([logit.mean() for logit in self(fake)]).mean()
        for head in self.heads:
            head.requires_grad_(True)
        return loss


def feature_maps(features: FeatureExtractor, images: Tensor, size: int) -> list[Tensor]:
    """Return the feature maps of images resized to ``size`` px, contiguous with channels first."""
    return [x.float() for x in features.maps(images, size)]
