"""The files of this package that a page is made of."""

from __future__ import annotations

from pathlib import Path

from ...common.errors import CagcError

PAGE = Path(__file__).parent / "page"
CODE = ("style.css", "page.js", "worker.js", "cagc.js")
VARIANTS = ("simd", "relaxed", "threads")
"""Of the compiled runtime."""


def page_text(name: str) -> str:
    """Text of a file of the page."""
    return (PAGE / name).read_text(encoding="utf-8")


def compiled_runtime(variant: str) -> bytes:
    """One of :data:`VARIANTS`. Raises CagcError if it was not compiled."""
    path = Path(__file__).parent / "wasm" / f"{variant}.wasm"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CagcError(f"web: {path} is missing; `python csrc/web/build.py` in a checkout compiles it") from None


def one_script(module: str, importer: str) -> str:
    """A module and the one that imports it as one classic script, which a worker of a page opened from a file needs."""
    exported = page_text(module).replace("\nexport ", "\n")
    kept = [line for line in page_text(importer).splitlines() if not line.startswith("import ")]
    return f'"use strict";\n{exported}\n' + "\n".join(kept)
