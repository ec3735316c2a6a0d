"""CIFAR-10 from the files that its authors distribute: the Python or the binary archive, packed or unpacked.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The Python archive holds pickles; they are
read by an unpickler that can build arrays, containers, strings and numbers, and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..errors import CagcError
from .data import ImageDataset

_SIDE = 32
_PIXELS = 3 * _SIDE**2
_BATCH = re.compile(r"(?:.*/)?data_batch_\d+(\.bin)?")
# A batch has 10,000 images of 3,073 bytes; no file of the archive comes near this.
_MAX_BYTES = 256 << 20


class _ArrayUnpickler(pickle.Unpickler):
    _ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


class CifarDataset(Sequence[Tensor]):
    """The 50,000 training images of CIFAR-10, or as many as the files hold, with the interface of ImageDataset.

    Args:
        path: ``cifar-10-python.tar.gz``, ``cifar-10-binary.tar.gz``, or the folder that either unpacks to.

    Attributes:
        resolution: 32.
        names: of the images, by batch and index.
        skipped: empty: a damaged archive is refused as a whole.

    Raises:
        CagcError: the archive is truncated, holds no training batch, or a batch is not as it must be.
    """

    resolution = _SIDE

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.skipped: dict[str, str] = {}
        parts = {name: self._images(name, data) for name, data in sorted(self._files())}
        if not parts:
            raise CagcError(f"data: {self.path} holds no CIFAR-10 training batch (data_batch_1 to data_batch_5)")
        self._pixels = torch.from_numpy(np.concatenate(list(parts.values())))
        self.names = [f"{name}/{i:05d}" for name, images in parts.items() for i in range(len(images))]

    def _files(self) -> Iterator[tuple[str, bytes]]:
        if self.path.is_dir():
            for file in sorted(self.path.rglob("data_batch_*")):
                if file.is_file() and _BATCH.fullmatch(file.name):
                    yield file.name, file.read_bytes()
            return
        try:
            with tarfile.open(self.path) as archive:
                for member in archive:
                    if member.isfile() and _BATCH.fullmatch(member.name):
                        yield Path(member.name).name, archive.extractfile(member).read(_MAX_BYTES)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise CagcError(f"data: {self.path} is truncated or no tar archive ({error})") from None

    def _images(self, name: str, data: bytes) -> np.ndarray:
        pixels = self._binary(name, data) if name.endswith(".bin") else self._pickled(name, io.BytesIO(data))
        return pixels.reshape(-1, 3, _SIDE, _SIDE)

    def _binary(self, name: str, data: bytes) -> np.ndarray:
        if not data or len(data) % (_PIXELS + 1):
            raise CagcError(
                f"data: {name} in {self.path} has {len(data)} bytes, expected a multiple of {_PIXELS + 1}: "
                "a label and 3 x 32 x 32 pixels"
            )
        return np.frombuffer(data, np.uint8).reshape(-1, _PIXELS + 1)[:, 1:].copy()

    def _pickled(self, name: str, stream: BinaryIO) -> np.ndarray:
        try:
            document = _ArrayUnpickler(stream, encoding="bytes").load()
            pixels = document[b"data"] if b"data" in document else document["data"]
        except Exception as error:  # a damaged pickle may raise anything at all
            reason = " ".join(str(error).split())[:120]
            raise CagcError(f"data: {name} in {self.path} is no batch of CIFAR-10 ({reason})") from None
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
            got = f"{getattr(pixels, 'dtype', type(pixels).__name__)} {list(getattr(pixels, 'shape', []))}"
            raise CagcError(f"data: {name} in {self.path} has pixels {got}, expected uint8 [n, {_PIXELS}]")
        return pixels

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        """Image ``index`` as a tensor [3, 32, 32] float32 in [-1, 1]."""
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Images [N, 3, 32, 32] float32 in [-1, 1] at ``indices``. Raises IndexError outside."""
        return self._pixels[torch.as_tensor(indices, dtype=torch.long)].float().div_(127.5).sub_(1)

    def fingerprint(self) -> str:
        """Hash, 16 hexadecimal digits, of the pixels."""
        return hashlib.sha256(self._pixels.numpy()).hexdigest()[:16]

    def describe(self) -> str:
        """One line for a log or a report."""
        return f"{self.path.name}: {len(self):,} images of CIFAR-10"


def open_images(path: str | Path, resolution: int, convert: bool = False) -> ImageDataset | CifarDataset:
    """Training images at ``resolution``: CIFAR-10's archives or their folder, or any folder or zip of images.

    With ``convert`` images that are not square or not RGB are cropped and converted, as by :class:`ImageDataset`.

    Raises:
        CagcError: as :class:`CifarDataset` and :class:`ImageDataset`, or CIFAR-10 at another size than 32.
    """
    path = Path(path)
    packed = path.is_file() and path.name.endswith((".tar", ".tar.gz", ".tgz"))
    unpacked = path.is_dir() and any(_BATCH.fullmatch(file.name) for file in path.rglob("data_batch_*"))
    if not (packed or unpacked):
        return ImageDataset(path, resolution, convert=convert)
    if resolution != _SIDE:
        raise CagcError(f"data: CIFAR-10 has images of {_SIDE} px, the generator {resolution} px")
    return CifarDataset(path)
