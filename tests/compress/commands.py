"""Commands run in this process, and processes of their own that are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cagc.cli import main


def run(*args: object) -> None:
    main([str(a) for a in args])


def refused(capsys: pytest.CaptureFixture, *args: object) -> str:
    """Return the single line that a command prints when it refuses its input."""
    with pytest.raises(SystemExit) as stop:
        run(*args)
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def stop_side_by_side(
    commands: dict[signal.Signals, Sequence[object]], ready: Callable[[signal.Signals], bool]
) -> dict[signal.Signals, tuple[int, str]]:
    """Run `cagc` with each list of words, send it its signal once it is ready; exit status and standard error of each.

    Every process has one thread.
    """
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    processes = {
        how: subprocess.Popen(
            [sys.executable, "-m", "cagc", *map(str, words)], stderr=subprocess.PIPE, text=True, env=environment
        )
        for how, words in commands.items()
    }
    waiting, deadline = set(processes), time.monotonic() + 120
    try:
        while waiting:
            for how in filter(ready, tuple(waiting)):
                processes[how].send_signal(how)
                waiting.remove(how)
            assert time.monotonic() < deadline and all(processes[how].poll() is None for how in waiting)
            time.sleep(0.02)
        errors = {how: process.communicate(timeout=60)[1] for how, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    return {how: (process.returncode, errors[how]) for how, process in processes.items()}
