"""Helpers for reading untrusted files: one form of error for every reader, and shared limits."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import CagcError

MAX_JSON_BYTES = 16 << 20
MAX_JSON_DEPTH = 64
MAX_INTEGER_DIGITS = 19
"""Of an integer in a JSON document: more do not fit into 64 bits."""

_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a FIFO",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def printable(name: object) -> str:
    """Return ``name`` on one line, with control characters and non-UTF-8 bytes of a path written as escapes."""
    text = os.fsencode(str(name)).decode("utf-8", "backslashreplace") if isinstance(name, Path) else str(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


@contextmanager
def reading(what: str, path: str | Path) -> Iterator[None]:
    """Turn every exception in the block into a CagcError of one line that begins with ``what`` and ``path``.

    A CagcError that begins like that is passed on unchanged, and so are warnings that are raised as errors.

    Raises:
        CagcError: instead of any other exception.
    """
    subject = f"{what} {printable(path)}"
    try:
        yield
    except CagcError as error:
        if str(error).startswith(subject):
            raise
        raise CagcError(f"{subject}: {error}") from None
    except FileNotFoundError:
        raise CagcError(f"{subject}: no such file") from None
    except OSError as error:
        raise CagcError(f"{subject}: cannot be read ({error.strerror or one_line(error)})") from None
    except (MemoryError, RecursionError) as error:
        reason = "needs more memory than there is" if isinstance(error, MemoryError) else "is nested too deeply"
        raise CagcError(f"{subject}: damaged, or {reason}") from None
    except Warning:
        raise
    except Exception as error:  # readers raise many types over damaged bytes
        raise CagcError(f"{subject}: truncated, damaged or of another format ({one_line(error)})") from error


def one_line(error: object) -> str:
    """Return the message of ``error``, or its type if it is empty, on one line of at most 160 characters."""
    return printable(" ".join(str(error).split()))[:160] or type(error).__name__


def regular_file(path: str | Path) -> Path:
    """Return ``path`` if it is a regular file; opening a FIFO would wait, and reading a device may never end.

    Raises:
        CagcError: it is a folder, FIFO, socket or device. OSError: it does not exist or may not be accessed.
    """
    path = Path(path)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS.items() if test(mode)), "something else")
        raise CagcError(f"{printable(path)} is {kind}, expected a file")
    return path


def read_json(path: str | Path) -> Any:
    """Return the JSON value in a UTF-8 file.

    Raises:
        CagcError: it is not a regular file, not JSON, or beyond a limit of this module. OSError: it cannot be opened.
    """
    with regular_file(path).open("rb") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise CagcError(f"more than {MAX_JSON_BYTES >> 20} MB of JSON, which no document of this kind has")
    return parse_json(content)


def parse_json(content: str | bytes) -> Any:
    """Return the JSON value in ``content``, within this module's limits of nesting and digits.

    Raises:
        CagcError: it is not UTF-8 or not JSON, or beyond a limit.
    """
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    try:
        value = json.loads(data.decode("utf-8"), parse_int=_integer)
    except CagcError:
        raise
    except ValueError as error:
        raise CagcError(f"truncated or not JSON ({one_line(error)})") from None
    except RecursionError:
        too_deep = True
    else:
        too_deep = _nested(data, MAX_JSON_DEPTH + 1)
    if too_deep:
        raise CagcError(f"JSON nested more than {MAX_JSON_DEPTH} levels deep")
    return value


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_INTEGER_DIGITS:
        raise CagcError(f"an integer of {len(digits)} digits, expected at most {MAX_INTEGER_DIGITS}")
    return int(digits)


def _nested(document: bytes, levels: int) -> bool:
    """Whether the brackets of a JSON document nest at least ``levels`` deep."""
    outside_strings = re.sub(rb'"[^"\\]*(?:\\.[^"\\]*)*"', b"", document)
    brackets = outside_strings.translate(None, bytes(set(range(256)) - set(b"[]{}")))
    for _ in range(levels - 1):
        if not brackets:
            break
        brackets = re.sub(rb"\[\]|\{\}", b"", brackets)
    return bool(brackets)
