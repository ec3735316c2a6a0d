"""Statistics of real images, computed once for a set and a feature space and kept on disk."""

from __future__ import annotations

import torch

from ..distill.data import ImageDataset
from ..errors import CagcError
from ..files import cache_folder
from .features import FeatureExtractor
from .frechet import FeatureStatistics, Progress, dataset_statistics


def reference_statistics(
    data: ImageDataset,
    samples: int,
    features: FeatureExtractor,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> FeatureStatistics:
    """Statistics of the first ``samples`` images of ``data``, from :func:`cagc.files.cache_folder` where it has them.

    A file belongs to one set of images (``data.fingerprint()``), number of samples and feature space; another set,
    another resolution or a changed image makes another. One that is damaged is written anew; a folder that cannot be
    written to costs the cache and nothing else. Raises CagcError as :func:`dataset_statistics` does.
    """
    name = f"{data.fingerprint()}-{samples}-{features.name.replace('@', '-')}.npz"
    path = cache_folder() / "statistics" / name
    if path.is_file():
        try:
            found = FeatureStatistics.load(path)
            if found.features == features.name and found.count == samples:
                return found
        except CagcError:
            pass
    found = dataset_statistics(data, samples, features, device=device, progress=progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found.save(path)
    except OSError:
        pass
    return found
