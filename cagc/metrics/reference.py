"""Statistics of real images, computed once for a set and a feature space and kept on disk."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import torch

from cagc_kernels.environment import cache_folder

from ..common import distributed
from ..common.callbacks import Progress
from ..common.errors import CagcError
from ..data.dataset import ImageDataset
from .features import FeatureExtractor
from .frechet import FeatureStatistics, SamplesNotKept, dataset_statistics
from .shared import shared_statistics


def reference_statistics(
    data: ImageDataset,
    samples: int,
    features: FeatureExtractor,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    keep: bool = False,
) -> FeatureStatistics:
    """Statistics of the first ``samples`` images of ``data``, from the folder of caches if it has them.

    With ``keep`` the features of every image are included. The processes of ``torchrun`` share the work.

    The key of a cached file has the image set (``data.fingerprint()``), its resolution, the number of samples and the
    feature network with its weights. A damaged file is computed again, with a warning; if the folder cannot be written
    to, nothing is cached. Raises CagcError as :func:`dataset_statistics` does.
    """
    path = cache_folder() / "statistics" / f"{data.fingerprint()}-{samples}-{_network(features)}.npz"
    found = _read(path, samples, features, keep)
    # The processes of several machines may have different caches.
    if not distributed.any_true(found is None):
        return found

    def statistics(part: slice) -> FeatureStatistics:
        return dataset_statistics(data, samples, features, device=device, progress=progress, part=part, keep=keep)

    found = shared_statistics(samples, statistics, features, keep)
    if distributed.is_main():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            found.save(path)
        except OSError:
            pass
    return found


def _read(path: Path, samples: int, features: FeatureExtractor, keep: bool) -> FeatureStatistics | None:
    """The cached statistics, or None; a file that is damaged or of another set is reported by a warning."""
    if not path.exists():
        return None
    try:
        found = FeatureStatistics.load(path, keep)
        if found.features != features.name or found.count != samples:
            raise CagcError(
                f"feature statistics {path}: got {found.count} samples of {found.features}, "
                f"expected {samples} of {features.name}"
            )
    except SamplesNotKept:
        return None
    except CagcError as error:
        warnings.warn(f"{error}; made anew", stacklevel=3)
        return None
    return found


def _network(features: FeatureExtractor) -> str:
    digest = hashlib.sha256()
    for name, tensor in [*features.named_parameters(), *features.named_buffers()]:
        digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    return f"{features.name.replace('@', '-')}-{digest.hexdigest()[:8]}"
