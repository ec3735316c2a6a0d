"""Similarity of image pairs, on the whole image and on the content of interest.

Structural similarity is scikit-image's. (PSNR and L1 are in :mod:`cagc.metrics.fidelity`.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..common.errors import CagcError
from ..content import apply_mask
from ..distill.losses import PerceptualDistance
from .features import check_images


def structural_similarity(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """SSIM [N] of images [N, 3, H, W] in [-1, 1] (Wang et al. 2004: Gaussian window of 1.5 px, population covariance).

    With a ``mask`` [N, 1, H, W] in {0, 1} it is the mean of the similarity map over the content; NaN for an empty mask.

    Raises:
        ValueError: the shapes differ, or the images are smaller than the window of 11 px.
        CagcError: scikit-image is not installed.
    """
    _check_pair(a, b, mask)
    if min(a.shape[2:]) < 11:
        raise ValueError(f"a: got images of {list(a.shape[2:])}, expected at least 11 x 11, the window")
    try:
        from skimage.metrics import structural_similarity as ssim
    except ImportError as error:
        raise CagcError("structural similarity needs the package scikit-image: pip install scikit-image") from error
    values = []
    for i, (x, y) in enumerate(zip(_arrays(a), _arrays(b))):
        _, similarity = ssim(
            x,
            y,
            channel_axis=0,
            data_range=2.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        # Both means leave out the border, where the window extends beyond the image.
        inner = similarity.mean(axis=0)[5:-5, 5:-5]
        weight = np.ones_like(inner) if mask is None else mask[i, 0].cpu().double().numpy()[5:-5, 5:-5]
        values.append((inner * weight).sum() / weight.sum() if weight.any() else np.nan)
    return torch.tensor(values, dtype=torch.float64)


def perceptual_similarity(a: Tensor, b: Tensor, distance: PerceptualDistance, mask: Tensor | None = None) -> Tensor:
    """Perceptual distance [N] of each image pair; with a ``mask`` both images are multiplied by it first.

    With "lpips-vgg" of :func:`cagc.distill.losses.load_perceptual` these are LPIPS and, masked, CA-LPIPS.
    """
    _check_pair(a, b, mask)
    if mask is not None:
        a, b = apply_mask(a, mask), apply_mask(b, mask)
    with torch.no_grad():
        return torch.stack([distance(a[i : i + 1], b[i : i + 1]).double().reshape([]) for i in range(len(a))])


def _arrays(images: Tensor) -> np.ndarray:
    return images.detach().double().clamp(-1, 1).cpu().numpy()


def _check_pair(a: Tensor, b: Tensor, mask: Tensor | None) -> None:
    check_images(a, "a")
    if b.shape != a.shape:
        raise ValueError(f"b: got shape {list(b.shape)}, expected {list(a.shape)} as a")
    if mask is not None and tuple(mask.shape) != (len(a), 1, *a.shape[2:]):
        raise ValueError(f"mask: got shape {list(mask.shape)}, expected {[len(a), 1, *a.shape[2:]]}")
