"""Reads files of PyTorch, NVlabs and safetensors as inert values, whose numbers are loaded on demand."""

from __future__ import annotations

import io
import os
import weakref
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .documents import open_safetensors
from .errors import CagcError
from .file_kinds import PICKLE, SAFETENSORS, TORCH_LEGACY, TORCH_ZIP, file_kind
from .inert_pickle import Budget, InertUnpickler
from .inert_values import Name, Storage, StoredTensor, kind
from .zips import has_directory

MAX_ZIP_DIRECTORY_BYTES = 16 << 20
MAX_ZIP_EXPANSION = 20
"""Limit of the unpacked size of a zip's members, in multiples of the file's size; PyTorch itself never compresses."""
MAX_PICKLE_BYTES = 256 << 20
"""Largest structure (``data.pkl``) of a torch zip, whose numbers lie in other members."""
_CHUNK = 1 << 22
_LEGACY_PROTOCOL = 1001

_ELEMENTS = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
    "QInt8Storage": torch.int8, "QUInt8Storage": torch.uint8, "QInt32Storage": torch.int32,
}  # fmt: skip


@dataclass
class Document:
    """The content of a file.

    Attributes:
        kind: one of :mod:`cagc.common.file_kinds`.
        root: plain values and those of :mod:`cagc.common.inert_values`; a dictionary of tensors for safetensors.
        header: metadata of a safetensors file, else empty.
        size: bytes of the file.
        given: what the caller says about the file that it does not store, such as "lr_mlp".
        assumed: what readers took for granted, because it is neither stored nor given.
    """

    kind: str
    root: Any
    header: Mapping[str, str]
    size: int
    given: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, Any] = field(default_factory=dict)


class _Bounded:
    """A file whose reads are limited to the bytes that are left, whatever a damaged stream claims."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size, self.tell = file, size, file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(max(0, min(count, self.size - self.tell())))

    def readline(self) -> bytes:
        return self._file.readline(1 << 20)


def open_document(path: Path) -> Document:
    """Read the structure of a file of tensors; the file stays open as long as the document is used.

    Raises:
        CagcError: the file is of another kind, damaged, or beyond a limit. Exception: of many types if it is damaged;
            call this under :func:`cagc.common.reading.reading`.
    """
    found = file_kind(path)
    if found == SAFETENSORS:
        return _open_safetensors(path)
    file = path.open("rb")
    try:
        size = os.fstat(file.fileno()).st_size
        if found == TORCH_ZIP:
            root = _read_zip(file, size)
        elif found == TORCH_LEGACY:
            root = _read_legacy(file, size, Budget(size))
        else:
            budget = Budget(size)
            calls = {"torch.storage._load_from_bytes": lambda data: _storage_of_bytes(data, budget)}
            root = InertUnpickler(_Bounded(file, size), budget, calls).load()
    except BaseException:
        file.close()
        raise
    document = Document(found, root, {}, size)
    weakref.finalize(document, file.close)
    return document


def load_plain(path: Path) -> Any:
    """Load tensors, numbers, text and containers that :func:`torch.save` wrote, with all tensors on the CPU.

    Raises:
        CagcError: as :func:`open_document`, or the file holds anything else.
    """
    document = open_document(path)
    return _plain(document.root)


def _plain(value: Any) -> Any:
    if isinstance(value, StoredTensor):
        return value.load()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    if value is None or isinstance(value, (str, bytes, int, float, set, frozenset)):
        return value
    raise CagcError(f"holds {kind(value)}, expected tensors, numbers, text and containers")


@dataclass(eq=False)
class SafeTensor:
    """A tensor of a safetensors file, loaded by :meth:`load`."""

    file: Any
    key: str
    shape: tuple[int, ...]

    def load(self) -> torch.Tensor:
        """Load the tensor on the CPU."""
        return self.file.get_tensor(self.key)


def _open_safetensors(path: Path) -> Document:
    file = open_safetensors(path)
    root = {name: SafeTensor(file, name, tuple(file.get_slice(name).get_shape())) for name in file.keys()}
    return Document(SAFETENSORS, root, file.metadata() or {}, path.stat().st_size)


def open_zip(file: BinaryIO, size: int) -> zipfile.ZipFile:
    """Open the zip in ``file``, which has ``size`` bytes.

    Raises:
        CagcError: its directory, or what it unpacks to, is beyond a limit. zipfile.BadZipFile: it is damaged.
    """
    if not has_directory(file, MAX_ZIP_DIRECTORY_BYTES):
        raise CagcError("truncated: a zip without its directory")
    archive = zipfile.ZipFile(file)
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MAX_ZIP_EXPANSION * size:
        raise CagcError(f"a zip that unpacks to more than {MAX_ZIP_EXPANSION} times its size")
    return archive


def _read_zip(file: BinaryIO, size: int) -> Any:
    archive = open_zip(file, size)
    members = {member.filename: member for member in archive.infolist()}
    structure = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(structure) != 1:
        inside = ", ".join(sorted(members)[:3])
        raise CagcError(f"a zip that torch did not write (it holds {inside[:100] or 'nothing'})")
    prefix = structure[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in members:
        raise CagcError("a TorchScript program, expected a state dict or a pickled network")
    order = members.get(f"{prefix}byteorder")
    if order is not None and archive.read(order)[:16] != b"little":
        raise CagcError("a torch file in big-endian byte order")
    if members[structure[0]].file_size > MAX_PICKLE_BYTES:
        raise CagcError(f"a torch file whose structure alone has more than {MAX_PICKLE_BYTES >> 20} MB")
    known: dict[str, Storage] = {}

    def storage(identifier: Any) -> Storage:
        dtype, name, count = _identified(identifier)
        member = members.get(f"{prefix}data/{name}")
        if member is None:
            raise CagcError(f"the numbers of storage {name[:40]} are missing")
        if count * dtype.itemsize > member.file_size:
            raise CagcError(f"storage {name[:40]} claims {count * dtype.itemsize} bytes of {member.file_size}")
        if name not in known:
            known[name] = Storage(dtype, member.file_size, lambda: _member(archive, member))
        return known[name] if known[name].dtype == dtype else known[name].as_type(dtype)

    return _unpickle(archive.read(structure[0]), Budget(size), storage)


def _unpickle(data: bytes, budget: Budget, storage: Callable[[Any], Storage]) -> Any:
    return InertUnpickler(io.BytesIO(data), budget, persistent=storage).load()


def _identified(identifier: Any) -> tuple[torch.dtype, str, int]:
    """Return element type, key and number of elements from a storage's persistent identifier."""
    tag, name, key, _, count, *_ = identifier
    dtype = _ELEMENTS.get(name.name) if isinstance(name, Name) else None
    if tag != "storage" or dtype is None or not isinstance(key, str) or type(count) is not int or count < 0:
        raise CagcError("a storage of an unknown type")
    return dtype, key, count


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> torch.Tensor:
    data = torch.empty(member.file_size, dtype=torch.uint8)
    view, done = memoryview(data.numpy()), 0
    with archive.open(member) as stream:
        while done < len(view) and (part := stream.read(min(_CHUNK, len(view) - done))):
            view[done : done + len(part)] = part
            done += len(part)
        if done < len(view) or stream.read(1):
            raise CagcError(f"truncated: storage {Path(member.filename).name} is not complete")
    return data


