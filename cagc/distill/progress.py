"""Progress output of a run: a bar on a terminal or plain lines elsewhere, TensorBoard, and averages for the log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from ..common.console import plain_console
from ..common.files import atomic_write
from ..common.rgb import shown

ProgressCallback = Callable[[int, int, dict[str, float]], None]

_SECONDS_BETWEEN_LINES = 10.0
_SHOWN = ("rgb", "perceptual", "generator", "discriminator")


class Reporter:
    """Reports steps done, losses, speed and time left.

    Args:
        progress: True for a bar (plain lines if the output is not a terminal), False for no output, or a function that
            is called as ``progress(step, steps, losses)`` instead.
        steps: number of steps of the whole run.
        start: first step of this process.
        batch_size: images per step, for the speed.
    """

    def __init__(self, progress: bool | ProgressCallback, steps: int, start: int, batch_size: int) -> None:
        self._callback = progress if callable(progress) else None
        self._steps, self._start, self._batch_size = steps, start, batch_size
        self._began = self._spoke = self._shared = time.monotonic()
        self._shares = ""
        console = plain_console(stderr=True)
        self._plain = progress is True and not console.is_terminal
        self._bar: Progress | None = None
        if progress is True and console.is_terminal:
            losses = TextColumn("{task.fields[losses]}", markup=False)
            timing = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
            self._bar = Progress(
                TextColumn("distill"), BarColumn(), MofNCompleteColumn(), losses, *timing, console=console
            )
            self._task = self._bar.add_task("distill", total=steps, completed=start, losses="")

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def speed(self, step: int) -> float:
        """Images per second since this process started."""
        return (step - self._start) * self._batch_size / max(time.monotonic() - self._began, 1e-9)

    def shares(self, seconds: dict[str, float]) -> dict[str, float]:
        """Share of each phase, which took ``seconds``, in the time since the last call; the rest is "other"."""
        now = time.monotonic()
        passed, self._shared = max(now - self._shared, 1e-9), now
        shares = {name: value / passed for name, value in seconds.items()}
        shares["other"] = max(0.0, 1 - sum(shares.values()))
        self._shares = "  (" + ", ".join(f"{name} {100 * value:.0f}%" for name, value in shares.items()) + ")"
        return shares

    def update(self, step: int, losses: Callable[[], dict[str, float]]) -> None:
        """Report that ``step`` steps are done; ``losses`` is called only when something is shown."""
        if self._callback is not None:
            self._callback(step, self._steps, losses())
            return
        now = time.monotonic()
        if self._bar is not None:
            if now - self._spoke > 0.5 or step == self._steps:
                self._spoke = now
                self._bar.update(self._task, completed=step, losses=_brief(losses()))
        elif self._plain and (now - self._spoke > _SECONDS_BETWEEN_LINES or step == self._steps):
            self._spoke = now
            left = (self._steps - step) * (now - self._began) / (step - self._start)
            speed = f"{self.speed(step):.1f} images/s"
            line = f"distill: step {step}/{self._steps}  {_brief(losses())}  {speed}{self._shares}  {_clock(left)} left"
            print(line, file=sys.stderr, flush=True)


def _brief(losses: dict[str, float]) -> str:
    return "  ".join(f"{name} {losses[name]:.3f}" for name in _SHOWN if name in losses)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class Averages:
    """Means of losses and statistics since the last :meth:`clear`, each over the steps in which it occurred.

    Values stay on the device until :meth:`values` is called.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Count the scalars of one step."""
        for name, value in values.items():
            total, count = self._sums.get(name, (torch.zeros_like(value), 0))
            self._sums[name] = total + value, count + 1

    def state_dict(self) -> dict[str, tuple[Tensor, int]]:
        """Sums so far, each with its number of steps, for a checkpoint."""
        return dict(self._sums)

    def load_state_dict(self, state: dict[str, tuple[Tensor, int]], device: torch.device) -> None:
        """Continue from :meth:`state_dict`."""
        self._sums = {name: (total.to(device), count) for name, (total, count) in state.items()}

    def values(self) -> dict[str, float]:
        """Name → mean."""
        return {name: (total / count).item() for name, (total, count) in self._sums.items()}


class TensorBoard:
    """Writes scalars and sample grids to ``path``. A resumed run replaces entries after ``step``."""

    def __init__(self, path: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(path), purge_step=step + 1)

    def scalars(self, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)

    def image(self, step: int, pixels: np.ndarray) -> None:
        self._writer.add_image("teacher | student", pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


def pair_grid(left: Tensor, right: Tensor) -> np.ndarray:
    """uint8 [H, W, 3]: images [N, C, h, w] in [-1, 1] in a grid of pairs, ``left`` beside ``right``."""
    pairs = shown(torch.cat([left, right], dim=3)).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).cpu()
    n, _, height, width = pairs.shape
    columns = max(1, round(math.sqrt(n / 2)))
    rows = -(-n // columns)
    grid = torch.full((rows * columns, 3, height, width), 255, dtype=torch.uint8)
    grid[:n] = pairs
    grid = grid.reshape(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    return grid.reshape(rows * height, columns * width, 3).numpy()


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 [H, W, 3] as PNG, atomically."""
    from PIL import Image

    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary)
