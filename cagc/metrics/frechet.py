"""Fréchet distance between two sets of images in a named feature space (Heusel et al. 2017, eq. 6).

The number may be called FID only when the features are Inception's; `result_key` names it.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..common.callbacks import Progress
from ..common.errors import CagcError
from ..common.file_kinds import foreign_kind
from ..common.files import atomic_write
from ..common.reading import printable, reading, regular_file
from ..common.zips import has_directory
from .features import DEFAULT_FEATURES, FeatureExtractor, load
from .sampling import draw, seed_batches


def result_key(features: str) -> str:
    """Key under which a distance in the space `features` is reported, e.g. ``frechet_distance[efficientnet-lite0]``."""
    return f"frechet_distance[{features}]"


def _root(cov: np.ndarray) -> np.ndarray:
    """A [D, r] with A·Aᵀ = cov [D, D], r its numerical rank; eigenvalues below rounding noise are dropped."""
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    keep = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    return vectors[:, keep] * np.sqrt(values[keep])


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2·(C1·C2)^½), in float64, for means [D] and symmetric covariances [D, D].

    With C = A·Aᵀ the trace of the root is the sum of the singular values of A1ᵀ·A2: no matrix root is taken, so
    rank-deficient covariances (fewer samples than features) lose no accuracy.
    Raises ValueError for shapes that do not agree and values that are not finite.
    """
    mean1, cov1, mean2, cov2 = (np.asarray(a, dtype=np.float64) for a in (mean1, cov1, mean2, cov2))
    dim = mean1.size
    for name, array, shape in (
        ("mean1", mean1, (dim,)),
        ("cov1", cov1, (dim, dim)),
        ("mean2", mean2, (dim,)),
        ("cov2", cov2, (dim, dim)),
    ):
        if array.shape != shape or dim == 0:
            raise ValueError(f"{name}: got shape {array.shape}, expected {shape}, as mean1 has {dim} entries")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: got NaN or infinity, expected finite values")
    cross = np.linalg.svd(_root(cov1).T @ _root(cov2), compute_uv=False).sum()
    return float(np.sum((mean1 - mean2) ** 2) + np.trace(cov1) + np.trace(cov2) - 2 * cross)


