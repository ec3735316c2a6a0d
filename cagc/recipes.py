"""Recipes by name: how channels are scored, how the student is initialised and how it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .common.checks import choice
from .distill import DistillConfig


@dataclass(frozen=True)
class Recipe:
    """The settings of a compression, except its inputs, its budget and its seed.

    Attributes:
        metric, samples, batch_rule: see :func:`cagc.pruning.scores.score_channels`.
        content: replaces the user's choice of content, for example by "everything"; None keeps it.
        rescale: see :func:`cagc.pruning.prune.prune`.
        distillation: settings of the training.
    """

    metric: str = "content-aware"
    samples: int = 400
    batch_rule: str = "per-sample"
    content: str | None = None
    rescale: str = "keep"
    distillation: DistillConfig = DistillConfig()

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values."""
        return asdict(self) | {"distillation": self.distillation.to_dict()}

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> Recipe:
        """Build a recipe from the result of :meth:`to_dict`.

        Raises:
            ValueError: a setting is unknown, missing or out of range.
        """
        if set(options) != (known := {field.name for field in fields(cls)}):
            raise ValueError(f"recipe: got settings {sorted(options)}, expected {sorted(known)}")
        return cls(**options | {"distillation": DistillConfig.from_dict(options["distillation"])})


# The authors' EMA decays by 0.5^(32 / 10000) per step at any batch size; with 16 images this is a half-life of 5000.
_PAPER = Recipe(
    batch_rule="batch-sum",
    rescale="none",
    distillation=DistillConfig(perceptual="lpips-vgg", ema_half_life=5000, ema_rampup=None, augment="none"),
)
# The mapping network stays the teacher's, so that a z means the same image to both.
_STYLEKD = replace(_PAPER, distillation=replace(_PAPER.distillation, relation_weight=30.0, frozen=("mapping.*",)))
_DCP = replace(_STYLEKD, metric="diversity", samples=1000)

# 1400 / 8 = 175 batches with every 4th step on whole images: each batch occurs with and without content masks.
_QUICK = Recipe(
    distillation=DistillConfig(
        steps=800,
        batch_size=8,
        learning_rate=0.004,
        lr_schedule="cosine",
        path_weight=0.0,
        gan_weight=0.0,
        perceptual_limit=128,
        feature_weight=1.0,
        feature_limit=128,
        whole_every=4,
        target_pool=1400,
        frozen=("mapping.*",),
        ema_half_life=500,
        checkpoint_every=50,
        sample_every=0,
        log_every=5,
        tensorboard=False,
    )
)

# Largest side in pixels of the images that a recipe is meant for, and the recipe above it. 125 batches, as above.
_LARGE: dict[str, tuple[int, Recipe]] = {
    "quick": (
        128,
        replace(_QUICK, samples=100, distillation=replace(_QUICK.distillation, steps=500, target_pool=1000)),
    ),
}

RECIPES: dict[str, Recipe] = {
    "quick": _QUICK,
    "paper": _PAPER,
    "everything": replace(_PAPER, content="everything"),
    "stylekd": _STYLEKD,
    "dcp": _DCP,
    "sngan": Recipe(
        rescale="none",
        distillation=DistillConfig(
            steps=50_000,
            batch_size=64,
            learning_rate=2e-4,
            betas=(0.0, 0.9),
            gan_loss="hinge",
            d_steps=5,
            r1_gamma=0.0,
            path_weight=0.0,
            mixing_probability=0.0,
            noise="none",
            augment="none",
        ),
    ),
    "svs": replace(_DCP, rescale="svs", distillation=replace(_DCP.distillation, discriminator="new")),
}
"""All recipes by name.

``quick`` takes minutes on a CPU. Its settings were chosen on the content-aware student of faces64, with latents that no
table uses and one run per setting: batch size, learning rate and the absence of a GAN loss from eight runs, the others
from eight more. In these runs of 150 steps with 8 images, the Fréchet distance to the teacher fell from 226 to 198 by
the feature loss on kept channels (content L1 0.147 to 0.145), to 131 by whole images in every third step (0.149), and
to 108 by a pool of stored targets, with which 300 steps fit in the same time (0.137).

Above 128 px ``quick`` has 500 steps on 1000 targets, and 100 samples for the scores, because an image takes longer: the
plan of faces256 keeps 778 of the 792 channels that 400 samples would keep. Its losses look at no more than 128 px,
except for the RGB distance. One run each on faces256: 500 steps with perceptual features of 256 px, 1400 targets and
400 samples end at a content L1 distance of 0.101 and a Fréchet distance of 222; 800 steps with features of 128 px at
0.095 and 191; 600 of these on 1000 targets, with 100 samples, at 0.099 and 197.

The others are published methods with their hyper-parameters, which take days on GPUs: ``paper`` is Liu et al., CVPR
2021; ``everything`` is the same with all pixels as content; ``stylekd`` is Xu et al., ECCV 2022; ``dcp`` is Chung et
al., CVPR 2024; ``svs`` adds Kim et al., AAAI 2025, to ``dcp``; ``sngan`` trains an SN-GAN as Miyato et al., ICLR 2018.
In all of them teacher and student have the same noise, and masks apply at every resolution."""


def recipe(name: str, side: int = 0) -> Recipe:
    """Return the recipe ``name`` for images of ``side`` pixels, the longer one; 0: for small images.

    Raises:
        CagcError: there is none; the message lists the valid names.
    """
    choice("recipe", name, RECIPES)
    limit, large = _LARGE.get(name, (side, RECIPES[name]))
    return large if side > limit else RECIPES[name]


def adapted(training: DistillConfig, name: str, side: int, given: Sequence[str] = ()) -> DistillConfig:
    """Return ``training`` with the recipe's values for images of ``side`` pixels in place of those for small images.

    Args:
        training: settings, of which those that equal the recipe's for small images are replaced.
        name: the recipe.
        side: the longer side of the images in pixels.
        given: names of settings that stay as they are even so.
    """
    small, chosen = asdict(recipe(name).distillation), asdict(recipe(name, side).distillation)
    left = [key for key in small if key not in given and getattr(training, key) == small[key]]
    return replace(training, **{key: chosen[key] for key in left})
