"""Measures and shows held-out seeds: ours, and the generator that training began with, against recorded images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from growth import synthesise
from objective import feature_maps, map_distance
from torch import Tensor

from cagc.metrics import features
from cagc.metrics.frechet import FeatureStatistics
from cagc.pictures import image_grid

if TYPE_CHECKING:
    from train_teacher import Run

FRECHET = "efficientnet-lite0@112"
BATCH = 20


def enlarged(run: Run, w: Tensor) -> Tensor:
    """Draw images of the generator that training began with, resized to the stage's resolution (bicubic)."""
    images = synthesise(run.start, w, run.start.config.resolution)
    return F.interpolate(images, size=(run.stage.resolution,) * 2, mode="bicubic").clamp(-1, 1)


def ours(run: Run, w: Tensor) -> Tensor:
    return synthesise(run.average, w, run.stage.resolution).clamp(-1, 1)


@torch.no_grad()
def examine(run: Run, seeds: list[int]) -> dict[str, float]:
    """Return L1 in [-1, 1], perceptual distance and Fréchet distance to the recorded images of the same seeds.

    The perceptual distance uses EfficientNet-lite0 maps of images at 128 px, or at 256 px if the images are that large.
    """
    resolution, pooled = run.stage.resolution, features.load(FRECHET)
    size = max(128, resolution)
    sources = {"": ours, "enlarged_": enlarged}
    real, drawn = FeatureStatistics(FRECHET), {name: FeatureStatistics(FRECHET) for name in sources}
    figures = {f"{name}{key}": 0.0 for name in sources for key in ("l1", "perceptual")}
    for start in range(0, len(seeds), BATCH):
        part = seeds[start : start + BATCH]
        images, share = run.faces.batch(part, resolution), len(part) / len(seeds)
        real.update(pooled(images))
        maps = feature_maps(run.extractor, images, size)
        for name, source in sources.items():
            found = source(run, run.w[part])
            figures[f"{name}l1"] += share * (found - images).abs().mean().item()
            figures[f"{name}perceptual"] += share * map_distance(feature_maps(run.extractor, found, size), maps).item()
            drawn[name].update(pooled(found))
    return figures | {f"{name}frechet": real.distance(drawn[name]) for name in sources}


@torch.no_grad()
def save_grid(run: Run, seeds: list[int], path: Path) -> None:
    """Save a PNG with three rows: recorded images, the generator that training began with, ours."""
    w = run.w[seeds]
    rows = torch.cat([run.faces.batch(seeds, run.stage.resolution), enlarged(run, w), ours(run, w)])
    image_grid(rows, columns=len(seeds), tile=run.stage.resolution).save(path)
