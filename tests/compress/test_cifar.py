"""CIFAR-10 from archives of its own two formats, made here, through the tool that writes them as a zip."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cagc.common.errors import CagcError
from cagc.data.dataset import ImageDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "sngan"))
import cifar_to_zip
from cifar_to_zip import Options, convert, read_images


def pixels(seed: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def pickled(seed: int, protocol: int = 2, **entries) -> bytes:
    document = {b"batch_label": b"training", b"labels": [0, 1, 2, 3], b"data": pixels(seed), b"filenames": [b"a.png"]}
    return pickle.dumps(document | {k.encode(): v for k, v in entries.items()}, protocol=protocol)


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01bt"


def dtype(name: bytes, order: bytes) -> bytes:
    """Opcodes that build a dtype of two letters, as Python 2 wrote them."""
    state = b"(K\x03U\x01" + order + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    return b"cnumpy\ndtype\n(U\x02" + name + b"K\x00K\x01tR" + state


def by_python2(seed: int) -> bytes:
    """As Python 2 wrote the distributed archive: every string, the array's bytes too, is a byte string."""
    data = pixels(seed)
    array = RECONSTRUCT + b"R(K\x01(K\x04M\x00\x0ct" + dtype(b"u1", b"|") + b"\x89T" + data.nbytes.to_bytes(4, "little")
    return b"\x80\x02}(U\x04data" + array + data.tobytes() + b"tbu."


def binary(seed: int) -> bytes:
    return np.concatenate([np.full((4, 1), seed, np.uint8), pixels(seed)], axis=1).tobytes()


def archive(path, files: dict[str, bytes], mode: str = "w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def batches(write) -> dict[str, bytes]:
    return {f"cifar-10-batches-py/{name}": write(seed) for name, seed in (("data_batch_2", 2), ("data_batch_1", 1))}


OTHERS = {"cifar-10-batches-py/test_batch": pickled(9), "cifar-10-batches-py/batches.meta": b"no pickle at all"}
FORMS = {
    "python 2": batches(by_python2) | OTHERS,
    **{f"protocol {p}": batches(lambda seed, p=p: pickled(seed, p)) | OTHERS for p in range(2, 6)},
    "binary": {f"cifar-10-batches-bin/data_batch_{i}.bin": binary(i) for i in (1, 2)} | {"x/test_batch.bin": binary(9)},
}


@pytest.mark.parametrize("form", FORMS)
def test_archive_and_folder_become_the_same_zip(tmp_path, form):
    packed = archive(tmp_path / "cifar.tar.gz", FORMS[form])
    with tarfile.open(packed) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    for source, name in ((packed, "a.zip"), (tmp_path / "unpacked", "b.zip")):
        convert(Options(source, tmp_path / name))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    data = ImageDataset(tmp_path / "a.zip", 32)
    assert data.names[:5] == [*(f"data_batch_1/0000{i}.png" for i in range(4)), "data_batch_2/00000.png"]
    np.testing.assert_array_equal(
        data.pixels(range(8)).numpy(), np.concatenate([pixels(1), pixels(2)]).reshape(8, 3, 32, 32)
    )
    with pytest.raises(CagcError, match="a.zip exists; add --overwrite"):
        convert(Options(packed, tmp_path / "a.zip"))


class Malicious:
    def __reduce__(self):
        return os.system, ("echo unpickled",)


# BUILD with a state of the file's own, by which numpy would take bytes of the file for pointers.
CLEARS_OBJECT_FLAG = b"\x80\x02" + dtype(b"O8", b"|") + b"."
ARRAY_OF_OBJECTS = b"\x80\x02" + RECONSTRUCT + b"R(K\x01K\x01\x85" + dtype(b"O8", b"|") + b"\x89U\x08AAAAAAAAtb."
BUILT_CLASS = b"\x80\x02cnumpy\ndtype\n}U\x01aK\x01sb."
HUGE_MEMO = b"\x80\x02}r\xff\xff\xff\x7f."
HUGE_CLAIM = b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"}."


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x/data_batch_1": pickle.dumps(Malicious())}, "asks to run .*system, which is refused"),
        ({"x/data_batch_1": pickled(1)[:-2000]}, "batch data_batch_1: truncated"),
        ({"x/data_batch_1": pickled(1, data=pixels(1).astype(np.float32))}, r"pixels float32 \[4, 3072\]"),
        (
            {"x/data_batch_1": pickled(1, data=pixels(1)[:, :3000])},
            r"pixels uint8 \[4, 3000\], expected .*\[n, 3072\]",
        ),
        ({"x/data_batch_1": pickle.dumps({b"labels": []})}, "got pixels none"),
        ({"x/data_batch_1": CLEARS_OBJECT_FLAG}, "got pixels none"),
        ({"x/data_batch_1": ARRAY_OF_OBJECTS}, "got pixels none"),
        ({"x/data_batch_1": BUILT_CLASS}, "got pixels none"),
        ({"x/data_batch_1": HUGE_MEMO}, "got pixels none"),
        ({"x/data_batch_1": HUGE_CLAIM}, "truncated"),
        ({"x/data_batch_1.bin": binary(1)[:-5]}, "multiple of 3073"),
        ({"x/readme.txt": b"hello"}, "no CIFAR-10 training batch"),
    ],
    ids=["code", "torn", "float", "shape", "entry", "dtype", "objects", "class", "memo", "claim", "bytes", "empty"],
)
def test_wrong_archives_are_one_line(tmp_path, capfd, files, message):
    with pytest.raises(CagcError, match=message) as error:
        read_images(archive(tmp_path / "cifar.tar.gz", files))
    assert "\n" not in str(error.value) and "cifar.tar.gz" in str(error.value)
    assert "unpickled" not in capfd.readouterr().out


def test_damaged_archives(tmp_path, monkeypatch):
    path = archive(tmp_path / "cifar.tar.gz", FORMS["binary"])
    whole = path.read_bytes()
    for damaged in (whole[:-9000], whole[:40] + b"\xff" * 40 + whole[80:], b"no archive at all", b""):
        path.write_bytes(damaged)
        with pytest.raises(CagcError, match="cifar.tar.gz: truncated, damaged or of another format|no CIFAR-10"):
            read_images(path)
    monkeypatch.setattr(cifar_to_zip, "MAX_BATCH_BYTES", 1 << 10)
    with pytest.raises(CagcError, match="got a batch of 12,292 bytes, expected 1,024 at most"):
        read_images(archive(path, FORMS["binary"]))
    monkeypatch.setattr(cifar_to_zip, "MAX_BYTES", 1 << 20)
    path.write_bytes(gzip.compress(archive(tmp_path / "a.tar", {"x/zeros": bytes(2 << 20)}, "w").read_bytes()))
    with pytest.raises(CagcError, match=r"unpacks to more than 1,048,576 bytes \(MAX_BYTES\)"):
        read_images(path)