def _read_legacy(file: BinaryIO, size: int, budget: Budget) -> Any:
    """Read a file of torch before 1.6: five pickles, then the storages one after another."""
    stream = _Bounded(file, size)
    plain = InertUnpickler(stream, budget)
    plain.load()  # the magic number
    if plain.load() != _LEGACY_PROTOCOL:
        raise CagcError("a torch file of an unknown version")
    machine = plain.load()
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise CagcError("a torch file in big-endian byte order")
    storages: dict[str, Storage] = {}
    places: dict[str, int] = {}

    def persistent(identifier: Any) -> Any:
        if isinstance(identifier, tuple) and len(identifier) > 1 and identifier[0] == "module":
            return identifier[1]  # a class with its source code, which is ignored
        dtype, key, count = _identified(identifier)
        nbytes = count * dtype.itemsize
        if nbytes > size:
            raise CagcError(f"storage {key[:40]} claims {nbytes} bytes of a file of {size}")
        if key not in storages:
            storages[key] = Storage(dtype, nbytes, lambda: _bytes_at(file, places[key], nbytes))
        same = storages[key].dtype == dtype and storages[key].nbytes == nbytes
        if not same:
            raise CagcError(f"storage {key[:40]} is described twice, and differently")
        return storages[key]

    root = InertUnpickler(stream, budget, persistent=persistent).load()
    for key in plain.load():
        if key not in storages:
            raise CagcError("numbers of an unknown storage")
        count = int.from_bytes(stream.read(8), "little")
        places[key] = file.tell()
        if count * storages[key].dtype.itemsize != storages[key].nbytes or places[key] + storages[key].nbytes > size:
            raise CagcError(f"truncated: storage {key[:40]} is not complete")
        file.seek(storages[key].nbytes, os.SEEK_CUR)
    if len(places) < len(storages):
        raise CagcError("truncated: numbers of a storage are missing")
    return root


def _bytes_at(file: BinaryIO, place: int, count: int) -> torch.Tensor:
    data = torch.empty(count, dtype=torch.uint8)
    if count:
        file.seek(place)
        if file.readinto(memoryview(data.numpy())) != count:
            raise CagcError("truncated: the numbers of a storage are not complete")
    return data


def _storage_of_bytes(data: Any, budget: Budget) -> Storage:
    """Read the torch file that NVlabs' pickles embed for each storage; it must hold exactly one storage."""
    if not isinstance(data, bytes) or not data:
        raise CagcError("a storage that is not made of bytes")
    if data[:4] == b"PK\x03\x04":
        found = _read_zip(io.BytesIO(data), len(data))
    else:
        found = _read_legacy(io.BytesIO(data), len(data), budget)
    if not isinstance(found, Storage):
        raise CagcError(f"one of its storages is {kind(found)}, refused")
    return found


__all__ = ["PICKLE", "SAFETENSORS", "TORCH_LEGACY", "TORCH_ZIP", "Document", "load_plain", "open_document", "open_zip"]
