"""Settings of a distillation run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

# Settings that say how long a run goes on or what it writes, not which weights it reaches at a given step.
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

# Resolutions whose blocks have two convolutions, so that directions can be told from their styles.
_BLOCKS = tuple(2**i for i in range(3, 14))


@dataclass(frozen=True)
class DistillConfig:
    """Settings of a distillation. The defaults are the paper's where it states them.

    Attributes:
        steps: generator updates.
        batch_size: images per update, of all processes together.
        micro_batch: images at a time in each process, whose gradients are added up; None: all at once.
        precision: "float32", or "bfloat16" or "float16" for the networks under autocast, with weights in float32.
        learning_rate: of both Adam optimisers, before the scaling for lazy regularisation.
        lr_schedule: "constant", or "cosine" down to zero at the last step.
        betas: of both Adam optimisers, before the same scaling.
        rgb_weight: of the L1 distance between the images of student and teacher; 0 leaves it out.
        kd_mode: L1 on the "output" image, or summed over the "intermediate" RGB of every resolution.
        normalize_by_area: divide the masked L1 by the mask's area instead of by the image's.
        whole_every: steps from one that compares whole images, not their content alone, to the next, so that the
            background is not forgotten; 0: never.
        perceptual_weight: of the perceptual distance; 0 leaves it out.
        perceptual: name of its features: "efficientnet-lite0", or "lpips-vgg" where lpips is installed.
        perceptual_size: side in pixels that images are resized to for it; None: as they are, 256 px at most.
        feature_weight: of the distance between the student's features and those of the channels that it kept of the
            teacher's, times the schedule's factor of the learning rate; 0 leaves it out. It knows no content.
        relation_weight: of the relation loss of StyleKD; 0 leaves it out.
        relation_strength: standard deviation of the moves of w, along latent directions of length 1, that it compares.
        relation_directions: latent directions per resolution, those along which the styles change most.
        relation_resolutions: where it compares features; those above the image's are left out.
        gan_weight: of the adversarial loss; 0 runs without a discriminator.
        discriminator: begin with the "teacher"'s, or with a "new" one.
        gan_loss: "logistic" (non-saturating for the generator), or "hinge".
        d_steps: discriminator updates, on other images each, per generator update.
        gan_delay: steps in which the discriminator trains and the generator does not hear it yet.
        gan_ramp: steps after the delay in which the weight grows linearly from 0.
        r1_gamma: R1 weight; 0 leaves it out.
        d_reg_every: steps from one R1 update to the next.
        path_weight: of the path length regularisation; 0 leaves it out.
        g_reg_every: steps from one path length update to the next.
        path_batch_shrink: the path length uses the batch divided by this.
        path_decay: of the running mean path length.
        mixing_probability: share of batches drawn with style mixing.
        target_pool: samples of the teacher (images with their masks and features) that are computed once, kept in
            memory and trained on again and again; None: new ones in every step.
        noise: "random", "const" or "none" for student and teacher during training.
        share_noise: the same random noise for student and teacher.
        ema_half_life: images after which the averaged weights have forgotten half of the past, whatever the batch.
        ema_rampup: the half-life is at most this share of the images seen, so that a short run is not held back by
            the weights it began with; None: constant, as in the paper.
        frozen: names or shell patterns of the student's parameters that stay as they are, such as "mapping.*".
        flip: random horizontal flips of the real images.
        augment: "ada": what the discriminator sees is augmented, as often as its overfitting asks for (Karras et al.,
            NeurIPS 2020); "none"; or "auto": "ada" for fewer than 30,000 real images.
        augment_target: mean sign of the discriminator's logits of real images that "ada" steers to.
        seed: of every random draw.
        checkpoint_every: steps from one checkpoint to the next.
        sample_every: steps from one sample grid to the next; 0: none.
        log_every: steps from one row of metrics.jsonl to the next.
        evaluate_every: steps from one evaluation of the averaged student to the next; 0: never.
        evaluation_samples: images behind its Fréchet distance to the real ones; a fifth is compared with the teacher's.
        evaluation_features: feature space of that distance: efficientnet-lite0 or inception, @ and a side.
        samples: images in a sample grid.
        sample_truncation: truncation of the sample grid.
        tensorboard: write TensorBoard scalars and grids.

    Raises:
        ValueError: naming the setting, what came and what was expected.
    """

    steps: int = 450_000
    batch_size: int = 16
    micro_batch: int | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    learning_rate: float = 0.002
    lr_schedule: Literal["constant", "cosine"] = "constant"
    betas: tuple[float, float] = (0.0, 0.99)
    rgb_weight: float = 3.0
    kd_mode: Literal["output", "intermediate"] = "output"
    normalize_by_area: bool = False
    whole_every: int = 0
    perceptual_weight: float = 3.0
    perceptual: str = "efficientnet-lite0"
    perceptual_size: int | None = None
    feature_weight: float = 0.0
    relation_weight: float = 0.0
    relation_strength: float = 5.0
    relation_directions: int = 5
    relation_resolutions: tuple[int, ...] = (16, 32, 64, 128)
    gan_weight: float = 1.0
    gan_loss: Literal["logistic", "hinge"] = "logistic"
    d_steps: int = 1
    discriminator: Literal["teacher", "new"] = "teacher"
    gan_delay: int = 0
    gan_ramp: int = 0
    r1_gamma: float = 10.0
    d_reg_every: int = 16
    path_weight: float = 2.0
    g_reg_every: int = 4
    path_batch_shrink: int = 2
    path_decay: float = 0.01
    mixing_probability: float = 0.9
    target_pool: int | None = None
    noise: Literal["random", "const", "none"] = "random"
    share_noise: bool = True
    ema_half_life: float = 10_000.0
    ema_rampup: float | None = 0.05
    frozen: tuple[str, ...] = ()
    flip: bool = True
    augment: Literal["auto", "ada", "none"] = "auto"
    augment_target: float = 0.6
    seed: int = 0
    checkpoint_every: int = 1000
    sample_every: int = 1000
    log_every: int = 50
    evaluate_every: int = 0
    evaluation_samples: int = 1000
    evaluation_features: str = "efficientnet-lite0@112"
    samples: int = 8
    sample_truncation: float = 1.0
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "d_steps",
            "d_reg_every",
            "g_reg_every",
            "path_batch_shrink",
            "relation_directions",
            "checkpoint_every",
            "log_every",
            "evaluation_samples",
            "samples",
        ):
            self._require(name, _integer(self._get(name), 1), "an integer of at least 1")
        for name in ("whole_every", "gan_delay", "gan_ramp", "sample_every", "evaluate_every", "seed"):
            self._require(name, _integer(self._get(name), 0), "an integer of at least 0")
        for name in ("learning_rate", "ema_half_life", "relation_strength"):
            self._require(name, _number(self._get(name)) and self._get(name) > 0, "a number above 0")
        losses = ("rgb_weight", "perceptual_weight", "feature_weight", "relation_weight", "gan_weight")
        for name in (*losses, "r1_gamma", "path_weight"):
            self._require(name, _number(self._get(name)) and self._get(name) >= 0, "a number of at least 0")
        for name in ("path_decay", "mixing_probability", "augment_target"):
            self._require(name, _number(self._get(name)) and 0 <= self._get(name) <= 1, "a number from 0 to 1")
        for name, least, said in (
            ("micro_batch", 1, "1"),
            ("target_pool", self.batch_size, f"batch_size, {self.batch_size}"),
            ("perceptual_size", 32, "32"),
        ):
            fulfilled = self._get(name) is None or _integer(self._get(name), least)
            self._require(name, fulfilled, f"an integer of at least {said}, or None")
        betas = isinstance(self.betas, (tuple, list)) and len(self.betas) == 2
        self._require("betas", betas and all(_number(b) and 0 <= b < 1 for b in self.betas), "two numbers in [0, 1)")
        rampup = self.ema_rampup is None or (_number(self.ema_rampup) and self.ema_rampup > 0)
        self._require("ema_rampup", rampup, "a number above 0, or None")
        self._require("sample_truncation", _number(self.sample_truncation), "a number")
        for name, choices in (
            ("lr_schedule", ("constant", "cosine")),
            ("kd_mode", ("output", "intermediate")),
            ("noise", ("random", "const", "none")),
            ("precision", ("float32", "bfloat16", "float16")),
            ("augment", ("auto", "ada", "none")),
            ("gan_loss", ("logistic", "hinge")),
            ("discriminator", ("teacher", "new")),
        ):
            self._require(name, self._get(name) in choices, f"one of {', '.join(choices)}")
        self._require("frozen", isinstance(self.frozen, (tuple, list)), "a sequence of patterns")
        self._require(
            "relation_resolutions",
            bool(self.relation_resolutions) and all(r in _BLOCKS for r in self.relation_resolutions),
            "powers of two from 8 on",
        )
        if not any(self._get(name) for name in losses):
            raise ValueError(f"{', '.join(losses)}: got 0 for all of them, expected a loss to train with")
        for name in ("betas", "frozen", "relation_resolutions"):
            object.__setattr__(self, name, tuple(self._get(name)))

    def _get(self, name: str) -> Any:
        return getattr(self, name)

    def _require(self, name: str, fulfilled: bool, expected: str) -> None:
        if not fulfilled:
            raise ValueError(f"{name}: got {self._get(name)!r}, expected {expected}")

    def ema_decay(self, step: int) -> float:
        """Share of the averaged weights that survives update ``step`` (from 0): ½^(batch / half-life in images)."""
        half_life = self.ema_half_life
        if self.ema_rampup is not None:
            half_life = min(half_life, self.ema_rampup * (step + 1) * self.batch_size)
        return 0.5 ** (self.batch_size / half_life)

    def lr_factor(self, step: int) -> float:
        """Factor of the learning rate at ``step`` (from 0)."""
        return 1.0 if self.lr_schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def pool_step(self, step: int) -> int:
        """The step whose latents ``step`` (from 0) is trained on: those of a pool of n batches return after n."""
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
        """The settings that decide the weights reached at a step; ``steps`` among them where the schedule needs it."""
        ignored = _BOOKKEEPING - ({"steps"} if self.lr_schedule == "cosine" else set())
        return {name: value for name, value in self.to_dict().items() if name not in ignored}


def _integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
