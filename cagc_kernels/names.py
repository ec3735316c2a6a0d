"""Converts names of devices to names of files."""

from __future__ import annotations

import re


def slug(device: str) -> str:
    """Return ``device`` in lower case with dashes: "NVIDIA H100 80GB HBM3" is "nvidia-h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
