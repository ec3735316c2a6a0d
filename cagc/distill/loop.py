"""Distillation from start to end: checks, a run folder, the loop, and going on after an interruption."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import content
from ..checkpoints import Checkpoint, generator_hash, save_checkpoint, save_generator
from ..errors import CagcError
from ..models import Discriminator, DiscriminatorConfig, Generator
from ..models.stylegan2 import block_resolutions
from .config import DistillConfig
from .data import ImageDataset, ImageStream
from .progress import Averages, ProgressCallback, Reporter, TensorBoard, pair_grid, write_png
from .state import RunFolder
from .teachers import LiveTeacher, RecordedTeacher, Teacher
from .trainer import NonFiniteLoss, Trainer


class Interrupted(KeyboardInterrupt):
    """Ctrl-C came; the run was saved and its message tells how to go on."""


def distill(
    student: Generator,
    teacher: Generator | Teacher,
    discriminator: Discriminator | None,
    data: ImageDataset | RecordedTeacher | None,
    config: DistillConfig,
    out_dir: str | Path,
    parser: content.ContentParser | None = None,
    resume: bool = False,
    progress: bool | ProgressCallback = True,
    overwrite: bool = False,
    sources: dict[str, Any] | None = None,
) -> Generator:
    """Train ``student`` to draw what ``teacher`` draws, and return its averaged weights, frozen.

    The folder gets ``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``samples/`` (teacher beside student),
    ``tensorboard/``, and at the end ``student.safetensors`` and, if there is a discriminator,
    ``discriminator.safetensors``. On the CPU a resumed run ends with the very weights of an uninterrupted one.

    Args:
        student: the generator to begin with; not changed. Training runs on its device.
        teacher: a generator with the student's latents and resolution, or recorded images.
        discriminator: to begin with, not changed; None: a new one as wide as the teacher. ``config.discriminator``
            "new" makes it None.
        data: real images at the student's resolution; unused, and may be None, where ``config.gan_weight`` is 0.
        config: settings.
        out_dir: folder of the run.
        parser: restricts the distance to the teacher to the content; None: everything.
        resume: go on from the newest sound checkpoint in ``out_dir``; ``config.steps`` may have grown.
        progress: True: bar or lines on stderr; False: nothing; or a function of (step, steps, losses).
        overwrite: replace an earlier run in ``out_dir``.
        sources: JSON containers to keep in ``config.json``, such as the paths of the inputs; a resumed run has its own.

    Raises:
        CagcError: what came does not fit together or the folder cannot be used (before any training), or a loss became
            NaN or infinite (the last checkpoint is kept).
        Interrupted: Ctrl-C, after the step and its checkpoint were finished.
    """
    if config.discriminator == "new":
        discriminator = None
    parser = parser if parser is None or isinstance(parser, content.ContentParser) else content.load(parser)
    if isinstance(teacher, Generator):
        teacher = LiveTeacher(teacher, getattr(parser, "seeds", None))
    _check_fit(student, teacher, discriminator, data, config)
    identity = _identity(student, teacher, discriminator, data, config, parser)
    stream = ImageStream(data, config.batch_size, config.seed, config.flip) if config.gan_weight else None
    if config.gan_weight and discriminator is None:
        discriminator = _new_discriminator(student, teacher, config.seed)
    trainer = Trainer(student, teacher, discriminator, config, parser)
    folder = RunFolder(out_dir)
    run = _Run(trainer, stream, folder, config)
    if resume:
        folder.open(identity, config.to_dict())
        folder.restore(run.load)
        folder.trim_log(trainer.step)
    else:
        folder.create(identity, config.to_dict(), overwrite, sources)
        run.save()
    run.loop(progress)
    return run.finish(identity)


def _check_fit(
    student: Generator, teacher: Teacher, discriminator: Discriminator | None, data: Any, config: DistillConfig
) -> None:
    ours = student.config
    for name, got, expected in (
        ("resolution", ours.resolution, teacher.resolution),
        ("style_dim", ours.style_dim, teacher.style_dim),
    ):
        if got != expected:
            raise CagcError(f"student: got {name} {got}, expected the teacher's {expected}")
    if isinstance(teacher, LiveTeacher):
        depth = teacher.generator.config.mapping_layers
        if ours.mapping_layers != depth:
            raise CagcError(f"student: got {ours.mapping_layers} mapping layers, expected the teacher's {depth}")
        if teacher.generator.w_avg.device != student.w_avg.device:
            raise CagcError(
                f"teacher: got device {teacher.generator.w_avg.device}, expected the student's {student.w_avg.device}"
            )
    elif config.kd_mode == "intermediate" and isinstance(teacher, RecordedTeacher):
        raise CagcError("kd_mode: got 'intermediate', expected 'output' for recorded images")
    if not config.gan_weight:
        return
    if discriminator is not None and discriminator.config.resolution != ours.resolution:
        raise CagcError(f"discriminator: got resolution {discriminator.config.resolution}, expected {ours.resolution}")
    if data is None:
        raise CagcError("data: got None, expected real images with gan_weight above 0")
    if data.resolution != ours.resolution:
        raise CagcError(f"data: got resolution {data.resolution}, expected the student's {ours.resolution}")


def _identity(
    student: Generator,
    teacher: Teacher,
    discriminator: Discriminator | None,
    data: Any,
    config: DistillConfig,
    parser: Any,
) -> dict[str, Any]:
    identity = {
        "student": generator_hash(student),
        "teacher": teacher.fingerprint,
        "content": None if parser is None else parser.name,
        **config.identity(),
    }
    if config.gan_weight:
        identity["discriminator"] = "new" if discriminator is None else generator_hash(discriminator)
        identity["data"] = _describe(data)
    return identity


def _describe(data: Any) -> str:
    if isinstance(data, RecordedTeacher):
        return data.fingerprint
    names = hashlib.sha256("\n".join(getattr(data, "names", ())).encode()).hexdigest()
    return f"{len(data)} images, names {names[:16]}"


def _new_discriminator(student: Generator, teacher: Teacher, seed: int) -> Discriminator:
    source = teacher.generator if isinstance(teacher, LiveTeacher) else student
    widths = source.config.channels
    config = DiscriminatorConfig(
        source.config.resolution, {r: widths[f"b{r}.conv1"] for r in block_resolutions(source.config.resolution)}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Discriminator(config)


class _Run:
    """A trainer with its data, in its folder."""

    def __init__(self, trainer: Trainer, stream: ImageStream | None, folder: RunFolder, config: DistillConfig) -> None:
        self.trainer, self.stream, self.folder, self.config = trainer, stream, folder, config
        self.saved = -1

    def save(self) -> None:
        if not self.trainer.is_finite():
            raise NonFiniteLoss(f"a weight is no finite number at step {self.trainer.step}")
        data = None if self.stream is None else self.stream.state_dict()
        self.folder.save(self.trainer.step, {"trainer": self.trainer.state_dict(), "data": data})
        self.saved = self.trainer.step

    def load(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state["trainer"])
        if self.stream is not None:
            self.stream.load_state_dict(state["data"])
        self.saved = self.trainer.step

    def loop(self, progress: bool | ProgressCallback) -> None:
        start, steps = self.trainer.step, self.config.steps
        board = TensorBoard(self.folder.tensorboard, start) if self.config.tensorboard and start < steps else None
        reporter = Reporter(progress, steps, start, self.config.batch_size)
        try:
            with reporter, _interruption() as interrupted:
                self._steps(reporter, board, interrupted)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"{error}; the checkpoint of step {self.saved} is kept in {self.folder.path}") from None
        finally:
            if board is not None:
                board.close()

    def _steps(self, reporter: Reporter, board: TensorBoard | None, interrupted: threading.Event) -> None:
        trainer, config, averages = self.trainer, self.config, Averages()
        while trainer.step < config.steps:
            real = next(self.stream).to(trainer.device) if self.stream is not None else None
            averages.add(trainer.iteration(real, trainer.draw()))
            step, last = trainer.step, trainer.step == config.steps
            reporter.update(step, averages.values)
            if step % config.log_every == 0 or last:
                self._log(step, averages.values(), reporter.speed(step), board)
                averages.clear()
            if config.sample_every and (step % config.sample_every == 0 or last):
                self._sample(step, board)
            if step % config.checkpoint_every == 0 or last or interrupted.is_set():
                self.save()
            if interrupted.is_set() and not last:
                raise Interrupted(
                    f"stopped at step {step} of {config.steps}; "
                    f"go on with `cagc distill --resume --out {self.folder.path}`"
                )

    def _log(self, step: int, losses: dict[str, float], speed: float, board: TensorBoard | None) -> None:
        rate = self.trainer.g_optimizer.param_groups[0]["lr"]
        record = {"step": step, "images": step * self.config.batch_size, **losses, "learning_rate": rate}
        record["images_per_second"] = round(speed, 2)
        self.folder.log(record)
        if board is not None:
            board.scalars(step, record)

    @torch.no_grad()
    def _sample(self, step: int, board: TensorBoard | None) -> None:
        trainer, config = self.trainer, self.config
        latents = trainer.teacher.sample_latents(config.samples, trainer.device)
        expected = trainer.teacher.rgbs(latents, truncation=config.sample_truncation)[-1]
        drawn = trainer.g_ema.synthesis(latents.ws(trainer.g_ema, config.sample_truncation), latents.noise)
        pixels = pair_grid(expected, drawn)
        write_png(self.folder.samples / f"step-{step:09d}.png", pixels)
        if board is not None:
            board.image(step, pixels)

    def finish(self, identity: dict[str, Any]) -> Generator:
        """Write the averaged student, and the discriminator for who wants to go on with it."""
        average = self.trainer.g_ema
        if any(p.requires_grad for p in self.trainer.g.mapping.parameters()):
            average.estimate_w_avg()
        metadata = {"distillation": identity, "steps": self.trainer.step}
        if self.trainer.d is not None:
            save_checkpoint(self.folder.discriminator, Checkpoint(d=self.trainer.d, metadata=metadata))
        save_generator(average, self.folder.student, metadata)
        return average


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
