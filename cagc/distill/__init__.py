"""Distillation of a pruned generator from its teacher."""

from .config import DistillConfig
from .data import ImageDataset, ImageStream
from .loop import Interrupted, distill
from .state import RunFolder
from .teachers import Latents, LiveTeacher, RecordedTeacher, Teacher
from .trainer import Draws, NonFiniteLoss, Trainer

__all__ = [
    "DistillConfig",
    "Draws",
    "ImageDataset",
    "ImageStream",
    "Interrupted",
    "Latents",
    "LiveTeacher",
    "NonFiniteLoss",
    "RecordedTeacher",
    "RunFolder",
    "Teacher",
    "Trainer",
    "distill",
]
