"""Output of commands on standard error: phases with time and progress, warnings, and errors in one line.

Text is never parsed as rich's markup, because file names and messages may contain brackets; use ``style=``.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from rich import progress
from rich.console import Console

from .callbacks import Progress, Track


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0").strip() in ("", "0")


def plain_console(**options: Any) -> Console:
    """Return a rich console that prints text without interpreting markup."""
    return Console(markup=False, emoji=False, highlight=False, **options)


console = plain_console(stderr=True, quiet=not _is_first_process())
"""Shows progress and remarks of the first process. Results that a program may read go to standard output instead."""


@contextmanager
def phase(title: str) -> Iterator[Track]:
    """Print the title of a phase, yield a :data:`Track` for its progress bars, and print the seconds it took."""
    start = time.perf_counter()
    console.print(title, style="bold")
    columns = (
        progress.TextColumn("  {task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def track(task: str) -> Progress:
            bar = bars.add_task(task, total=None)
            return lambda done, total: bars.update(bar, completed=done, total=total, visible=done < total)

        yield track
    console.print(f"  {time.perf_counter() - start:.1f} s", style="dim")


class _StandardError(io.TextIOBase):
    """Wraps standard error so that the command continues, without output, when the reader of the pipe is gone."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def _attempt(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            function(*arguments)
        except OSError:
            # The buffer still holds text, which would fail again when the interpreter closes the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        return self._stream.encoding


@contextmanager
def command_streams() -> Iterator[None]:
    """Make standard output and standard error usable in any state that the shell left them in.

    A closed stream discards its text, a closed pipe behind standard error does not stop the command, and characters
    that the locale cannot encode are written as escapes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file opened would get its number and become standard output or error
            os.open(os.devnull, os.O_RDWR)
    outputs = sys.stdout, sys.stderr
    stdout, stderr = (stream or open(os.devnull, "w", encoding="utf-8") for stream in outputs)
    for stream in (stdout, stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = stdout, _StandardError(stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = outputs


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn exceptions into one line on standard error and an exit status.

    The status is 2 for input that cannot be used, and 128 + the signal's number after an interruption.
    ``CAGC_DEBUG=1`` raises errors instead.
    """
    try:
        yield
    except KeyboardInterrupt as interruption:
        console.print(str(interruption) or "interrupted", soft_wrap=True)
        raise SystemExit(128 + getattr(interruption, "signal", signal.SIGINT)) from None
    except BrokenPipeError:
        # The reader of standard output, such as `head`, has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except (ValueError, OSError) as error:
        if os.environ.get("CAGC_DEBUG"):
            raise
        fail(str(error))


def show_warning(message: Any, category: Any = None, *_: Any) -> None:
    """Print a warning on one line; replaces ``warnings.showwarning``."""
    console.print(f"warning: {' '.join(str(message).split())}", soft_wrap=True)


@contextmanager
def shown_warnings() -> Iterator[None]:
    """Print all warnings by :func:`show_warning` inside the block."""
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        yield


@contextmanager
def option_errors() -> Iterator[None]:
    """Remove tyro's internal name "__tyro-dummy-inner__." from its error texts, and keep their frames aligned."""
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            yield
    finally:
        wrapper = "__tyro-dummy-inner__."
        framed = f"\\1{' ' * len(wrapper)}\\2"
        sys.stderr.write(re.sub(f"{wrapper}(.*?)(│?)$", framed, printed.getvalue(), flags=re.MULTILINE))


def fail(message: str) -> None:
    """Print ``error: message`` as one line and exit with status 2."""
    where = "" if _is_first_process() else f" (rank {os.environ['RANK']})"
    print(f"error{where}: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)
