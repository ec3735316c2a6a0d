"""Inputs of a command: networks, images and content by path, with the embedded faces where no path is given."""

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
from .distill import DistillConfig, RunFolder, distill
from .models import AnyDiscriminator, AnyGenerator
from .pruning.plan import ChannelPlan


def open_device(name: str) -> torch.device:
    """ "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N"; without N each process of ``torchrun`` has its own.

    Raises:
        CagcError: no such device, or it cannot be used.
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
    """Where a command runs."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def open_device(self) -> torch.device:
        """See :func:`open_device`."""
        return open_device(self.device)


@dataclass(frozen=True, kw_only=True)
class KeyOption:
    """Which network of a checkpoint is meant."""

    key: str | None = None
    """Network of a checkpoint that holds several, as the refusal of such a file lists them."""


@dataclass(frozen=True, kw_only=True)
class TeacherOptions(KeyOption, DeviceOption):
    """The generator that a command is about, and where it runs."""

    teacher: Path | None = None
    """Checkpoint; the embedded face generator if left out."""

    def load_teacher(self) -> tuple[AnyGenerator, Checkpoint]:
        """See :func:`load_teacher`."""
        return load_teacher(self.teacher, self.open_device(), self.key)


@dataclass(frozen=True, kw_only=True)
class ContentOptions:
    """Which pixels count."""

    content: str | None = None
    """What counts as content: faces, everything, BiSeNet weights, or a folder or zip of masks named by seed. If left
    out: the recipe's, else faces; for cagc project everything."""
    classes: tuple[str, ...] = ()
    """Class names that count as content, for parsers that have them; of faces: person and face, or face alone."""

    def load_parser(self, device: torch.device | str, otherwise: str = "faces") -> content.ContentParser:
        """The content parser on ``device``; that of ``otherwise`` where no content is given."""
        return content.load(self.content or otherwise, self.classes or None, device)


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What is done to real images."""

    convert_images: bool = False
    """Centre-crop images that are not square and turn other modes into RGB, instead of refusing them."""


@dataclass(frozen=True, kw_only=True)
class Inputs(TeacherOptions, ContentOptions, ImageOptions):
    """What a run reads, by path; the embedded faces stand in for a teacher, and with it for its data, that is not
    given. A teacher for distillation has its discriminator beside it."""

    data: Path | None = None
    """Folder or zip of real images; the embedded faces if --teacher is left out too."""

    def load(self, need_data: bool = True) -> LoadedInputs:
        """Open everything.

        Raises:
            CagcError: something is missing or unusable, or ``need_data`` and no images were given for a teacher of
            one's own.
        """
        teacher, checkpoint = self.load_teacher()
        device = teacher.w_avg.device
        # Only training, which also needs data, uses the discriminator: one that cannot be read hinders nothing else.
        discriminator = checkpoint.d if need_data else None
        path = self.data
        if path is None and self.teacher is None:
            path = assets.faces64() / "images.zip"
        if path is None and need_data:
            raise CagcError("data: got none, expected a folder or zip of real images to go with the teacher")
        parser = self.load_parser(device)
        resolution = teacher.img_resolution
        data = None if path is None else ImageDataset(path, resolution, convert=self.convert_images)
        return LoadedInputs(device, teacher, discriminator, data, parser)

    def inputs(self) -> Inputs:
        """These options alone, without those that a subclass adds."""
        return Inputs(**{field.name: getattr(self, field.name) for field in fields(Inputs)})

    def to_dict(self) -> dict[str, Any]:
        """As JSON containers, with absolute paths, so that a run can be taken up from any folder."""
        paths = {name: _absolute(getattr(self, name)) for name in ("teacher", "data")}
        spec = self.content or "faces"
        spec = _absolute(Path(spec)) if Path(spec).exists() else spec
        return asdict(self) | paths | {"content": spec, "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> Inputs:
        """The inverse of :meth:`to_dict`."""
        paths = {name: Path(options[name]) if options[name] else None for name in ("teacher", "data")}
        return cls(**options | paths | {"classes": tuple(options["classes"])})


@dataclass(frozen=True)
class LoadedInputs:
    """:class:`Inputs`, opened; ``data`` is None if none was given, ``discriminator`` where the checkpoint has none or
    without ``need_data``."""

    device: torch.device
    teacher: AnyGenerator
    discriminator: AnyDiscriminator | None
    data: ImageDataset | None
    parser: content.ContentParser


def load_teacher(
    path: Path | None, device: torch.device | str = "cpu", key: str | None = None
) -> tuple[AnyGenerator, Checkpoint]:
    """The generator of a checkpoint, and the checkpoint for what else is in it; of the embedded face teacher for None.

    ``key`` as in :func:`load_checkpoint`.

    Raises:
        CagcError: the checkpoint cannot be read or holds no generator.
    """
    checkpoint = load_checkpoint(path or "faces64", device, key)
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
    """Distil the checkpoint ``student``, pruned by ``plan``, in the new run folder ``out``; return the path of the
    trained student."""
    sources = {"student": _absolute(student), "plan": _absolute(plan), **inputs.to_dict()}
    return _distill(
        load_generator(student), inputs, config, out, resume=False, sources=sources, plan=plan, overwrite=overwrite
    )


def resume_distill_run(out: Path) -> Path:
    """Go on with the interrupted run in ``out``, with the inputs and settings that it was started with.

    Raises:
        CagcError: there is no run in ``out``, it was not started from the command line, or an input has gone.
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
    return None if path is None else str(assets.checkpoint(path).resolve())
