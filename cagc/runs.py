"""Inputs of commands and runs: networks, images and content by path, with the embedded faces as defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from . import assets, content
from .checkpoints import Checkpoint, load_checkpoint, load_generator
from .common import distributed
from .common.errors import CagcError
from .data.dataset import ImageDataset
from .data.labels import read_labels
from .distill import DistillConfig, RunFolder, distill
from .models import AnyDiscriminator, AnyGenerator
from .pruning.plan import ChannelPlan


def open_device(name: str) -> torch.device:
    """Return the device ``name``: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".

    "cuda" without a number is a different GPU in each process of ``torchrun``.

    Raises:
        CagcError: there is no such device, or it cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None and distributed.launched() > 1:
            device = torch.device("cuda", distributed.local_rank())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CagcError(
            f"device: got {name!r}, expected auto, cpu, cuda or cuda:N that is present ({reason})"
        ) from None
    return device


@dataclass(frozen=True, kw_only=True)
class DeviceOption:
    """Option of commands that run on a device."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def open_device(self) -> torch.device:
        """Return the device; see :func:`open_device`."""
        return open_device(self.device)


@dataclass(frozen=True, kw_only=True)
class KeyOption:
    """Option of commands that read a checkpoint."""

    key: str | None = None
    """Which network of a checkpoint that holds several, by a name that the error about such a file lists."""


@dataclass(frozen=True, kw_only=True)
class LabelOption:
    """Options of commands that draw with a generator that may be class-conditional."""

    labels: str | None = None
    """Labels of a class-conditional generator's images (what counts as content is --classes): uniform (if left out),
    numbers such as 0,3,5-7 in turn, data (as often as in the dataset.json of --data), or a dataset.json."""


@dataclass(frozen=True, kw_only=True)
class TeacherOptions(KeyOption, LabelOption, DeviceOption):
    """Options of commands that work on a generator."""

    teacher: Path | None = None
    """Checkpoint of the generator, or the name of an embedded one: faces256 (if left out), faces128 or
    faces64."""

    def load_teacher(self, data: ImageDataset | None = None) -> tuple[AnyGenerator, Checkpoint]:
        """Return the generator, with its labels, and its checkpoint; see :func:`load_teacher`.

        ``data``: images whose labels are taken where ``labels`` is "data".
        """
        generator, checkpoint = load_teacher(self.teacher, self.open_device(), self.key)
        generator.labels = read_labels(self.labels, generator.c_dim, data)
        return generator, checkpoint


@dataclass(frozen=True, kw_only=True)
class ContentOptions:
    """Options that say which pixels are content."""

    content: str | None = None
    """What counts as content: faces, everything, the path of BiSeNet weights, or a folder or zip of masks named by
    seed. Default: the recipe's choice or faces; for cagc project everything."""
    classes: tuple[str, ...] = ()
    """Classes that count as content, for parsers that have classes. faces: person and face, or only face."""

    def load_parser(self, device: torch.device | str, otherwise: str = "faces") -> content.ContentParser:
        """Return the content parser on ``device``; ``otherwise`` is used if no content was given."""
        return content.load(self.content or otherwise, self.classes or None, device)


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Options of commands that read real images."""

    convert_images: bool = False
    """Crop images of another shape to their centre and convert other modes, instead of refusing them."""


@dataclass(frozen=True, kw_only=True)
class Inputs(TeacherOptions, ContentOptions, ImageOptions):
    """Options of a run's inputs, by path; by default the embedded generator faces256 and its images.

    For distillation with a GAN loss, the teacher's checkpoint must also hold its discriminator.
    """

    data: Path | None = None
    """Folder or zip of real images; those of the embedded generator where --teacher is one."""

    def load(self, need_data: bool = True) -> LoadedInputs:
        """Load all inputs.

        Raises:
            CagcError: an input is missing or unusable; with ``need_data`` also if a teacher was given without images.
        """
        teacher, checkpoint = load_teacher(self.teacher, self.open_device(), self.key)
        device = teacher.w_avg.device
        # Only training with data uses the discriminator, so other commands do not fail over an unreadable one.
        discriminator = checkpoint.d if need_data else None
        path = self.data
        if path is None and (embedded := assets.embedded(self.teacher)):
            path = embedded.images
        if path is None and need_data:
            raise CagcError("data: got none, expected a folder or zip of real images to go with the teacher")
        parser = self.load_parser(device)
        data = None
        if path is not None:
            data = ImageDataset(path, teacher.img_size, convert=self.convert_images, channels=teacher.img_channels)
        teacher.labels = read_labels(self.labels, teacher.c_dim, data)
        return LoadedInputs(device, teacher, discriminator, data, parser)

    def inputs(self) -> Inputs:
        """Return these options without those that a subclass adds."""
        return Inputs(**{field.name: getattr(self, field.name) for field in fields(Inputs)})

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values with absolute paths, so that a run can be resumed from any folder."""
        paths = {name: _absolute(getattr(self, name)) for name in ("teacher", "data")}
        spec = self.content or "faces"
        found = {"content": spec, "labels": self.labels}
        found = {name: _absolute(Path(spec)) if spec and Path(spec).exists() else spec for name, spec in found.items()}
        return asdict(self) | paths | found | {"classes": list(self.classes)}

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> Inputs:
        """Build the options from the result of :meth:`to_dict`."""
        paths = {name: Path(options[name]) if options[name] else None for name in ("teacher", "data")}
        return cls(**options | paths | {"classes": tuple(options["classes"])})


