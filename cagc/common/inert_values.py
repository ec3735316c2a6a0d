"""Inert values that files of tensors are read as: names, records of objects, and tensors that are loaded on demand.

Nothing here runs code of a file, and every size that a file claims is checked against its bytes before it is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .errors import CagcError

MAX_DIMENSIONS = 12
MAX_EXPANDED_ELEMENTS = 1 << 20
"""Limit of elements of a tensor that repeats those of its storage, as ``expand`` does."""

_DTYPE = re.compile(r"(b1|i[1248]|u[1248]|f[248]|c8|c16)|([SU])(\d{0,6})|V\d{0,6}|O8?|[mM]8")


@dataclass(frozen=True)
class Name:
    """The name of a class or function in a pickle; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """An object whose class is not looked up: its attributes and, for a container, its content."""

    name: Name
    state: dict[str, Any] = field(default_factory=dict)
    entries: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


class Storage:
    """Elements of one type in a file; ``fetch`` reads their bytes as a uint8 tensor."""

    def __init__(self, dtype: torch.dtype, nbytes: int, fetch: Callable[[], torch.Tensor]) -> None:
        self.dtype = dtype
        self.nbytes = nbytes
        self._fetch: Callable[[], torch.Tensor] = fetch
        self._data: torch.Tensor | None = None

    def as_type(self, dtype: torch.dtype) -> Storage:
        """Return the same bytes as elements of another type."""
        return Storage(dtype, self.nbytes, self.bytes)

    def bytes(self) -> torch.Tensor:
        """Read the bytes once and keep them, because several tensors may share them."""
        if self._data is None:
            self._data = self._fetch()
        return self._data

    def __len__(self) -> int:
        return self.nbytes // self.dtype.itemsize


class StoredTensor:
    """A dense tensor in a file, loaded by :meth:`load`.

    Raises:
        CagcError: offset, sizes or strides reach beyond the storage, or the tensor is far larger than its storage.
    """

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any) -> None:
        if not isinstance(storage, Storage):
            raise CagcError(f"a tensor whose storage is {kind(storage)}, expected one of torch's storages")
        self.storage, self.offset, self.shape, self.stride = storage, offset, tuple(shape), tuple(stride)
        numbers = (offset, *self.shape, *self.stride)
        if any(type(n) is not int or not 0 <= n < 2**62 for n in numbers) or len(self.shape) != len(self.stride):
            raise CagcError("a tensor whose offset, sizes and strides are not natural numbers")
        if len(self.shape) > MAX_DIMENSIONS:
            raise CagcError(f"a tensor of {len(self.shape)} dimensions, expected at most {MAX_DIMENSIONS}")
        count = math.prod(self.shape)
        last = offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride))
        if count and last >= len(storage):
            raise CagcError(f"a tensor of shape {list(self.shape)} reaches element {last} of {len(storage)} stored")
        if count > max(len(storage), MAX_EXPANDED_ELEMENTS):
            raise CagcError(f"a tensor claims {count} elements by repeating {len(storage)} stored ones")

    @property
    def dtype(self) -> torch.dtype:
        """Type of the elements in the file."""
        return self.storage.dtype

    def load(self) -> torch.Tensor:
        """Load the tensor, contiguous, on the CPU, without a gradient graph."""
        if not math.prod(self.shape):
            return torch.empty(self.shape, dtype=self.dtype)
        data = self.storage.bytes()[: len(self.storage) * self.dtype.itemsize].view(self.dtype)
        return data.as_strided(self.shape, self.stride, self.offset).contiguous()


@dataclass(eq=False)
class UnreadableTensor:
    """A tensor of a kind that is not supported, such as a sparse one; an error is raised only if it is needed."""

    kind: str


