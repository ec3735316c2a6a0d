"""Settings of a distillation run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from ..common.checks import (
    Check,
    Count,
    CountOrZero,
    Number,
    Positive,
    Share,
    Weight,
    check_settings,
    integer,
    number,
)

# An alias, because names inside a lambda in a field's annotation are not found when the annotation is evaluated.
_PerceptualSize = Annotated[int, Check(lambda v: integer(v, 32), "an integer of at least 32")]

# Settings that change the length or the output of a run, but not the weights at a given step.
_BOOKKEEPING = frozenset(
    (
        "steps",
        "micro_batch",
        "checkpoint_every",
        "sample_every",
        "log_every",
        "evaluate_every",
        "evaluation_samples",
        "evaluation_features",
        "samples",
        "sample_truncation",
        "tensorboard",
    )
)

# Resolutions whose blocks have two convolutions; latent directions are computed from the styles of both.
_BLOCKS = tuple(2**i for i in range(3, 14))


def _are_betas(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(number(b) and 0 <= b < 1 for b in value)


def _are_blocks(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and all(r in _BLOCKS for r in value)


@dataclass(frozen=True)
class DistillConfig:
    """Settings of a distillation. The defaults are the paper's where it states them.

    Attributes:
        steps: generator updates.
        batch_size: images per update, of all processes together.
        micro_batch: images per forward pass in each process, whose gradients are accumulated; None: all at once.
        precision: "float32", or "bfloat16" or "float16" for the networks under autocast, with weights in float32.
        learning_rate: of both Adam optimisers, before the scaling for lazy regularisation.
        lr_schedule: "constant", or "cosine" down to zero at the last step.
        betas: of both Adam optimisers, before the same scaling.
        rgb_weight: of the L1 distance between the images of student and teacher; 0 leaves it out.
        kd_mode: L1 on the "output" image, or summed over the "intermediate" RGB of every resolution.
        normalize_by_area: divide the masked L1 by the mask's area instead of by the image's.
        whole_every: every how many steps whole images are compared instead of the content only, so that the background
            is not forgotten; 0: never.
        perceptual_weight: of the perceptual distance; 0 leaves it out.
        perceptual: name of its features: "efficientnet-lite0", or "lpips-vgg" where lpips is installed.
        perceptual_size: side in pixels that images are resized to for it; None: not resized, 256 px at most.
        perceptual_limit: longer side in pixels above which images are averaged by area for it, before any resizing;
            None: 256, above which they are interpolated as in the paper.
        feature_weight: of the distance between the student's features and the same channels of the teacher's, times the
            schedule's factor of the learning rate; 0 leaves it out. It is not restricted to the content.
        feature_limit: resolution above which layers are left out of this distance; None: no layer is left out.
        relation_weight: of the relation loss of StyleKD; 0 leaves it out.
        relation_strength: standard deviation of the moves of w along unit latent directions in the relation loss.
        relation_directions: number of latent directions per resolution, those along which the styles change most.
        relation_resolutions: resolutions of the features in the relation loss; those above the image's are left out.
        gan_weight: of the adversarial loss; 0 runs without a discriminator.
        discriminator: start from the "teacher"'s discriminator, or from a "new" one.
        gan_loss: "logistic" (non-saturating for the generator), or "hinge".
        d_steps: discriminator updates per generator update, each on other images.
        gan_delay: first steps, in which the discriminator trains but the generator has no adversarial loss.
        gan_ramp: steps after the delay in which the weight grows linearly from 0.
        r1_gamma: R1 weight; 0 leaves it out.
        d_reg_every: steps between R1 updates.
        path_weight: of the path length regularisation; 0 leaves it out.
        g_reg_every: steps between path length updates.
        path_batch_shrink: the path length uses the batch size divided by this.
        path_decay: weight of a new batch in the running mean path length.
        mixing_probability: share of batches drawn with style mixing.
        target_pool: number of teacher samples (images with masks and features) that are computed once, kept in memory
            and trained on repeatedly; None: new samples in every step.
        noise: "random", "const" or "none" for student and teacher during training.
        share_noise: use the same random noise for student and teacher.
        ema_half_life: half-life of the averaged weights (EMA), in images, whatever the batch size.
        ema_rampup: limits the half-life to this share of the images seen, so that in a short run the average does not
            consist of the initial weights; None: constant, as in the paper.
        frozen: names or shell patterns of the student's parameters that are not trained, such as "mapping.*".
        flip: random horizontal flips of the real images.
        augment: "ada": adaptive augmentation of the discriminator's images, by its overfitting (Karras et al., NeurIPS
            2020); "none"; or "auto": "ada" for fewer than 30,000 real images.
        augment_target: target of "ada" for the mean sign of the discriminator's logits of real images.
        seed: seed of every random draw.
        checkpoint_every: steps between checkpoints.
        sample_every: steps between sample grids; 0: none.
        log_every: steps between rows of metrics.jsonl.
        evaluate_every: steps between evaluations of the averaged student; 0: never.
        evaluation_samples: images for the Fréchet distance to real images; a fifth is compared with the teacher's.
        evaluation_features: feature space of that distance: efficientnet-lite0 or inception, @ and an image side.
        samples: images in a sample grid.
        sample_truncation: truncation of the sample grid.
        tensorboard: write TensorBoard scalars and grids.

    Raises:
        ValueError: naming the setting, what came and what was expected.
    """

    steps: Count = 450_000
    batch_size: Count = 16
    micro_batch: Count | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    learning_rate: Positive = 0.002
    lr_schedule: Literal["constant", "cosine"] = "constant"
    betas: Annotated[tuple[float, float], Check(_are_betas, "two numbers in [0, 1)")] = (0.0, 0.99)
    rgb_weight: Weight = 3.0
    kd_mode: Literal["output", "intermediate"] = "output"
    normalize_by_area: bool = False
    whole_every: CountOrZero = 0
    perceptual_weight: Weight = 3.0
    perceptual: str = "efficientnet-lite0"
    perceptual_size: _PerceptualSize | None = None
    perceptual_limit: _PerceptualSize | None = None
    feature_weight: Weight = 0.0
    feature_limit: Count | None = None
    relation_weight: Weight = 0.0
    relation_strength: Positive = 5.0
    relation_directions: Count = 5
    relation_resolutions: Annotated[tuple[int, ...], Check(_are_blocks, "powers of two from 8 on")] = (16, 32, 64, 128)
    gan_weight: Weight = 1.0
    gan_loss: Literal["logistic", "hinge"] = "logistic"
    d_steps: Count = 1
    discriminator: Literal["teacher", "new"] = "teacher"
    gan_delay: CountOrZero = 0
    gan_ramp: CountOrZero = 0
    r1_gamma: Weight = 10.0
    d_reg_every: Count = 16
    path_weight: Weight = 2.0
    g_reg_every: Count = 4
    path_batch_shrink: Count = 2
    path_decay: Share = 0.01
    mixing_probability: Share = 0.9
    target_pool: int | None = None
    noise: Literal["random", "const", "none"] = "random"
    share_noise: bool = True
    ema_half_life: Positive = 10_000.0
    ema_rampup: Positive | None = 0.05
    frozen: Annotated[tuple[str, ...], Check(lambda v: isinstance(v, (tuple, list)), "a sequence of patterns")] = ()
    flip: bool = True
    augment: Literal["auto", "ada", "none"] = "auto"
    augment_target: Share = 0.6
    seed: CountOrZero = 0
    checkpoint_every: Count = 1000
    sample_every: CountOrZero = 1000
    log_every: Count = 50
    evaluate_every: CountOrZero = 0
    evaluation_samples: Count = 1000
    evaluation_features: str = "efficientnet-lite0@112"
    samples: Count = 8
    sample_truncation: Number = 1.0
    tensorboard: bool = True

    def __post_init__(self) -> None:
        check_settings(self)
        if self.target_pool is not None and not integer(self.target_pool, self.batch_size):
            raise ValueError(
                f"target_pool: got {self.target_pool!r}, expected an integer of at least batch_size, "
                f"{self.batch_size}, or None"
            )
        losses = ("rgb_weight", "perceptual_weight", "feature_weight", "relation_weight", "gan_weight")
        if not any(getattr(self, name) for name in losses):
            raise ValueError(f"{', '.join(losses)}: got 0 for all of them, expected a loss to train with")
        for name in ("betas", "frozen", "relation_resolutions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def ema_decay(self, step: int) -> float:
        """Weight of the previous average in update ``step`` (from 0): ½^(batch / half-life in images)."""
        half_life = self.ema_half_life
        if self.ema_rampup is not None:
            half_life = min(half_life, self.ema_rampup * (step + 1) * self.batch_size)
        return 0.5 ** (self.batch_size / half_life)

    def lr_factor(self, step: int) -> float:
        """Factor of the learning rate at ``step`` (from 0)."""
        return 1.0 if self.lr_schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def pool_step(self, step: int) -> int:
        """The step whose latents ``step`` (from 0) uses: with a pool of n batches they repeat every n steps."""
        return step if self.target_pool is None else step % (self.target_pool // self.batch_size)

    def whole_at(self, step: int) -> bool:
        """Whether ``step`` (from 0) compares whole images."""
        return self.whole_every > 0 and (step + 1) % self.whole_every == 0

    def gan_weight_at(self, step: int) -> float:
        """Weight of the adversarial loss at ``step`` (from 0), with delay and ramp."""
        if step < self.gan_delay:
            return 0.0
        return self.gan_weight * min(1.0, (step - self.gan_delay + 1) / (self.gan_ramp + 1))

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready containers."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> DistillConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a setting is unknown or out of range.
        """
        known = {field.name for field in fields(cls)}
        if unknown := set(options) - known:
            raise ValueError(f"settings: got {sorted(unknown)}, expected some of {sorted(known)}")
        return cls(**options)

    def identity(self) -> dict[str, Any]:
        """The settings that determine the weights at a step; ``steps`` is among them if the schedule depends on it."""
        ignored = _BOOKKEEPING - ({"steps"} if self.lr_schedule == "cosine" else set())
        return {name: value for name, value in self.to_dict().items() if name not in ignored}
