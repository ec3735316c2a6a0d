"""The distillation objective: distances of the student's images and features to the teacher's, on the content."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common import distributed
from ..common.errors import CagcError
from ..content import ContentCoverage, ContentParser, validate_mask
from .config import DistillConfig
from .latents import Latents
from .losses import PerceptualDistance, feature_loss, load_perceptual, perceptual_loss, relation_loss, rgb_loss
from .relation import latent_directions, relation_layers
from .teachers import LiveTeacher, Teacher

# After so many images with empty masks the parser is considered unusable.
_BLIND_SAMPLES = 256

Synthesis = Callable[..., "Tensor | list[Tensor]"]


@dataclass(frozen=True)
class Targets:
    """The teacher's outputs that the losses of a batch need.

    Attributes:
        rgbs: images [N, 3, r, r], of every resolution in the mode "intermediate", else only the last.
        mask: content [N, 1, R, R]; None: everything.
        relations: per compared layer the features of w and of the moved w; None without a relation loss.
        kept: per layer the features of the channels that the student kept; None without a feature loss.
    """

    rgbs: list[Tensor]
    mask: Tensor | None = None
    relations: list[tuple[Tensor, Tensor]] | None = None
    kept: list[Tensor] | None = None

    def to(self, dtype: torch.dtype) -> Targets:
        """The same targets in another floating point type."""
        pairs = None if self.relations is None else [(a.to(dtype), b.to(dtype)) for a, b in self.relations]
        return Targets(
            [rgb.to(dtype) for rgb in self.rgbs],
            None if self.mask is None else self.mask.to(dtype),
            pairs,
            None if self.kept is None else [features.to(dtype) for features in self.kept],
        )

    def nbytes(self) -> int:
        """Memory of all tensors."""
        tensors = [*self.rgbs, *(self.kept or ()), *(t for pair in self.relations or () for t in pair)]
        return sum(t.nbytes for t in tensors) + (0 if self.mask is None else self.mask.nbytes)


@dataclass(frozen=True)
class Comparison:
    """The student's images [N, 3, R, R], and the losses by name (scalars with gradients)."""

    images: Tensor
    losses: dict[str, Tensor]


