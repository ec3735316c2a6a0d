"""Distillation as a whole: checks, the run folder, the training loop, and resuming."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from cagc_kernels import without_packing

from .. import content
from ..checkpoints import Checkpoint, save_checkpoint, save_generator
from ..common import distributed
from ..common.errors import CagcError
from ..data.dataset import ImageDataset
from ..data.stream import ImageStream
from ..models import AnyDiscriminator, AnyGenerator
from ..pruning.plan import ChannelPlan
from .augment import Augment
from .checks import check_fit, identity, new_discriminator
from .config import DistillConfig
from .evaluation import StudentEvaluation, peak_memory
from .memory import estimate
from .progress import Averages, ProgressCallback, Reporter, TensorBoard, pair_grid, write_png
from .state import RunFolder
from .teachers import LiveTeacher, RecordedTeacher, Teacher
from .trainer import Trainer
from .update import NonFiniteLoss

# "auto" augments smaller sets of images; from 100,000 on it does more harm than good (Karras et al., NeurIPS 2020).
_SMALL_SET = 30_000


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C or SIGTERM and saved; the message says how to resume. ``signal``: its number."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = number


def distill(
    student: AnyGenerator,
    teacher: AnyGenerator | Teacher,
    discriminator: AnyDiscriminator | None,
    data: ImageDataset | RecordedTeacher | None,
    config: DistillConfig,
    out_dir: str | Path,
    parser: content.ContentParser | None = None,
    resume: bool = False,
    progress: bool | ProgressCallback = True,
    overwrite: bool = False,
    sources: dict[str, Any] | None = None,
    plan: ChannelPlan | None = None,
) -> AnyGenerator:
    """Train ``student`` to draw what ``teacher`` draws, and return its averaged weights, frozen.

    The folder gets ``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``samples/`` (teacher beside student),
    ``tensorboard/``, and at the end ``student.safetensors`` and, if there is a discriminator,
    ``discriminator.safetensors``. On the CPU a resumed run ends with exactly the weights of an uninterrupted one.

    Under ``torchrun`` (within :func:`cagc.common.distributed.process_group`) the processes divide each batch, and the
    first one writes. All processes need the same arguments; the weights equal those of one process up to rounding.

    Args:
        student: the generator to start from; not changed. Training runs on its device.
        teacher: a generator with the student's latents and resolution, or recorded images.
        discriminator: the discriminator to start from, not changed; None, or ``config.discriminator`` "new": a new one
            as wide as the teacher.
        data: real images at the student's resolution; unused and may be None if ``config.gan_weight`` is 0.
        config: settings.
        out_dir: folder of the run.
        parser: restricts the distance to the teacher to the content; None: everything.
        resume: continue from the newest intact checkpoint in ``out_dir``; ``config.steps`` may be larger than before.
        progress: True: bar or lines on stderr; False: nothing; or a function of (step, steps, losses).
        overwrite: replace an earlier run in ``out_dir``.
        sources: JSON containers to store in ``config.json``, such as the paths of the inputs; unused when resuming.
        plan: the plan that the student was pruned by, needed with ``config.feature_weight``.

    Raises:
        CagcError: the arguments do not match each other, the processes differ, or the folder cannot be used (before any
            training); a loss became NaN or infinite, or a file cannot be written (the last checkpoint is kept).
        Interrupted: Ctrl-C or SIGTERM was received; the step and its checkpoint are complete.
    """

    def prepare() -> tuple[_Run, dict[str, Any]]:
        return _prepare(student, teacher, discriminator, data, config, RunFolder(out_dir), parser, plan)

    run, what = distributed.together(prepare)
    distributed.agree("distill", what | config.to_dict() | {"out_dir": str(out_dir), "resume": resume})
    with run.locked(create=not resume):
        if resume:
            run.resume(what)
        else:
            run.start(what, overwrite, sources)
        run.loop(progress)
        return run.finish(what)


def _prepare(
    student: AnyGenerator,
    teacher: AnyGenerator | Teacher,
    discriminator: AnyDiscriminator | None,
    data: ImageDataset | RecordedTeacher | None,
    config: DistillConfig,
    folder: RunFolder,
    parser: content.ContentParser | None,
    plan: ChannelPlan | None,
) -> tuple[_Run, dict[str, Any]]:
    if config.discriminator == "new":
        discriminator = None
    parser = parser if parser is None or isinstance(parser, content.ContentParser) else content.load(parser)
    if isinstance(teacher, torch.nn.Module):
        teacher = LiveTeacher(teacher, getattr(parser, "seeds", None))
    check_fit(student, teacher, discriminator, data, config)
    if plan is not None and plan.channels() != student.config.channels:
        raise CagcError(f"plan: got widths {plan.channels()}, expected the student's {student.config.channels}")
    what = identity(student, teacher, discriminator, data, config, parser)
    stream = augment = None
    if config.gan_weight:
        if config.augment == "ada" or (config.augment == "auto" and len(data) < _SMALL_SET):
            augment = Augment(config.augment_target)
        if discriminator is None:
            discriminator = new_discriminator(student, teacher, config.seed)
        c_dim = discriminator.config.c_dim
        labels = data.labels(c_dim) if c_dim else None
        stream = ImageStream(data, config.batch_size, config.seed, config.flip, labels)
    trainer = Trainer(student, teacher, discriminator, config, parser, None, augment, plan.kept if plan else None)
    if stream is not None:
        stream.sampler.numbers = trainer.layout.numbers
    return _Run(trainer, stream, folder, config, StudentEvaluation(trainer, data, config, parser)), what


class _Run:
    """A trainer with its data and its run folder."""

    def __init__(
        self,
        trainer: Trainer,
        stream: ImageStream | None,
        folder: RunFolder,
        config: DistillConfig,
        evaluation: StudentEvaluation,
    ) -> None:
        self.trainer, self.stream, self.folder, self.config = trainer, stream, folder, config
        self.evaluation = evaluation
        self.averages = Averages()
        self.board: TensorBoard | None = None
        self.processes = distributed.world_size()

    @contextmanager
    def locked(self, create: bool) -> Iterator[None]:
        """Lock the folder against other runs."""
        with ExitStack() as stack:
            self._write(lambda: stack.enter_context(self.folder.locked(create)))
            yield

    def start(self, what: dict[str, Any], overwrite: bool, sources: dict[str, Any] | None) -> None:
        """Start a new run in the folder."""
        self._write(lambda: self.folder.create(what, self.config.to_dict(), overwrite, sources))
        self.save()

    def resume(self, what: dict[str, Any]) -> None:
        """Resume the run in the folder."""

        def restore() -> None:
            self.folder.open(what, self.config.to_dict())
            if not self.folder.checkpoints():  # killed before the first one
                self.folder.save(self.trainer.step, self.state())
            self.folder.restore(self.load)
            self.folder.trim_log(self.trainer.step)

        self._write(restore)
        if distributed.world_size() > 1:
            state = distributed.from_main(self.state)
            if not distributed.is_main():
                self.load(state)
        if distributed.is_main() and self.processes != distributed.world_size():
            warnings.warn(
                f"resume: the run was saved by {self.processes} processes and goes on in {distributed.world_size()}: "
                "the same batches, their gradients summed in another order",
                stacklevel=2,
            )

    def _write(self, function: Any) -> None:
        """Call ``function`` in the main process; if it raises, every process does."""
        distributed.together(lambda: function() if distributed.is_main() else None)

    def state(self) -> dict[str, Any]:
        """State that the rest of the run depends on, for a checkpoint."""
        return {
            "trainer": self.trainer.state_dict(),
            "data": None if self.stream is None else self.stream.state_dict(),
            "averages": self.averages.state_dict(),
            "processes": distributed.world_size(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state["trainer"])
        if self.stream is not None:
            self.stream.load_state_dict(state["data"])
        self.averages.load_state_dict(state["averages"], self.trainer.device)
        self.processes = state["processes"]

    def save(self) -> None:
        """Write a checkpoint, after checking that all processes have the same finite weights."""
        if not self.trainer.is_finite():
            raise NonFiniteLoss(f"a weight became NaN or infinite at step {self.trainer.step}")
        distributed.agree(f"weights at step {self.trainer.step}", self.trainer.checksums())
        self._write(lambda: self.folder.save(self.trainer.step, self.state()))

    def loop(self, progress: bool | ProgressCallback) -> None:
        """Train up to the last step, or until interrupted."""
        start, steps = self.trainer.step, self.config.steps
        main = distributed.is_main()
        if self.config.tensorboard and start < steps and main:
            self.board = self._open_board(start)
        if progress is True and main and start < steps:
            self._announce()
        reporter = Reporter(progress if main else False, steps, start, self.config.batch_size)
        try:
            with self._keeping(), without_packing(), reporter, _interruption() as received:
                self._steps(reporter, received)
        finally:
            if self.board is not None:
                self.board.close()

    def _open_board(self, start: int) -> TensorBoard | None:
        try:
            str(self.folder.tensorboard).encode()
        except UnicodeEncodeError:
            warnings.warn("tensorboard: the name of the folder is not UTF-8, which it cannot write to", stacklevel=2)
            return None
        return TensorBoard(self.folder.tensorboard, start)

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Add to the message of an error that ends the run which checkpoint is kept."""
        try:
            yield
        except (CagcError, OSError) as error:
            reason = error if isinstance(error, CagcError) else f"cannot write: {error}"
            kind = NonFiniteLoss if isinstance(error, NonFiniteLoss) else CagcError
            raise kind(f"{reason}; {self._kept()}") from None

    def _kept(self) -> str:
        """Say from which checkpoint an ended run can be resumed."""
        path = self.folder.path
        if not path.is_dir():
            return f"the folder of the run, {path}, was removed, and nothing of the run is left in it"
        if not self.folder.checkpoints():
            return f"no checkpoint is left in {path}"
        return f"the checkpoint of step {self.folder.last_step()} is kept in {path}"

    def _announce(self) -> None:
        """Print how much memory a step needs, and warn if the GPU has less."""
        expected, device = estimate(self.trainer), self.trainer.device
        if expected is None:
            return
        print(f"distill: {expected.describe()}", file=sys.stderr, flush=True)
        if device.type == "cuda" and expected.total > torch.cuda.get_device_properties(device).total_memory:
            warnings.warn("the GPU has less; a smaller micro_batch needs less memory", stacklevel=2)

    def _steps(self, reporter: Reporter, received: list[int]) -> None:
        trainer, config, clock = self.trainer, self.config, self.trainer.clock
        while trainer.step < config.steps:
            with clock("data"):
                draws = trainer.draw()
            for number in range(config.d_steps - 1 if self.stream is not None else 0):
                real, labels = self._real()
                trainer.lead(real, number, labels)
            real, labels = self._real() if self.stream is not None else (None, None)
            self.averages.add(trainer.iteration(real, draws, labels).values())
            step, last = trainer.step, trainer.step == config.steps
            reporter.update(step, self.averages.values)
            stop = distributed.any_true(bool(received))
            with clock("files"):
                if step % config.log_every == 0 or last:
                    self._log(step, reporter)
                if config.sample_every and (step % config.sample_every == 0 or last) and distributed.is_main():
                    self._sample(step)
                if step % config.checkpoint_every == 0 or last or stop:
                    self.save()
            if config.evaluate_every and (step % config.evaluate_every == 0 or last):
                with clock("evaluation"):
                    self._evaluate(step)
            if stop and not last:
                raise Interrupted(
                    f"stopped at step {step} of {config.steps}; go on with `--resume --out {self.folder.path}`",
                    received[0] if received else signal.SIGTERM,
                )

    def _real(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Real images and their labels."""
        with self.trainer.clock("data"):
            images, labels = self.stream.take()
            return images.to(self.trainer.device), None if labels is None else labels.to(self.trainer.device)

    def _log(self, step: int, reporter: Reporter) -> None:
        rate = self.trainer.g_optimizer.param_groups[0]["lr"]
        losses = self.averages.values()
        self.averages.clear()
        if not distributed.is_main():
            return
        speed, shares = reporter.speed(step), reporter.shares(self.trainer.clock.take())
        record = {"step": step, "images": step * self.config.batch_size, **losses, "learning_rate": rate}
        record |= {"images_per_second": round(speed, 2)} | {f"time_{k}": round(v, 4) for k, v in shares.items()}
        self._record(record | {"peak_memory_mb": peak_memory(self.trainer.device) >> 20})

    def _record(self, record: dict[str, Any]) -> None:
        self.folder.log(record)
        if self.board is not None:
            self.board.scalars(record["step"], record)

    def _evaluate(self, step: int) -> None:
        """Evaluate the averaged student and log the figures. A failure is a warning and does not stop the training."""
        try:
            figures = self.evaluation()
        except Exception as error:  # an evaluation of any kind must not end the training
            if distributed.is_main():
                warnings.warn(f"evaluation at step {step} failed: {' '.join(str(error).split())}", stacklevel=2)
        else:
            if distributed.is_main():
                self._record({"step": step} | figures)

    @torch.no_grad()
    def _sample(self, step: int) -> None:
        trainer, config = self.trainer, self.config
        latents = trainer.teacher.sample_latents(config.samples, trainer.device)
        expected = trainer.teacher.rgbs(latents, truncation=config.sample_truncation)[-1]
        drawn = trainer.g_ema.synthesis(latents.ws(trainer.g_ema, config.sample_truncation), latents.noise)
        pixels = pair_grid(expected, drawn)
        write_png(self.folder.samples / f"step-{step:09d}.png", pixels)
        if self.board is not None:
            self.board.image(step, pixels)

    def finish(self, what: dict[str, Any]) -> AnyGenerator:
        """Write the averaged student, and the discriminator for further training."""
        average = self.trainer.g_ema
        if any(p.requires_grad for p in self.trainer.g.mapping.parameters()):
            average.estimate_w_avg()
        metadata = {"distillation": what, "steps": self.trainer.step}

        def write() -> None:
            if self.trainer.d is not None:
                save_checkpoint(self.folder.discriminator, Checkpoint(d=self.trainer.d, metadata=metadata))
            save_generator(average, self.folder.student, metadata)

        with self._keeping():
            self._write(write)
        return average


@contextmanager
def _interruption() -> Iterator[list[int]]:
    """Yield a list to which the first Ctrl-C or SIGTERM appends its number; a second one interrupts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        restore()
