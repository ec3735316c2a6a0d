"""CIFAR-10 from archives of its own two formats, made here."""

from __future__ import annotations

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

from cagc.distill.cifar import CifarDataset, open_images
from cagc.distill.data import ImageDataset, ImageStream
from cagc.errors import CagcError


def pixels(seed: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def pickled(seed: int, **entries) -> bytes:
    document = {b"batch_label": b"training", b"labels": [0, 1, 2, 3], b"data": pixels(seed), b"filenames": [b"a.png"]}
    return pickle.dumps(document | {k.encode(): v for k, v in entries.items()}, protocol=2)


def binary(seed: int) -> bytes:
    return np.concatenate([np.full((4, 1), seed, np.uint8), pixels(seed)], axis=1).tobytes()


def archive(path, files: dict[str, bytes]):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


PYTHON = {f"cifar-10-batches-py/data_batch_{i}": pickled(i) for i in (1, 2)} | {
    "cifar-10-batches-py/test_batch": pickled(9),
    "cifar-10-batches-py/batches.meta": b"no pickle at all",
}
BINARY = {f"cifar-10-batches-bin/data_batch_{i}.bin": binary(i) for i in (1, 2)} | {
    "cifar-10-batches-bin/test_batch.bin": binary(9)
}


@pytest.mark.parametrize("files", [PYTHON, BINARY], ids=["python", "binary"])
def test_archive_and_folder(tmp_path, files):
    packed = archive(tmp_path / "cifar.tar.gz", files)
    with tarfile.open(packed) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    for source in (packed, tmp_path / "unpacked"):
        data = open_images(source, 32)
        assert isinstance(data, CifarDataset)
        assert len(data) == 8
        expected = torch.from_numpy(np.concatenate([pixels(1), pixels(2)])).reshape(8, 3, 32, 32).float() / 127.5 - 1
        torch.testing.assert_close(data.batch([3, 0, 5]), expected[[3, 0, 5]])
        torch.testing.assert_close(data[7], expected[7])
        assert next(ImageStream(data, 5)).shape == (5, 3, 32, 32)
        assert "8 images" in data.describe()


def test_anything_else_is_a_folder_or_zip_of_images(tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 32)).save(tmp_path / "0.png")
    with pytest.raises(CagcError, match="40 x 32 px, RGB; expected a square RGB image"):
        open_images(tmp_path, 32)
    assert isinstance(open_images(tmp_path, 32, convert=True), ImageDataset)


class Malicious:
    def __reduce__(self):
        return os.system, ("echo unpickled",)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x/data_batch_1": pickle.dumps(Malicious())}, "refused"),
        ({"x/data_batch_1": pickled(1)[:-2000]}, "data_batch_1 .* no batch of CIFAR-10"),
        ({"x/data_batch_1": pickled(1, data=pixels(1).astype(np.float32))}, "float32"),
        ({"x/data_batch_1": pickled(1, data=pixels(1)[:, :3000])}, "expected uint8"),
        ({"x/data_batch_1": pickle.dumps({b"labels": []})}, "no batch of CIFAR-10"),
        ({"x/data_batch_1.bin": binary(1)[:-5]}, "multiple of 3073"),
        ({"x/readme.txt": b"hello"}, "no CIFAR-10 training batch"),
    ],
    ids=["code", "torn", "float", "shape", "entry", "bytes", "empty"],
)
def test_wrong_archives_are_one_line(tmp_path, capfd, files, message):
    with pytest.raises(CagcError, match=message) as error:
        CifarDataset(archive(tmp_path / "cifar.tar.gz", files))
    assert "\n" not in str(error.value)
    assert "unpickled" not in capfd.readouterr().out


def test_truncated_archive(tmp_path):
    path = archive(tmp_path / "cifar.tar.gz", PYTHON)
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(CagcError, match="truncated"):
        open_images(path, 32)


def test_other_size(tmp_path):
    with pytest.raises(CagcError, match="32 px, the generator 64 px"):
        open_images(archive(tmp_path / "cifar.tar.gz", BINARY), 64)