class Objective:
    """Distances of the student's images to the teacher's.

    Args:
        teacher: source of targets.
        config: settings.
        parser: content mask, from the teacher's images; None: everything.
        perceptual: distance to use instead of the one that ``config`` names; a mean over the images of a batch.
        device: of the student.
        kept: layer → the teacher's channels that the student kept, for a feature loss.

    Raises:
        CagcError: the perceptual features are unknown, the teacher has no features for a relation or feature loss, or
            ``kept`` is missing for a feature loss.
    """

    def __init__(
        self,
        teacher: Teacher,
        config: DistillConfig,
        parser: ContentParser | None,
        perceptual: PerceptualDistance | None,
        device: torch.device,
        kept: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.teacher, self.config, self.parser, self.perceptual = teacher, config, parser, perceptual
        if perceptual is None and config.perceptual_weight:
            self.perceptual = load_perceptual(config.perceptual, device, config.perceptual_size)
        self.directions: Tensor | None = None
        for name in ("relation_weight", "feature_weight"):
            if getattr(config, name) and not isinstance(teacher, LiveTeacher):
                raise CagcError(f"{name}: expected 0 for recorded images, which have no features")
        if config.feature_weight and kept is None:
            raise CagcError("feature_weight: expected 0, or the student's plan, which says what channels it kept")
        self._kept = self._compared(kept or {}, device) if config.feature_weight else {}
        if config.relation_weight:
            self._layers = relation_layers(teacher.generator, config.relation_resolutions)
            self.directions = latent_directions(
                teacher.generator, config.relation_resolutions, config.relation_directions
            )
        self._coverage = ContentCoverage()
        self._blind_after = min(_BLIND_SAMPLES, config.steps * config.batch_size)

    def _compared(self, kept: Mapping[str, Sequence[int]], device: torch.device) -> dict[str, Tensor]:
        """Layer → kept channels, of the layers that the feature loss compares.

        Raises:
            CagcError: ``config.feature_limit`` leaves out every layer.
        """
        limit = self.config.feature_limit
        # A group of channels that several layers write is as large as the first of them draws it.
        sizes = {spec.writes: max(spec.size) for spec in reversed(self.teacher.generator.config.layers())}
        # The constant input is left out: it does not depend on the latents.
        found = {
            name: torch.tensor(indices, device=device)
            for name, indices in list(kept.items())[1:]
            if limit is None or sizes[name] <= limit
        }
        if not found:
            raise CagcError(f"feature_limit: got {limit}, expected at least the resolution of a layer, {sizes}")
        return found

    def weights(self, step: int = 0) -> dict[str, float]:
        """Weight by name of the losses of :meth:`compare` at ``step``."""
        config = self.config
        weights = {
            "rgb": config.rgb_weight,
            "perceptual": config.perceptual_weight,
            "feature": config.feature_weight * config.lr_factor(step),
            "relation": config.relation_weight,
        }
        return {name: weight for name, weight in weights.items() if weight}

    def targets(self, latents: Latents, offsets: Tensor | None) -> Targets:
        """Run the teacher and the parser on the images of ``latents``; ``offsets``: moves of w [N, w_dim].

        Raises:
            CagcError: the mask's shape or values are invalid.
        """
        if not self.weights():
            return Targets([])
        plain = self._room(offsets)
        rgbs = self.teacher.rgbs(latents, self.config.kd_mode == "intermediate", features=plain)
        relations = kept = mask = None
        if self.config.feature_weight:
            kept = [plain[name][:, indices] for name, indices in self._kept.items()]
        if offsets is not None:
            moved: dict[str, Tensor] = {}
            self.teacher.rgbs(latents, features=moved, offset=offsets)
            relations = [(plain[name], moved[name]) for name in self._layers]
        if self.parser is not None:
            with torch.no_grad():
                mask = self.parser(rgbs[-1], seeds=latents.seeds)
            mask = validate_mask(mask, rgbs[-1], self.parser.name).to(rgbs[-1])
        return Targets(rgbs, mask, relations, kept)

    def _room(self, offsets: Tensor | None) -> dict[str, Tensor] | None:
        """An empty dict to be filled with features, or None if no loss uses features."""
        return {} if offsets is not None or self.config.feature_weight else None

    def content_area(self, targets: list[Targets]) -> Tensor | None:
        """Share of the pixels of the whole batch that is content, scalar; None without a parser.

        Raises:
            CagcError: the masks of 256 images were all empty.
        """
        if self.parser is None or not self.weights():
            return None
        size = self.config.batch_size * math.prod(self.teacher.img_size)
        area = distributed.all_sum(sum((t.mask.sum() for t in targets), start=targets[0].mask.new_zeros(()))) / size
        if self._coverage.samples < self._blind_after:
            self._coverage.add(area.expand(self.config.batch_size, 1, 1, 1))
            if self._coverage.samples >= self._blind_after:
                self._coverage.check(self.parser.name)
        return area

    def compare(self, synthesis: Synthesis, latents: Latents, offsets: Tensor | None, targets: Targets) -> Comparison:
        """The student's images of ``latents``, and the losses that :meth:`weights` names, as means over them."""
        config, losses = self.config, {}
        features = self._room(offsets)
        intermediate = config.kd_mode == "intermediate"
        out = synthesis(latents, return_rgbs=intermediate, features=features)
        rgbs = out if intermediate else [out]
        if config.rgb_weight:
            losses["rgb"] = rgb_loss(rgbs, targets.rgbs, targets.mask, config.kd_mode, config.normalize_by_area)
        if config.perceptual_weight:
            limit = config.perceptual_limit
            losses["perceptual"] = perceptual_loss(rgbs[-1], targets.rgbs[-1], self.perceptual, targets.mask, limit)
        if config.feature_weight:
            losses["feature"] = feature_loss([features[name] for name in self._kept], targets.kept)
        if offsets is not None:
            moved: dict[str, Tensor] = {}
            synthesis(latents, features=moved, offset=offsets)
            losses["relation"] = relation_loss(
                [(features[name], moved[name]) for name in self._layers], targets.relations
            )
        return Comparison(rgbs[-1], losses)

    def share(self, name: str, images: int, targets: Targets, area: Tensor | None) -> Tensor | float:
        """Factor by which the loss ``name``, a mean over ``images`` images, contributes to that of the whole batch."""
        if name == "rgb" and self.config.normalize_by_area and targets.mask is not None:
            pixels = self.config.batch_size * math.prod(self.teacher.img_size)
            return targets.mask.sum() / (area * pixels).clamp(min=1)
        return images / self.config.batch_size
