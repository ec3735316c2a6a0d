"""Statistics of real images that are kept on disk."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from cagc.data.dataset import ImageDataset
from cagc.metrics import reference
from cagc.metrics.features import FeatureExtractor
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
    assert reference_statistics(data, 9, features).count == 9 and features.calls > calls
    assert len(list(file.parent.iterdir())) == 2


def test_damaged_file_is_written_anew(folder, tmp_path):
    features = Means()
    data = ImageDataset(folder, 16)
    first = reference_statistics(data, 8, features)
    (file,) = (tmp_path / "cache" / "statistics").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(reference_statistics(data, 8, features).mean, first.mean)
    calls = features.calls
    reference_statistics(data, 8, features)
    assert features.calls == calls


def test_no_place_to_write(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAGC_CACHE_DIR", str(tmp_path / "file"))
    assert reference.reference_statistics(ImageDataset(folder, 16), 8, Means()).count == 8
