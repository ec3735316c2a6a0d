"""What a person sees of a command: phases with time and progress, on a terminal or in a log."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from rich import progress
from rich.console import Console

from .callbacks import Progress, Track

_RANK = int(os.environ.get("RANK", 0))

console = Console(stderr=True, highlight=False, quiet=_RANK > 0)
"""Progress and remarks, of the first of several processes; results that another program may read go to standard
output."""


@contextmanager
def phase(title: str) -> Iterator[Track]:
    """Announce a phase, yield ``track(task) → callback(done, total)`` for its bars, close with the seconds it took."""
    start = time.perf_counter()
    console.print(f"[bold]{title}[/bold]")
    columns = (
        progress.TextColumn("  {task.description}"),
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
    console.print(f"  [dim]{time.perf_counter() - start:.1f} s[/dim]")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Let a command end as a shell expects: input that cannot be used is one line on standard error and exit status 2,
    an interruption one line and 128 + the signal's number. ``CAGC_DEBUG=1`` lets errors through."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        console.print(str(interruption) or "interrupted", soft_wrap=True)
        raise SystemExit(128 + getattr(interruption, "signal", signal.SIGINT)) from None
    except (ValueError, OSError) as error:
        if os.environ.get("CAGC_DEBUG"):
            raise
        fail(str(error))


@contextmanager
def option_errors() -> Iterator[None]:
    """Drop tyro's name for the choice of a command, "__tyro-dummy-inner__.", from what it says of a group of options,
    and keep the frame around it straight."""
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
    where = f" (rank {_RANK})" if _RANK else ""
    print(f"error{where}: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)
