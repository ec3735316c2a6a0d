"""Distillation of a pruned generator from its teacher."""

from ..data.dataset import ImageDataset
from ..data.stream import ImageStream
from .config import DistillConfig
from .draws import Draws
from .latents import Latents
from .loop import Interrupted, distill
from .state import RunFolder
from .teachers import LiveTeacher, RecordedTeacher, Teacher
from .trainer import Trainer
from .update import NonFiniteLoss

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
