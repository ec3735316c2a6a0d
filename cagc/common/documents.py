"""Reads and writes documents, JSON and safetensors: written atomically, and read as untrusted input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import CagcError
from .files import atomic_write
from .reading import one_line, read_json, reading, regular_file


def write_document(path: str | Path, kind: str, version: int, content: dict[str, Any]) -> None:
    """Write ``content`` under a format line, atomically; number lists stay on one line each.

    Raises:
        CagcError: the folder does not exist.
    """
    document = {"format": f"{kind}-{version}", **content}
    with atomic_write(path) as temporary:
        temporary.write_text(_render(document) + "\n", encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically.

    Raises:
        CagcError: the folder does not exist.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_document(path: str | Path, kind: str, version: int) -> dict[str, Any]:
    """Return the document at ``path`` without its format line; call this under :func:`cagc.common.reading.reading`.

    Raises:
        CagcError: the file is not JSON, beyond a limit of :mod:`cagc.common.reading`, not an object, or of another
            kind or version. OSError: it cannot be opened.
    """
    document = read_json(path)
    found = document.pop("format", None) if isinstance(document, dict) else None
    if found != f"{kind}-{version}":
        raise CagcError(f"got format {found!r:.60}, expected '{kind}-{version}'")
    return document


def read_tensors(path: str | Path, what: str, expected: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return header and tensors of a safetensors file whose header gives ``expected`` as its "format".

    Raises:
        CagcError: the file is missing, damaged or of another format. The message begins with ``what`` and the path.
    """
    with reading(what, path):
        file = open_safetensors(regular_file(path))
        header = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        if header.get("format") != expected:
            raise CagcError(f"got format {header.get('format')!r:.60}, expected {expected!r}")
        return header, tensors


def open_safetensors(path: Path) -> Any:
    """Open a safetensors file for reading its tensors one by one.

    Raises:
        CagcError: it is truncated or of another format. OSError: it cannot be opened.
    """
    named = os.fsencode(path).decode("utf-8", "replace") == str(path)
    try:
        with path.open("rb") as opened:  # safetensors opens only names that are UTF-8
            return safe_open(path if named else f"/dev/fd/{opened.fileno()}", framework="pt")
    except SafetensorError as error:
        raise CagcError(f"truncated or not a safetensors file ({one_line(error)})") from None


def _render(value: Any, indent: str = "") -> str:
    if not isinstance(value, dict) or not value:
        return json.dumps(value)
    inner = indent + "  "
    rows = [f"{inner}{json.dumps(key)}: {_render(entry, inner)}" for key, entry in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
