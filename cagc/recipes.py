"""Recipes by name: how channels are scored, what the student begins with, and how it is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .common.checks import choice
from .distill import DistillConfig


@dataclass(frozen=True)
class Recipe:
    """Everything about a compression but its inputs, its budget and its seed.

    Attributes:
        metric, samples, batch_rule: see :func:`cagc.pruning.scores.score_channels`.
        content: overrides the content that the user names, such as "everything"; None leaves it.
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
        """As JSON-ready containers."""
        return asdict(self) | {"distillation": self.distillation.to_dict()}

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a setting is unknown, missing or out of range.
        """
        if set(options) != (known := {field.name for field in fields(cls)}):
            raise ValueError(f"recipe: got settings {sorted(options)}, expected {sorted(known)}")
        return cls(**options | {"distillation": DistillConfig.from_dict(options["distillation"])})


# The authors' average decays by 0.5^(32 / 10000) a step whatever the batch: at 16 images that is a half-life of 5000.
_PAPER = Recipe(
    batch_rule="batch-sum",
    rescale="none",
    distillation=DistillConfig(perceptual="lpips-vgg", ema_half_life=5000, ema_rampup=None, augment="none"),
)
# The mapping network is the teacher's and stays so: both then mean the same image by the same z.
_STYLEKD = replace(_PAPER, distillation=replace(_PAPER.distillation, relation_weight=30.0, frozen=("mapping.*",)))
_DCP = replace(_STYLEKD, metric="diversity", samples=1000)

# 1400 / 8 = 175 batches and every 4th step whole: each batch is seen both ways.
_QUICK = Recipe(
    distillation=DistillConfig(
        steps=1000,
        batch_size=8,
        learning_rate=0.004,
        lr_schedule="cosine",
        path_weight=0.0,
        gan_weight=0.0,
        feature_weight=1.0,
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
"""``quick`` takes minutes on a CPU. It was picked by one run each on the content-aware student of faces64, batch, rate
and the missing adversary out of eight, the rest out of eight more, on latents that no table uses. In those, of 150
steps of 8 images, holding each kept channel to what it was in the teacher took the Fréchet distance to the teacher from
226 to 198 (content L1 0.147 to 0.145), comparing every third step whole to 131 (0.149), and a pool that gives 300 steps
in the same time to 108 (0.137).

The rest are published ones, with their hyper-parameters, for days on GPUs: ``paper`` is Liu et al., CVPR 2021,
``everything`` the same without regard to content, ``stylekd`` Xu et al., ECCV 2022, ``dcp`` Chung et al., CVPR 2024,
and ``svs`` Kim et al., AAAI 2025, on top of ``dcp``; ``sngan`` trains an SN-GAN as Miyato et al., ICLR 2018, do. All
share the noise of teacher and student, and mask every resolution."""


def recipe(name: str) -> Recipe:
    """The recipe ``name``.

    Raises:
        CagcError: there is none; the valid names are listed.
    """
    choice("recipe", name, RECIPES)
    return RECIPES[name]
