"""Reads numbered face images from zips on demand."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cagc.data.images import open_image


class Faces:
    """Images named by seed, in zips of one size each; a zip that is being written is skipped until the next scan.

    Args:
        archives: zips, or folders of zips.
    """

    def __init__(self, archives: list[Path]) -> None:
        self.archives = archives
        self._entries: dict[int, dict[int, tuple[zipfile.ZipFile, str]]] = {}
        self._open: dict[Path, float] = {}
        self.scan()

    def scan(self) -> None:
        """Read the names in zips that are new or have grown."""
        for path in [zip for a in self.archives for zip in (sorted(a.glob("*.zip")) if a.is_dir() else [a])]:
            changed = path.stat().st_mtime
            if self._open.get(path) == changed:
                continue
            try:
                bundle = zipfile.ZipFile(path)
                names = [name for name in bundle.namelist() if name.endswith(".webp")]
                size = open_image(bundle.read(names[0])).width
            except (zipfile.BadZipFile, EOFError, IndexError):
                continue
            self._open[path] = changed
            found = self._entries.setdefault(size, {})
            found |= {int(Path(name).stem): (bundle, name) for name in names}

    def seeds(self, size: int) -> list[int]:
        """Return the seeds that have an image of at least ``size`` px."""
        return sorted({seed for side, found in self._entries.items() if side >= size for seed in found})

    def batch(self, seeds: list[int], size: int) -> Tensor:
        """Return images [N, 3, size, size] in [-1, 1], area-averaged from the smallest that is large enough."""
        images = [np.asarray(self._read(seed, size)) for seed in seeds]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def _read(self, seed: int, size: int) -> Image.Image:
        side = min(side for side, found in self._entries.items() if side >= size and seed in found)
        bundle, name = self._entries[side][seed]
        return open_image(bundle.read(name)).convert("RGB").reduce(side // size)