class StoredDtype:
    """A plain number type of numpy, by its name; other types are marked as unreadable by ``plain = None``."""

    def __init__(self, code: Any) -> None:
        match = _DTYPE.fullmatch(code) if isinstance(code, str) else None
        if match is None:
            raise CagcError(f"a numpy type {str(code)[:20]!r}, expected a plain number type")
        self.text = match[2]
        self.plain = np.dtype(code) if match[1] or (match[2] and match[3]) else None

    def set_state(self, state: Any) -> None:
        """Set the byte order from numpy's pickled state; fields and subarrays make the type unreadable."""
        _, order, subarray, names, fields, size, *_ = state
        if subarray is not None or names is not None or fields is not None:
            self.plain = None
        elif self.text and type(size) is int and 0 < size < 1 << 20 and size % np.dtype(f"{self.text}1").itemsize == 0:
            self.plain = np.dtype(f"{self.text}{size // np.dtype(f'{self.text}1').itemsize}")
        if self.plain is not None and order in ("<", ">"):
            self.plain = self.plain.newbyteorder(order)


class StoredArray:
    """A numpy array in a pickle. It is empty until ``set_state`` or ``fill``."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.plain: np.dtype | None = np.dtype("u1")
        self._data: bytes = b""
        self._fortran = False

    def set_state(self, state: Any) -> None:
        """Set the array from numpy's pickled state: version, shape, type, order, bytes."""
        *_, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, bool(fortran))

    def fill(self, data: Any, dtype: Any, shape: Any, fortran: bool) -> None:
        """Set the elements to ``data``; those of an array of objects are not read.

        Raises:
            CagcError: the number of bytes does not match shape and type.
        """
        if not isinstance(dtype, StoredDtype):
            raise CagcError("a numpy array without a type")
        shape = tuple(shape)
        if len(shape) > MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
            raise CagcError("a numpy array whose shape is not of natural numbers")
        self.shape, self.plain, self._fortran = shape, dtype.plain, fortran
        if self.plain is None:
            return
        self._data = data.encode("latin-1") if isinstance(data, str) else bytes(data)
        expected = math.prod(shape) * self.plain.itemsize
        if len(self._data) != expected:
            raise CagcError(f"a numpy array of {len(self._data)} bytes, its shape and type need {expected}")

    def numpy(self) -> np.ndarray:
        """Return the array, writable, in native byte order.

        Raises:
            CagcError: its elements are not plain numbers.
        """
        if self.plain is None or self.plain.kind not in "biufc":
            raise CagcError("a numpy array of objects, text or records, expected plain numbers")
        array = np.frombuffer(self._data, self.plain)
        array = array.reshape(self.shape, order="F" if self._fortran else "C")
        return array.astype(self.plain.newbyteorder("="), order="C")

    def load(self) -> torch.Tensor:
        """Return the array as a tensor."""
        return torch.from_numpy(self.numpy())


Stored = StoredTensor | StoredArray | UnreadableTensor


def scalar(dtype: Any, data: Any = b"") -> Any:
    """Return a pickled numpy scalar as a Python number or text, or None if it is neither."""
    if not isinstance(dtype, StoredDtype):
        raise CagcError("a numpy scalar without a type")
    data = data.encode("latin-1") if isinstance(data, str) else data
    if dtype.plain is None:
        return None
    if len(data) != dtype.plain.itemsize:
        raise CagcError(f"a numpy scalar of {len(data)} bytes, its type needs {dtype.plain.itemsize}")
    if dtype.text == "U":
        return data.decode("utf-32-be" if dtype.plain.byteorder == ">" else "utf-32-le").rstrip("\0")
    return np.frombuffer(data, dtype.plain)[0].item()


def kind(value: Any) -> str:
    """Describe a value's type for a message, by the class that a record or name stands for."""
    if isinstance(value, Record):
        return f"an object of {value.name}"
    if isinstance(value, Name):
        return f"the name {value}"
    names = {dict: "a dictionary", StoredTensor: "a tensor", StoredArray: "a numpy array", Storage: "a storage"}
    if isinstance(value, UnreadableTensor):
        return f"a {value.kind} tensor"
    return names.get(type(value), type(value).__name__)
