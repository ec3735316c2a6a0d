"""Statistics of real images that are kept on disk."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from cagc.common.errors import CagcError
from cagc.data.dataset import ImageDataset
from cagc.metrics import reference
from cagc.metrics.features import FeatureExtractor
from cagc.metrics.frechet import FeatureStatistics
from cagc.metrics.reference import reference_statistics


class Means(FeatureExtractor):
    name, dim, size = "means@8", 3, 8

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return images.mean(dim=(2, 3))


@pytest.fixture
def folder(small_images, tmp_path, monkeypatch):
    monkeypatch.setenv("CAGC_CACHE_DIR", str(tmp_path / "cache"))
    return shutil.copytree(small_images, tmp_path / "images")


def test_computed_once_and_again_when_anything_changes(folder, tmp_path):
    features = Means()
    first = reference_statistics(ImageDataset(folder, 16), 8, features)
    calls = features.calls
    again = reference_statistics(ImageDataset(folder, 16), 8, features)
    assert features.calls == calls
    np.testing.assert_array_equal(again.cov, first.cov)
    reference_statistics(ImageDataset(folder, 16), 9, features)
    reference_statistics(ImageDataset(folder, 8), 8, features)
    assert features.calls == 3 * calls
    Image.new("RGB", (20, 20), "red").save(folder / "00.png")
    changed = reference_statistics(ImageDataset(folder, 16), 8, features)
    assert features.calls == 4 * calls and not np.array_equal(changed.mean, first.mean)
    assert len(list((tmp_path / "cache" / "statistics").iterdir())) == 4


def test_samples_are_kept_where_they_are_asked_for(folder):
    features = Means()
    data = ImageDataset(folder, 16)
    first = reference_statistics(data, 8, features, keep=True)
    calls = features.calls
    again = reference_statistics(data, 8, features, keep=True)
    assert reference_statistics(data, 8, features).kept is None and features.calls == calls
    assert torch.equal(again.vectors, first.vectors) and first.vectors.shape == (8, 3)
    np.testing.assert_allclose(first.vectors.double().mean(dim=0), first.mean, rtol=1e-6)


def test_sums_alone_are_not_enough_for_who_wants_samples(folder):
    features = Means()
    data = ImageDataset(folder, 16)
    reference_statistics(data, 8, features)
    calls = features.calls
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(reference_statistics(data, 8, features, keep=True).vectors) == 8 and features.calls > calls


def test_other_weights_are_another_network(folder):
    features = Means()
    data = ImageDataset(folder, 16)
    reference_statistics(data, 8, features)
    calls = features.calls
    features.register_buffer("weight", torch.ones(2))
    reference_statistics(data, 8, features)
    assert features.calls == 2 * calls
    features.weight.add_(1)
    reference_statistics(data, 8, features)
    assert features.calls == 3 * calls


def test_a_file_of_another_number_of_samples_is_not_believed(folder, tmp_path):
    features = Means()
    data = ImageDataset(folder, 16)
    reference_statistics(data, 8, features)
    (file,) = (tmp_path / "cache" / "statistics").iterdir()
    shutil.copy(file, file.with_name(file.name.replace("-8-", "-9-", 1)))
    calls = features.calls
    with pytest.warns(UserWarning, match="got 8 samples of means@8, expected 9"):
        assert reference_statistics(data, 9, features).count == 9 and features.calls > calls
    assert len(list(file.parent.iterdir())) == 2


def rewritten(change):
    """Rewrite the entries of a file of statistics, leaving their checksums as they were."""

    def damage(file):
        with np.load(file) as archive:
            entries = dict(archive)
        change(entries)
        with file.open("wb") as stream:
            np.savez(stream, **entries)

    return damage


DAMAGES = {
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:100]), "truncated or of another format"),
    "nan": (rewritten(lambda entries: entries["mean"].fill(np.nan)), "checksum of 'mean' does not match"),
    "negative": (rewritten(lambda entries: entries["scatter"].__imul__(-1)), "checksum of 'scatter' does not match"),
    "count": (rewritten(lambda entries: entries.update(count=np.float64(8))), "checksum of 'count' does not match"),
    "text": (rewritten(lambda entries: entries.update(count="eight")), "checksum of 'count' does not match"),
    "no checksum": (rewritten(lambda entries: entries.pop("mean.sha256")), "mean.sha256"),
    "no mean": (rewritten(lambda entries: entries.pop("mean")), "mean"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_made_anew_with_a_word(folder, tmp_path, damage):
    features, (change, message) = Means(), DAMAGES[damage]
    data = ImageDataset(folder, 16)
    first = reference_statistics(data, 8, features)
    (file,) = (tmp_path / "cache" / "statistics").iterdir()
    change(file)
    with pytest.warns(UserWarning, match=f"{file.name}: .*{message}.*; made anew"):
        np.testing.assert_array_equal(reference_statistics(data, 8, features).mean, first.mean)
    calls = features.calls
    reference_statistics(data, 8, features)
    assert features.calls == calls


def test_a_file_of_statistics_cannot_lie_about_its_size_or_hold_nan(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", features="x", count=2, mean=np.zeros(1 << 20), scatter=np.eye(1))
    with pytest.raises(CagcError, match=r"bomb.npz: got compressed entries"):
        FeatureStatistics.load(tmp_path / "bomb.npz")
    broken = FeatureStatistics("x").update(np.ones((2, 3)))
    broken.mean[0] = np.nan
    broken.save(tmp_path / "nan.npz")
    with pytest.raises(CagcError, match=r"nan.npz: 'mean' holds values that are not finite"):
        FeatureStatistics.load(tmp_path / "nan.npz")


def test_no_place_to_write(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAGC_CACHE_DIR", str(tmp_path / "file"))
    assert reference.reference_statistics(ImageDataset(folder, 16), 8, Means()).count == 8
