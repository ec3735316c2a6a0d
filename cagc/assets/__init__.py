"""Files that ship with the package."""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS = {"faces64": "teacher.safetensors", "faces64-student": "student.safetensors"}
"""Embedded generators by name: the teacher, and its student at an eleventh of the MACs."""


def faces64() -> Path:
    """Folder of the embedded default: teacher, student, face parser and image set at 64 px, with PROVENANCE.md."""
    return Path(__file__).parent / "faces64"


def checkpoint(path: str | Path) -> Path:
    """The file behind a name of ``CHECKPOINTS``; any other path as it is."""
    return faces64() / CHECKPOINTS[str(path)] if str(path) in CHECKPOINTS else Path(path)


def sngan32() -> Path:
    """Folder of a small SN-GAN with its discriminator, trained on faces at 32 px, with PROVENANCE.md."""
    return Path(__file__).parent / "sngan32"


def licence(path: str | Path | None) -> str:
    """Licence of the weights behind a name of ``CHECKPOINTS``, or None, the teacher, as text; "" for other files."""
    if path is not None and str(path) not in CHECKPOINTS:
        return ""
    return (
        "For research and evaluation only. Derived from NVIDIA's StyleGAN2 of FFHQ (Nvidia Source Code License-NC) "
        "by way of the package random-face (Apache-2.0)."
    )
