"""Validates the inputs of a run before anything is written, and computes its identity."""

from __future__ import annotations

from typing import Any

import torch

from .. import models
from ..checkpoints import generator_hash
from ..common.errors import CagcError
from ..models import AnyDiscriminator, AnyGenerator
from .config import DistillConfig
from .teachers import LiveTeacher, RecordedTeacher, Teacher


def check_fit(
    student: AnyGenerator, teacher: Teacher, discriminator: AnyDiscriminator | None, data: Any, config: DistillConfig
) -> None:
    """Raise CagcError where networks, images and settings do not match."""
    ours = student.config
    recorded = isinstance(teacher, RecordedTeacher)  # which has w alone, without z and labels
    for name, got, expected in (
        ("img_size", ours.img_size, tuple(teacher.img_size)),
        ("z_dim", student.w_dim if recorded else student.z_dim, teacher.z_dim),
        ("c_dim", student.c_dim, teacher.labels.c_dim if teacher.labels is not None else student.c_dim * recorded),
    ):
        if got != expected:
            raise CagcError(f"student: got {name} {got}, expected the teacher's {expected}")
    if isinstance(teacher, LiveTeacher):
        got, depth = (sum(s.kind == "mapping" for s in c.layers()) for c in (ours, teacher.generator.config))
        if got != depth:
            raise CagcError(f"student: got {got} mapping layers, expected the teacher's {depth}")
        if teacher.generator.w_avg.device != student.w_avg.device:
            raise CagcError(
                f"teacher: got device {teacher.generator.w_avg.device}, expected the student's {student.w_avg.device}"
            )
    elif config.kd_mode == "intermediate" and recorded:
        raise CagcError("kd_mode: got 'intermediate', expected 'output' for recorded images")
    if not config.gan_weight:
        return
    _check_discriminator(student, discriminator, recorded or isinstance(data, RecordedTeacher))
    if data is None:
        raise CagcError("data: got None, expected real images with gan_weight above 0")
    if tuple(data.img_size) != ours.img_size:
        raise CagcError(f"data: got img_size {tuple(data.img_size)}, expected the student's {ours.img_size}")


def _check_discriminator(student: AnyGenerator, discriminator: AnyDiscriminator | None, recorded: bool) -> None:
    """Raise CagcError unless it takes the student's images, and their labels or none; None stands for a new one."""
    ours, theirs = student.config, (discriminator or models.new_discriminator(student.config)).config
    for name in ("img_size", "img_channels"):
        if getattr(theirs, name) != getattr(ours, name):
            raise CagcError(f"discriminator: got {name} {getattr(theirs, name)}, expected {getattr(ours, name)}")
    if theirs.c_dim not in (0, ours.c_dim):
        raise CagcError(f"discriminator: got c_dim {theirs.c_dim}, expected the student's {ours.c_dim}, or 0")
    if theirs.c_dim and recorded:
        raise CagcError("discriminator: got one with labels, expected one without for recorded images, which have none")


def identity(
    student: AnyGenerator,
    teacher: Teacher,
    discriminator: AnyDiscriminator | None,
    data: Any,
    config: DistillConfig,
    parser: Any,
) -> dict[str, Any]:
    """Fingerprints of everything that determines the weights at a step, as JSON: networks, images, masks, settings."""
    document = {
        "student": generator_hash(student),
        "teacher": teacher.fingerprint,
        "content": None if parser is None else getattr(parser, "fingerprint", parser.name),
        **config.identity(),
    }
    if teacher.labels is not None:
        document["labels"] = teacher.labels.fingerprint()
    if config.gan_weight:
        document["discriminator"] = "new" if discriminator is None else generator_hash(discriminator)
        document["data"] = _describe(data)
    return document


def _describe(data: Any) -> str:
    found = getattr(data, "fingerprint", None)
    return f"{len(data)} images, content {found() if callable(found) else found}"


def new_discriminator(student: AnyGenerator, teacher: Teacher, seed: int) -> AnyDiscriminator:
    """A new discriminator as wide as the teacher, or as the student if the teacher is recorded images."""
    source = teacher.generator if isinstance(teacher, LiveTeacher) else student
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.new_discriminator(source.config)
