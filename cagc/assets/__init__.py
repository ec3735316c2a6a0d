"""Files that ship with the package."""

from __future__ import annotations

from pathlib import Path


def faces64() -> Path:
    """Folder of the embedded default: teacher, face parser and image set at 64 px, with PROVENANCE.md."""
    return Path(__file__).parent / "faces64"
