"""The run folder: identity and settings, checkpoints, and log. Files are written atomically."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..common.documents import write_json
from ..common.errors import CagcError
from ..common.files import atomic_write, holds_files, locked, remove_leftovers
from ..common.fingerprint import fingerprint
from ..common.reading import parse_json, read_json
from ..common.torch_files import load_plain

_OWN_FOLDERS = ("checkpoints", "samples", "tensorboard")
_KEPT_CHECKPOINTS = 2


class RunFolder:
    """Has ``config.json``, ``checkpoints/step-*.pt`` (the last two), ``metrics.jsonl``, ``samples/``, ``tensorboard/``.

    At the end there are also ``student.safetensors`` and, where there is one, ``discriminator.safetensors``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.samples = self.path / "samples"
        self.tensorboard = self.path / "tensorboard"
        self.student = self.path / "student.safetensors"
        self.discriminator = self.path / "discriminator.safetensors"
        self._config = self.path / "config.json"
        self._checkpoints = self.path / "checkpoints"
        self._metrics = self.path / "metrics.jsonl"

    @contextmanager
    def locked(self, create: bool) -> Iterator[None]:
        """Lock the folder against other processes; with ``create`` it is created first.

        Raises:
            CagcError: another process uses the folder, it is a file, or it does not exist or cannot be created.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CagcError(f"out_dir: {self.path} is a file, expected a folder")
        if create:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CagcError(f"out_dir: {self.path} cannot be created: {error}") from error
        elif not self.path.is_dir():
            raise CagcError(f"resume: {self.path} holds no run (no config.json)")
        with locked(self.path):
            yield

    def create(
        self,
        identity: dict[str, Any],
        settings: dict[str, Any],
        overwrite: bool = False,
        sources: dict[str, Any] | None = None,
    ) -> None:
        """Start a new run. ``overwrite`` deletes an earlier run in the folder, but no other files.

        The folder of a run that was killed before its first checkpoint is reused, as there is nothing to resume.

        Raises:
            CagcError: the folder holds something else, without ``overwrite``; or it cannot be written to.
        """
        if not overwrite and holds_files(self.path, [self._config.name]):
            raise CagcError(
                f"out_dir: {self.path} is not empty; resume the run in it, or overwrite it (--resume, --overwrite)"
            )
        self._remove_run()
        self._make_folders()
        write_json(self._config, {"identity": identity, "settings": settings, "sources": sources or {}})

    def _make_folders(self) -> None:
        try:
            for folder in (self._checkpoints, self.samples):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CagcError(f"out_dir: {self.path} cannot be created: {error}") from error

    def _remove_run(self) -> None:
        """Remove all files of the run but ``config.json``, which the caller replaces last."""
        for name in _OWN_FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for path in (self.student, self.discriminator, self._metrics):
            path.unlink(missing_ok=True)
        remove_leftovers(self.path)

    def open(self, identity: dict[str, Any], settings: dict[str, Any]) -> None:
        """Resume the run in the folder, with those ``settings`` that may change when resuming.

        Raises:
            CagcError: there is no run in the folder, or its student, teacher, data set or settings differ.
        """
        document = self.config()
        before = document["identity"]
        now = json.loads(json.dumps(identity))
        for name in sorted(set(before) | set(now)):
            if before.get(name) != now.get(name):
                raise CagcError(
                    f"resume: the run in {self.path} has {name} = {before.get(name)!r}, this one has {now.get(name)!r}"
                )
        self._make_folders()
        for folder in (self.path, self._checkpoints, self.samples):
            remove_leftovers(folder)
        write_json(self._config, document | {"settings": settings})

    def config(self) -> dict[str, Any]:
        """``config.json``: "identity", "settings", and "sources", the caller's record of the inputs' origin.

        Raises:
            CagcError: there is no run in the folder.
        """
        try:
            document = read_json(self._config)
            return {name: dict(document[name]) for name in ("identity", "settings", "sources")}
        except FileNotFoundError:
            raise CagcError(f"resume: {self.path} holds no run (no config.json)") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CagcError(f"resume: {self._config} cannot be read: {error}") from error

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the checkpoint of ``step`` with a checksum of its content, and delete all but the last two."""
        path, buffer = self._checkpoints / f"step-{step:09d}.pt", io.BytesIO()
        # torch.save to a file raises an internal error when the disk is full; writing bytes raises OSError.
        torch.save(state | {"checksum": fingerprint(state)}, buffer)
        with atomic_write(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        for old in self.checkpoints()[:-_KEPT_CHECKPOINTS]:
            old.unlink(missing_ok=True)
        return path

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        return sorted(self._checkpoints.glob("step-*.pt"))

    def last_step(self) -> int:
        """Step of the newest checkpoint."""
        return int(self.checkpoints()[-1].stem.removeprefix("step-"))

    def restore(self, load: Callable[[dict[str, Any]], None]) -> Path:
        """Pass the newest intact checkpoint to ``load``; damaged ones are deleted with a warning.

        Raises:
            CagcError: there is no intact checkpoint.
        """
        damaged = []
        for path in reversed(self.checkpoints()):
            try:
                load(_read(path))
            except Exception as error:  # a damaged file can fail anywhere in the unpickler or on a missing entry
                reason = " ".join(str(error).split())[:160] or type(error).__name__
                warnings.warn(
                    f"resume: checkpoint {path.name} is damaged ({reason}); trying the one before", stacklevel=2
                )
                damaged.append(path)
                continue
            for other in damaged:
                other.unlink(missing_ok=True)
            return path
        found = f"all {len(damaged)} checkpoints are damaged" if damaged else "it holds no checkpoint"
        raise CagcError(f"resume: nothing to go on from in {self.path}: {found}")

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with self._metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def trim_log(self, step: int) -> None:
        """Delete records after ``step``, which a resumed run writes again, and an incomplete last line."""
        if self._metrics.exists():
            kept = [line for line in self._lines() if _step_of(line) <= step]
            with atomic_write(self._metrics) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept))

    def metrics(self) -> list[dict[str, Any]]:
        """Records of ``metrics.jsonl``."""
        lines = self._lines() if self._metrics.exists() else []
        return [json.loads(line) for line in lines if _step_of(line) < float("inf")]

    def _lines(self) -> list[str]:
        return self._metrics.read_text(encoding="utf-8", errors="replace").splitlines()


def _step_of(line: str) -> float:
    try:
        step = parse_json(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
    return step if type(step) in (int, float) else float("inf")


def _read(path: Path) -> dict[str, Any]:
    # The zip checksums do not detect a file that was rewritten with other content; this checksum does.
    state = load_plain(path)
    if state.pop("checksum", None) != fingerprint(state):
        raise ValueError("the checksum of its content does not match")
    return state