@dataclass(frozen=True)
class LoadedInputs:
    """The objects that :meth:`Inputs.load` returns.

    ``data`` is None if no images were given; ``discriminator`` is None if the checkpoint has none or without data.
    """

    device: torch.device
    teacher: AnyGenerator
    discriminator: AnyDiscriminator | None
    data: ImageDataset | None
    parser: content.ContentParser


def load_teacher(
    path: Path | None, device: torch.device | str = "cpu", key: str | None = None
) -> tuple[AnyGenerator, Checkpoint]:
    """Return the generator of a checkpoint, and the checkpoint; the embedded face teacher for None.

    ``key`` is that of :func:`load_checkpoint`.

    Raises:
        CagcError: the checkpoint cannot be read or holds no generator.
    """
    checkpoint = load_checkpoint(path or assets.DEFAULT, device, key)
    generator = checkpoint.g_ema or checkpoint.g
    if generator is None:
        raise CagcError(f"checkpoint {path}: holds no generator ('g_ema' or 'g'){checkpoint.unknown}")
    return generator, checkpoint


def distill_run(
    student: Path,
    inputs: Inputs,
    config: DistillConfig,
    out: Path,
    plan: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Distil the checkpoint ``student``, which was pruned by ``plan``, in the new run folder ``out``.

    Returns the path of the trained student.
    """
    sources = {"student": _absolute(student), "plan": _absolute(plan), **inputs.to_dict()}
    return _distill(
        load_generator(student), inputs, config, out, resume=False, sources=sources, plan=plan, overwrite=overwrite
    )


def resume_distill_run(out: Path) -> Path:
    """Continue the interrupted run in ``out`` with its recorded inputs and settings; return the trained student's path.

    Raises:
        CagcError: ``out`` holds no run, the run was not started from the command line, or an input is missing.
    """
    document = RunFolder(out).config()
    sources = document.get("sources")
    if not sources:
        raise CagcError(f"resume: the run in {out} was started from Python and does not record its inputs")
    sources = dict(sources)
    student, plan = load_generator(sources.pop("student")), sources.pop("plan", None)
    config = DistillConfig.from_dict(document["settings"])
    return _distill(student, Inputs.from_dict(sources), config, out, resume=True, plan=plan and Path(plan))


def _distill(
    student: AnyGenerator,
    inputs: Inputs,
    config: DistillConfig,
    out: Path,
    resume: bool,
    sources: dict[str, Any] | None = None,
    plan: Path | None = None,
    overwrite: bool = False,
) -> Path:
    loaded = inputs.load(need_data=config.gan_weight > 0)
    distill(
        student.to(loaded.device), loaded.teacher, loaded.discriminator, loaded.data, config, out, loaded.parser,
        resume=resume, sources=sources, plan=plan and ChannelPlan.load(plan), overwrite=overwrite,
    )  # fmt: skip
    return RunFolder(out).student


def _absolute(path: Path | None) -> str | None:
    """Return the absolute path, which resumes from any folder; the name of an embedded generator stays as it is."""
    return None if path is None else str(path) if assets.embedded(path) else str(path.resolve())
