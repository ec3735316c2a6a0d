"""Files that ship with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Embedded:
    """Paths of an embedded generator's checkpoint and of the real images that it was made to resemble."""

    checkpoint: Path
    images: Path


GENERATORS = {
    "faces256": Embedded(_FOLDER / "faces256" / "teacher.safetensors", _FOLDER / "faces256" / "images.zip"),
    "faces128": Embedded(_FOLDER / "faces128" / "teacher.safetensors", _FOLDER / "faces128" / "images.zip"),
    "faces64": Embedded(_FOLDER / "faces64" / "teacher.safetensors", _FOLDER / "faces64" / "images.zip"),
    "faces64-student": Embedded(_FOLDER / "faces64" / "student.safetensors", _FOLDER / "faces64" / "images.zip"),
}
"""Embedded generators by name: three teachers, and the student of the smallest one at an eleventh of its MACs."""

DEFAULT = "faces256"
"""Name of the teacher that commands use where none is given."""


def faces64() -> Path:
    """Return the folder with teacher, student, face parser and images at 64 px, described in its PROVENANCE.md."""
    return _FOLDER / "faces64"


def sngan32() -> Path:
    """Return the folder with an SN-GAN and its discriminator, trained on faces at 32 px; see its PROVENANCE.md."""
    return _FOLDER / "sngan32"


def embedded(name: str | Path | None) -> Embedded | None:
    """Return the embedded generator ``name``, the default one for None, or None where no generator has that name."""
    return GENERATORS.get(DEFAULT if name is None else str(name))


def checkpoint(path: str | Path) -> Path:
    """Return the checkpoint behind a name of ``GENERATORS``; any other path as it is."""
    found = embedded(path)
    return found.checkpoint if found else Path(path)


def licence(path: str | Path | None) -> str:
    """Return the licence of the weights behind a name of ``GENERATORS`` or None, as text; "" for other files."""
    if embedded(path) is None:
        return ""
    return (
        "For research and evaluation only. Derived from NVIDIA's StyleGAN2 of FFHQ (Nvidia Source Code License-NC) "
        "by way of the package random-face (Apache-2.0)."
    )
