"""Losses of GAN training and of knowledge distillation, as pure functions of images, logits and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.errors import CagcError
from ..common.rgb import as_rgb
from ..content import apply_mask
from ..metrics import features as feature_extractors

# Larger images are compared on a copy whose longer side is this, as the paper does for LPIPS.
PERCEPTUAL_MAX_SIZE = 256

PerceptualDistance = Callable[[Tensor, Tensor], Tensor]


class FeatureMaps(Protocol):
    """Protocol of feature extractors for perceptual distances."""

    def maps(self, images: Tensor, size: int | None = None) -> list[Tensor]: ...


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, kind: str = "logistic") -> Tensor:
    """Scalar, from logits [N, 1].

    "logistic": mean softplus(-real) + mean softplus(fake) (Goodfellow et al. 2014); "hinge": mean max(0, 1 - real) +
    mean max(0, 1 + fake) (Miyato et al. 2018).
    """
    if kind == "hinge":
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor, kind: str = "logistic") -> Tensor:
    """Scalar, from logits [N, 1]: mean softplus(-fake), non-saturating, for "logistic", and mean -fake for "hinge"."""
    if kind == "hinge":
        return -fake_logits.mean()
    return F.softplus(-fake_logits).mean()


def rgb_loss(
    student_rgbs: Sequence[Tensor],
    teacher_rgbs: Sequence[Tensor],
    mask: Tensor | None = None,
    mode: str = "output",
    normalize_by_area: bool = False,
) -> Tensor:
    """Mean absolute difference between the images of student and teacher, scalar.

    Args:
        student_rgbs, teacher_rgbs: RGB [N, 3, r, r] per resolution, lowest first, the image last.
        mask: content [N, 1, R, R] in [0, 1], or None for everything. At a lower resolution each pixel is weighted by
            the share of it that is content. (The authors' code leaves intermediate losses unmasked.)
        mode: "output" compares the image, "intermediate" sums over all resolutions.
        normalize_by_area: divide by the content's area instead of by the image's, so that the loss of a pixel does not
            shrink with the content.

    Raises:
        ValueError: an unknown mode, or numbers or shapes of images differ.
    """
    if mode not in ("output", "intermediate"):
        raise ValueError(f"mode: got {mode!r}, expected 'output' or 'intermediate'")
    if mode == "output":
        student_rgbs, teacher_rgbs = student_rgbs[-1:], teacher_rgbs[-1:]
    shapes = [tuple(rgb.shape) for rgb in student_rgbs]
    if shapes != [tuple(rgb.shape) for rgb in teacher_rgbs]:
        raise ValueError(f"teacher_rgbs: got shapes {[tuple(t.shape) for t in teacher_rgbs]}, expected {shapes}")
    return sum(_masked_l1(s, t, mask, normalize_by_area) for s, t in zip(student_rgbs, teacher_rgbs))


def _masked_l1(student: Tensor, teacher: Tensor, mask: Tensor | None, normalize_by_area: bool) -> Tensor:
    difference = (student - teacher).abs()
    if mask is None:
        return difference.mean()
    weight = mask_at(mask, student.shape[-2:])
    total = (weight * difference).sum()
    if not normalize_by_area:
        return total / difference.numel()
    return total / (weight.sum() * difference.shape[1]).clamp(min=1)


def mask_at(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Mask [N, 1, H, W] at another height and width; each pixel is the mean of the pixels that it covers."""
    return mask if tuple(mask.shape[-2:]) == tuple(size) else F.adaptive_avg_pool2d(mask, tuple(size))


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean over layers and samples of Σ|S - T| / Σ|T|, scalar, for features [N, C, h, w] per layer.

    ``teacher`` holds the channels that the student kept, in its order. Gradients reach ``student``.

    Raises:
        ValueError: there are no layers, or numbers or shapes of layers differ.
    """
    shapes = [tuple(s.shape) for s in student]
    if shapes != [tuple(t.shape) for t in teacher] or not shapes:
        raise ValueError(f"teacher: got shapes {[tuple(t.shape) for t in teacher]}, expected {shapes}, at least one")
    layers = []
    for ours, theirs in zip(student, teacher):
        theirs = theirs.detach()
        size = theirs.abs().sum(dim=(1, 2, 3)) + 1e-8
        layers.append(((ours - theirs).abs().sum(dim=(1, 2, 3)) / size).mean())
    return torch.stack(layers).mean()


def relation_loss(student: Sequence[tuple[Tensor, Tensor]], teacher: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum over layers of KL(softmax S_T ‖ softmax S_S), scalar, with S[i, j] = cos(f(w_i), f(w_j + offset_j)).

    Args:
        student, teacher: per layer the features of w and of the moved w, [N, C, h, w] each; C may differ between the
            two networks. Gradients reach ``student``.

    The mean over i of divergences between rows (Xu et al., "Mind the Gap in Distilling StyleGANs", ECCV 2022).

    Raises:
        ValueError: there are no layers, or the numbers of layers differ.
    """
    if len(student) != len(teacher) or not student:
        raise ValueError(f"student: got {len(student)} layers, expected the teacher's {len(teacher)}, at least one")
    total = 0.0
    for ours, theirs in zip(student, teacher):
        expected = _similarities(*theirs).detach().log_softmax(dim=1)
        found = _similarities(*ours).log_softmax(dim=1)
        total = total + F.kl_div(found, expected, reduction="batchmean", log_target=True)
    return total


def _similarities(features: Tensor, moved: Tensor) -> Tensor:
    """Cosines [N, N] between flattened samples."""
    return F.normalize(features.flatten(1), dim=1) @ F.normalize(moved.flatten(1), dim=1).t()


def perceptual_loss(
    student: Tensor,
    teacher: Tensor,
    distance: PerceptualDistance,
    mask: Tensor | None = None,
    limit: int | None = None,
) -> Tensor:
    """Perceptual distance between two batches of images [N, 3, R, R] in [-1, 1], scalar; gradients reach ``student``.

    With a ``mask`` [N, 1, R, R] both are multiplied by it first. Images whose longer side is above ``limit`` are then
    averaged by area to it; without a limit, images above 256 px are compared on a bilinear 256 px copy.
    """
    if mask is not None:
        student, teacher = apply_mask(student, mask), apply_mask(teacher, mask)
    most, mode = (PERCEPTUAL_MAX_SIZE, "bilinear") if limit is None else (limit, "area")
    longer = max(student.shape[-2:])
    if longer > most:
        size = [max(1, side * most // longer) for side in student.shape[-2:]]
        student, teacher = (F.interpolate(x, size=size, mode=mode) for x in (student, teacher))
    return distance(student, teacher.detach())


class FeatureDistance:
    """Mean over layers and positions of ½‖â - b̂‖² = 1 - cos(a, b), for the feature vectors a, b of two images.

    The form of LPIPS (Zhang et al., CVPR 2018) with equal weights of all channels. In [0, 2]; 0 for equal images.
    ``size``: side in pixels that images are resized to first; None: not resized.
    """

    def __init__(self, features: FeatureMaps, size: int | None = None) -> None:
        self.features = features
        self.size = size

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        with torch.no_grad():
            expected = [_unit(x) for x in self.features.maps(teacher, self.size)]
        maps = self.features.maps(student, self.size)
        layers = [(_unit(a) - b).square().sum(dim=1).mean() / 2 for a, b in zip(maps, expected)]
        return torch.stack(layers).mean()


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(dim=1, keepdim=True) + 1e-8).rsqrt()


def load_perceptual(name: str, device: torch.device | str = "cpu", size: int | None = None) -> PerceptualDistance:
    """Perceptual distance by name: "lpips-vgg" through the package lpips, or features with maps (``FeatureDistance``).

    Raises:
        CagcError: the name is unknown or what it needs is not installed.
    """
    if name == "lpips-vgg":
        return _load_lpips(device, size)
    if name not in feature_extractors.FEATURES:
        raise CagcError(f"perceptual: got {name!r}, expected lpips-vgg or {feature_extractors.DEFAULT_FEATURES}")
    features = feature_extractors.load(name, device)
    if type(features).maps is feature_extractors.FeatureExtractor.maps:
        raise CagcError(
            f"perceptual: features {name!r} have no maps; expected lpips-vgg or {feature_extractors.DEFAULT_FEATURES}"
        )
    return FeatureDistance(features, size)


def _load_lpips(device: torch.device | str, size: int | None) -> PerceptualDistance:
    try:
        import lpips

        network = lpips.LPIPS(net="vgg", verbose=False).to(device).eval().requires_grad_(False)
    except (ImportError, OSError) as error:
        raise CagcError(
            f"perceptual 'lpips-vgg' needs the package lpips and its weights (pip install lpips): {error}"
        ) from error

    def distance(student: Tensor, teacher: Tensor) -> Tensor:
        if size is not None:
            student, teacher = (F.interpolate(x, size=(size, size), mode="bilinear") for x in (student, teacher))
        return network(as_rgb(student), as_rgb(teacher)).mean()

    return distance
