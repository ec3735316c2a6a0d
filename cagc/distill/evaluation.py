"""Periodic evaluation of the averaged (EMA) student during training."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch

from .. import content
from ..common import distributed
from ..data.dataset import ImageDataset
from ..metrics import features
from ..metrics.frechet import result_key
from ..metrics.reference import reference_statistics
from ..metrics.shared import compare, drawn_statistics
from .config import DistillConfig
from .teachers import LiveTeacher
from .trainer import Trainer


class StudentEvaluation:
    """Computes the fidelity to a live teacher, and the Fréchet distance to the images of a data set.

    Args:
        trainer: trainer whose averaged student is evaluated.
        data: real images; without an ``ImageDataset`` there is no Fréchet distance.
        parser: content parser; None: everything is content.
    """

    def __init__(
        self, trainer: Trainer, data: Any, config: DistillConfig, parser: content.ContentParser | None
    ) -> None:
        self._trainer, self._config = trainer, config
        self._data = data if isinstance(data, ImageDataset) else None
        self._parser = parser or content.load("everything")
        self._extractor = self._real = None

    def __call__(self) -> dict[str, float]:
        """Figures by name, the same in every process. An error in one process is raised in all of them."""
        trainer, config, figures = self._trainer, self._config, {}
        student, samples = trainer.g_ema, config.evaluation_samples
        if isinstance(trainer.teacher, LiveTeacher):
            found = compare(student, trainer.teacher.generator, self._parser, max(1, samples // 5), config.seed)
            figures |= {name: found[name] for name in ("content_l1", "content_psnr", "image_l1")}
        if self._data is not None:
            if self._extractor is None:
                self._extractor = distributed.together(
                    lambda: features.load(config.evaluation_features, trainer.device)
                )
            if self._real is None:
                count = min(samples, len(self._data))
                self._real = reference_statistics(self._data, count, self._extractor, trainer.device)
            drawn = drawn_statistics(student, samples, config.seed, self._extractor)
            figures[result_key(config.evaluation_features)] = drawn.distance(self._real)
        return figures


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process in bytes: allocated on a GPU, or resident for the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
