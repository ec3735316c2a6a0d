"""Runs a reader on a hostile file in a process of its own, with limits on time and memory."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from cagc.common.errors import CagcError

SECONDS = 20
MEMORY = 4 << 30
"""Bytes of resident memory that a reader may use; a refusal for want of memory is one that found out too late."""


def fault(read: Callable[[Path], object], path: Path) -> str | None:
    """What is wrong with how ``read`` takes the file at ``path``: None if it gives a result or a refusal in one line.

    A traceback, a signal, more than :data:`SECONDS` or more than :data:`MEMORY` are wrong.
    """
    receive, send = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if not child:
        os.close(receive)
        _child(read, path, send)
    os.close(send)
    with os.fdopen(receive, errors="replace") as stream:
        said = stream.read()
    _, status, usage = os.wait4(child, 0)
    seconds, memory = time.monotonic() - started, usage.ru_maxrss * 1024
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"{name} after {seconds:.0f} s" + (" (the limit on time)" if name == "SIGALRM" else "")
    if memory > MEMORY:
        return f"{memory >> 20} MB of memory"
    return said or None


def _child(read: Callable[[Path], object], path: Path, send: int) -> None:
    """Report a fault through the descriptor ``send``, and end the process without the parent's clean-up."""
    with os.fdopen(send, "w", errors="replace") as stream:
        try:
            torch.set_num_threads(1)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (_mapped() + MEMORY,) * 2)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            sys.stdout = sys.stderr = open(os.devnull, "w")
            try:
                read(path)
            except CagcError as error:
                message = str(error)
                if "\n" in message or path.name not in message:
                    stream.write(f"a refusal of several lines or without the file's name: {message[:300]}")
                if "more memory than there is" in message:
                    stream.write(f"found out too late: {message[:300]}")
        except BaseException:
            stream.write(traceback.format_exc()[-2000:])
        stream.flush()
        os._exit(0)


def _mapped() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
