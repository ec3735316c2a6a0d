"""How good the averaged student is, asked from time to time while it trains."""

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


class Examination:
    """Fidelity to a live teacher, and Fréchet distance to the images of a data set.

    Args:
        trainer: of the student.
        data: real images; anything but an ``ImageDataset`` leaves the Fréchet distance out.
        parser: of content; None: everything.
    """

    def __init__(
        self, trainer: Trainer, data: Any, config: DistillConfig, parser: content.ContentParser | None
    ) -> None:
        self._trainer, self._config = trainer, config
        self._data = data if isinstance(data, ImageDataset) else None
        self._parser = parser or content.load("everything")
        self._extractor = self._real = None

    def __call__(self) -> dict[str, float]:
        """Figures by name, the same in every process. Raises whatever goes wrong, in every process."""
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
    """Bytes that this process has held at most: allocated on a GPU, or resident for the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