@dataclass
class FeatureStatistics:
    """Mean and scatter of features, updated batch by batch in float64 and mergeable in any order.

    features: name of the feature space; count: samples seen; mean [D]; scatter [D, D] = Σ (x - mean)(x - mean)ᵀ.
    Batches are combined by the pairwise update of Chan, Golub & LeVeque (1979). kept: None, or a list to which every
    batch is appended in float32, for figures that need all samples (4·D bytes each).
    """

    features: str
    count: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    scatter: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    kept: list[np.ndarray] | None = None

    @property
    def vectors(self) -> Tensor:
        """All samples [count, D], float32. Raises ValueError unless they were kept."""
        if not self.kept:
            raise ValueError("kept: got none, expected statistics that keep their samples")
        return torch.from_numpy(np.concatenate(self.kept))

    def update(self, batch: Tensor | np.ndarray) -> FeatureStatistics:
        """Add features [N, D]. Raises ValueError for another shape or width, or values that are not finite."""
        rows = batch.detach().cpu().numpy() if isinstance(batch, Tensor) else np.asarray(batch)
        rows = rows.astype(np.float64)
        if rows.ndim != 2 or rows.size == 0:
            raise ValueError(f"batch: got shape {list(rows.shape)}, expected [N, D] and not empty")
        if not np.isfinite(rows).all():
            raise ValueError("batch: got NaN or infinity, expected finite features")
        if self.kept is not None:
            self.kept.append(rows.astype(np.float32))
        mean = rows.mean(axis=0)
        centred = rows - mean
        return self._join(len(rows), mean, centred.T @ centred)

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Add the samples of `other`. Raises ValueError when its feature space differs."""
        if other.features != self.features:
            raise ValueError(f"other holds {other.features!r} features, expected {self.features!r}")
        if self.kept is not None:
            self.kept += other.kept
        return self if other.count == 0 else self._join(other.count, other.mean, other.scatter)

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> FeatureStatistics:
        if self.count == 0:
            self.count, self.mean, self.scatter = count, mean.copy(), scatter.copy()
            return self
        if mean.shape != self.mean.shape:
            raise ValueError(f"batch: got {mean.size} features a sample, expected {self.mean.size}")
        total, shift = self.count + count, mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total
        return self

    @property
    def cov(self) -> np.ndarray:
        """Unbiased covariance [D, D] (as numpy.cov). Raises CagcError with fewer than two samples."""
        if self.count < 2:
            raise CagcError(f"cov: got {self.count} samples, expected at least 2")
        return self.scatter / (self.count - 1)

    def distance(self, other: FeatureStatistics) -> float:
        """Fréchet distance to `other`. Raises ValueError when the feature spaces differ."""
        if other.features != self.features:
            raise ValueError(f"other holds {other.features!r} features, expected {self.features!r}")
        return frechet_distance(self.mean, self.cov, other.mean, other.cov)

    def save(self, path: str | PathLike[str]) -> None:
        """Write an .npz file with a checksum per entry, which `load` reads exactly; an existing file is replaced."""
        arrays = {"features": self.features, "count": self.count, "mean": self.mean, "scatter": self.scatter}
        if self.kept:
            arrays["vectors"] = np.concatenate(self.kept)
        checksums = {name + _CHECKSUM: _checksum(np.asarray(array)) for name, array in arrays.items()}
        with atomic_write(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **arrays, **checksums)

    @classmethod
    def load(cls, path: str | PathLike[str], keep: bool = False) -> FeatureStatistics:
        """Read what `save` wrote, with `keep` including the samples; nothing in the file is executed.

        Raises:
            CagcError: the file is missing or damaged, a checksum does not match, or a value is not finite.
            SamplesNotKept: ``keep`` is set and the file has no samples.
        """
        what = "feature statistics"
        with reading(what, path):
            _check_stored(regular_file(path))
            with np.load(path, allow_pickle=False) as archive:
                if keep and "vectors" not in archive:
                    raise SamplesNotKept(f"{what} {printable(path)}: got moments only, expected the samples as well")
                names = ("features", "count", "mean", "scatter", *(["vectors"] if keep else []))
                features, count, mean, scatter, *kept = (_entry(archive, name) for name in names)
            if mean.ndim != 1 or scatter.shape != (mean.size,) * 2:
                raise CagcError(f"got a mean {mean.shape} and a scatter {scatter.shape}, which do not agree")
            if kept and kept[0].shape != (int(count), mean.size):
                raise CagcError(f"got samples {kept[0].shape}, expected {(int(count), mean.size)}")
            return cls(str(features), int(count), mean, scatter, kept or None)


class SamplesNotKept(CagcError):
    """Statistics on disk hold moments only, but the samples were requested."""


_CHECKSUM = ".sha256"
_MAX_DIRECTORY_BYTES = 1 << 16


def _checksum(array: np.ndarray) -> str:
    header = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def _check_stored(path: Path) -> None:
    """Raise CagcError if ``path`` is not a zip, or its entries are too many or would unpack to more than its bytes."""
    with path.open("rb") as file:
        start = file.read(512)
        if start[:4] != b"PK\x03\x04" or not has_directory(file, _MAX_DIRECTORY_BYTES):
            raise CagcError(f"{foreign_kind(start) or 'truncated or of another format'}; expected an .npz")
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise CagcError("got compressed entries, expected uncompressed ones")


def _entry(archive: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    array = archive[name]
    if str(archive[name + _CHECKSUM]) != _checksum(array):
        raise CagcError(f"the checksum of {name!r} does not match")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CagcError(f"{name!r} holds values that are not finite")
    return array


def _extractor(features: str | FeatureExtractor, device: torch.device | str) -> FeatureExtractor:
    return load(features, device) if isinstance(features, str) else features


@torch.inference_mode()
def generator_statistics(
    generator: nn.Module,
    samples: int,
    seed: int = 0,
    features: str | FeatureExtractor = DEFAULT_FEATURES,
    batch: int = 16,
    noise: str = "random",
    truncation: float = 1.0,
    progress: Progress | None = None,
    keep: bool = False,
) -> FeatureStatistics:
    """Statistics of `samples` images of `generator`: sample i is drawn from seed + i, whatever the batch size.

    noise: "random" (seeded per sample), "const" or "none". Images are clamped to [-1, 1], like saved images.
    progress(done, samples) is called after each batch. keep: keep the features of every image. Runs on the generator's
    device. Raises CagcError where an image holds NaN or infinity.
    """
    extractor = _extractor(features, generator.w_avg.device)
    stats = FeatureStatistics(extractor.name, kept=[] if keep else None)
    for seeds in seed_batches(samples, seed, batch):
        stats.update(extractor(draw(generator, seeds, noise, truncation)))
        if progress is not None:
            progress(stats.count, samples)
    return stats


@torch.inference_mode()
def dataset_statistics(
    dataset: Sequence[Tensor],
    samples: int | None = None,
    features: str | FeatureExtractor = DEFAULT_FEATURES,
    batch: int = 16,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    part: slice = slice(None),
    keep: bool = False,
) -> FeatureStatistics:
    """Statistics of the first `samples` images (all when None) of a sequence of [3, H, W] tensors in [-1, 1].

    part: those of these images that this process computes. keep: keep the features of every image.

    Raises CagcError when `samples` asks for more images than there are.
    """
    total = len(dataset) if samples is None else samples
    if not 2 <= total <= len(dataset):
        raise CagcError(f"samples: got {total}, expected 2 to {len(dataset)}, the size of the image set")
    extractor = _extractor(features, device)
    stats = FeatureStatistics(extractor.name, kept=[] if keep else None)
    chosen = range(total)[part]
    for start in range(0, len(chosen), batch):
        images = torch.stack([dataset[i] for i in chosen[start : start + batch]])
        stats.update(extractor(images.to(device)))
        if progress is not None:
            progress(stats.count, len(chosen))
    return stats
