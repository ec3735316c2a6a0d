"""Disentanglement of W: linear separability of image attributes, and leakage of edits outside the content."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import log_expit
from torch import Tensor

from ..common.callbacks import Progress
from ..common.errors import CagcError
from ..common.seeds import inputs_of_seeds
from ..content import ContentParser
from ..editing.directions import Directions
from ..models import AnyGenerator
from .sampling import finite, noise_for, seed_batches

ATTRIBUTES = ("content area", "content brightness", "content redness", "content height", "content side")


def measure_attributes(images: Tensor, mask: Tensor) -> Tensor:
    """Attributes [N, 5] of :data:`ATTRIBUTES`: images [N, 3, H, W] in [-1, 1], mask [N, 1, H, W] in {0, 1}.

    Share of pixels; mean of all channels and of red minus the others on the content; its centre of mass, down and
    across, in [-1, 1]. NaN where a mask is empty.
    """
    area = mask.mean(dim=(1, 2, 3))
    inside = (images * mask).mean(dim=(2, 3)) / area[:, None]
    height, width = mask.shape[-2:]
    down = torch.linspace(-1, 1, height, device=mask.device).view(1, 1, -1, 1)
    across = torch.linspace(-1, 1, width, device=mask.device).view(1, 1, 1, -1)
    centre = [(mask * axis).mean(dim=(1, 2, 3)) / area for axis in (down, across)]
    red = inside[:, 0] - inside[:, 1:].mean(dim=1)
    return torch.stack([area, inside.mean(dim=1), red, *centre], dim=1)


@torch.inference_mode()
def linear_separability(
    generator: AnyGenerator,
    parser: ContentParser,
    samples: int = 1000,
    seed: int = 0,
    batch: int = 16,
    progress: Progress | None = None,
) -> dict[str, float]:
    """exp(H(Y | X)) of each of :data:`ATTRIBUTES` and their product's ``"separability"``; 1 is best, 2 chance for one.

    Karras et al., CVPR 2019, section 4.2: Y is whether the attribute is high or low, X is the side of a linear
    classifier on w, and the half of the samples with the clearest attribute is used. Unlike in the paper, Y comes from
    colour, area and position of the content instead of CelebA classifiers, and X is evaluated on samples that the
    classifier was not fitted on: the values are comparable only with each other.

    Raises:
        CagcError: fewer than 20 images have content, or one holds NaN or infinity.
    """
    latents, found = [], []
    for seeds in seed_batches(samples, seed, batch):
        z, c = inputs_of_seeds(generator, seeds)
        ws = generator.ws(z, c=c)
        images = finite(generator.synthesis(ws, noise_for(generator, seeds, "const")), seeds).clamp(-1, 1)
        latents.append(ws[:, 0])
        found.append(measure_attributes(images, parser(images, seeds=list(seeds))))
        if progress is not None:
            progress(sum(map(len, latents)), samples)
    w, values = torch.cat(latents).double().cpu().numpy(), torch.cat(found).double().cpu().numpy()
    seen = np.isfinite(values).all(axis=1)
    if seen.sum() < 20:
        raise CagcError(f"separability: {int(seen.sum())} of {samples} images have content, expected at least 20")
    entropies = [_conditional_entropy(w[seen], values[seen, i]) for i in range(values.shape[1])]
    result = {name: float(np.exp(entropy)) for name, entropy in zip(ATTRIBUTES, entropies)}
    return result | {"separability": float(np.exp(sum(entropies)))}


def _conditional_entropy(w: np.ndarray, values: np.ndarray) -> float:
    """H(Y | X) in nats over the half of the samples that are farthest from the median."""
    distance = values - np.median(values)
    clear = np.sort(np.argsort(-np.abs(distance), kind="stable")[: len(values) // 2])
    w, label = w[clear], distance[clear] > 0
    even = np.arange(len(label)) % 2 == 0
    side = np.empty_like(label)
    for part in (even, ~even):
        side[part] = _linear_classifier(w[~part], label[~part], w[part])
    entropy = 0.0
    for x in (False, True):
        share = np.mean(side == x)
        for y in (False, True):
            joint = np.mean((side == x) & (label == y))
            if joint > 0:
                entropy -= joint * np.log(joint / share)
    return entropy


def _linear_classifier(w: np.ndarray, label: np.ndarray, unseen: np.ndarray, penalty: float = 1e-2) -> np.ndarray:
    """Sides of ``unseen`` by a logistic regression on standardised ``w`` with an L2 penalty."""
    from scipy.optimize import minimize  # importing it takes half a second, which every command would wait for

    mean, spread = w.mean(axis=0), w.std(axis=0) + 1e-8
    x, unseen = (np.concatenate([(v - mean) / spread, np.ones((len(v), 1))], axis=1) for v in (w, unseen))
    sign = np.where(label, 1.0, -1.0)

    def loss(weight: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ weight)
        slope = -np.exp(log_expit(-margin)) * sign
        value = -log_expit(margin).mean() + penalty / 2 * weight @ weight
        return value, x.T @ slope / len(x) + penalty * weight

    fitted = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B")
    return unseen @ fitted.x > 0


@torch.inference_mode()
def edit_leakage(
    generator: AnyGenerator,
    directions: Directions,
    parser: ContentParser,
    samples: int = 100,
    count: int = 5,
    strength: float = 2.0,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    batch: int = 16,
    progress: Progress | None = None,
) -> dict[str, float]:
    """How much an edit changes outside the content: mean |I' - I| there and on the content, and their ratio.

    Averaged over the first ``count`` directions, both ways, at ``strength`` standard deviations; the mask is that of
    the image before the edit. Keys: "inside", "outside" (both in [0, 2]) and "leakage" = outside / inside.

    Raises:
        CagcError: the directions belong to another mapping network, no image has both content and surroundings, or an
            image holds NaN or infinity.
    """
    directions.check(generator)
    inside = outside = area = rest = 0.0
    for seeds in seed_batches(samples, seed, batch):
        z, c = inputs_of_seeds(generator, seeds)
        ws = generator.ws(z, c=c)
        noise = noise_for(generator, seeds, "const")
        images = finite(generator.synthesis(ws, noise), seeds).clamp(-1, 1)
        mask = parser(images, seeds=list(seeds))
        for index in range(min(count, len(directions))):
            for sign in (-strength, strength):
                edited = generator.synthesis(directions.apply(ws, index, sign, layers), noise)
                change = (finite(edited, seeds).clamp(-1, 1) - images).abs().mean(dim=1, keepdim=True)
                inside += float((change * mask).sum())
                outside += float((change * (1 - mask)).sum())
                area += float(mask.sum())
                rest += float((1 - mask).sum())
        if progress is not None:
            progress(min(seeds[-1] - seed + 1, samples), samples)
    if not area or not rest:
        raise CagcError("leakage: no image has both content and surroundings; choose another content parser")
    return {"inside": inside / area, "outside": outside / rest, "leakage": outside / rest / (inside / area)}
