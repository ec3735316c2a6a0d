"""The calls in a pickle that are accepted, and the function of ours that answers each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .errors import CagcError
from .inert_values import Name, Record, Storage, StoredArray, StoredDtype, StoredTensor, UnreadableTensor, kind, scalar

MAX_KEY_PARTS = 16
_MOVED = (("numpy._core.", "numpy.core."), ("__builtin__.", "builtins."), ("copy_reg.", "copyreg."))
_KEYS = (str, int, float, bool, bytes, complex, type(None), Name, Record, Storage, StoredTensor, UnreadableTensor)


def key(value: Any) -> Any:
    """Return ``value`` if it may be a key of a dictionary or set; hashing a deeply nested one would exhaust the stack.

    Raises:
        CagcError: it may not.
    """
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) > MAX_KEY_PARTS or not all(isinstance(part, _KEYS) for part in parts):
        raise CagcError(f"a dictionary or set with {kind(value)} for a key")
    return value


def _pairs(items: Any = ()) -> dict[Any, Any]:
    return {key(k): v for k, v in (items.items() if isinstance(items, Mapping) else items)}


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    return StoredTensor(storage, offset, shape, stride)


def _typed_tensor(storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any):
    found = getattr(torch, dtype.name, None) if isinstance(dtype, Name) and dtype.module == "torch" else None
    if not isinstance(found, torch.dtype) or not isinstance(storage, Storage):
        raise CagcError("a tensor without a type")
    return StoredTensor(storage.as_type(found), offset, shape, stride)


def _array_of_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> StoredArray:
    array = StoredArray()
    array.fill(data, dtype, shape, order == "F")
    return array


def persistent_module(meta: dict[str, Any]) -> Record:
    """Build the record of an NVlabs network: class name and attributes. The source code beside them is ignored."""
    return Record(Name("", str(meta["class_name"])[:80]), dict(meta["state"]))


def _path(*parts: Any) -> str:
    return "/".join(str(part) for part in parts if isinstance(part, str))


def _unreadable(what: str) -> Callable[..., UnreadableTensor]:
    return lambda *_: UnreadableTensor(what)


def _opaque(*_: Any) -> None:
    """Replace dates, decimals and the like, which no network needs, by None."""


CALLS: dict[str, Callable[..., Any]] = {
    **{f"collections.{name}": _pairs for name in ("OrderedDict", "Counter")},
    **{f"builtins.{known.__name__}": known for known in (list, tuple, complex)},
    "builtins.bytes": lambda: b"",
    "builtins.bytearray": lambda data=b"", *_: data,
    "builtins.dict": _pairs,
    "builtins.set": lambda items=(): {key(item) for item in items},
    "builtins.frozenset": lambda items=(): frozenset(key(item) for item in items),
    **{f"builtins.{name}": lambda *bounds: tuple(bounds) for name in ("slice", "range", "xrange")},
    "types.SimpleNamespace": lambda *_: Record(Name("types", "SimpleNamespace")),
    "collections.defaultdict": lambda *_: {},
    "collections.deque": lambda items=(), *_: list(items),
    **{f"pathlib.{name}Path": _path for name in ("", "Posix", "Windows")},
    **{f"pathlib._local.{name}Path": _path for name in ("", "Posix", "Windows")},
    **{f"pathlib.Pure{name}Path": _path for name in ("", "Posix", "Windows")},
    **{f"datetime.{name}": _opaque for name in ("datetime", "date", "time", "timedelta", "timezone")},
    "decimal.Decimal": _opaque,
    "torch.Size": lambda items=(): tuple(items),
    "torch.device": lambda *parts: ":".join(map(str, parts)),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._utils._rebuild_sparse_tensor": _unreadable("sparse"),
    "torch._utils._rebuild_sparse_csr_tensor": _unreadable("sparse"),
    "torch._utils._rebuild_nested_tensor": _unreadable("nested"),
    "torch._utils._rebuild_qtensor": _unreadable("quantized"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable("meta"),
    "torch._utils._rebuild_wrapper_subclass": _unreadable("wrapped"),
    "torch._utils._rebuild_device_tensor_from_numpy": lambda array, *_: array,
    "torch.serialization._get_layout": _opaque,
    "torch.nn.backends.thnn._get_thnn_function_backend": _opaque,
    "numpy.dtype": lambda code, *_: StoredDtype(code),
    "numpy.core.multiarray._reconstruct": lambda *_: StoredArray(),
    "numpy.core.multiarray.scalar": scalar,
    "numpy.core.numeric._frombuffer": _array_of_buffer,
    "torch_utils.persistence._reconstruct_persistent_obj": persistent_module,
    "dnnlib.util.EasyDict": _pairs,
}


def usual_name(name: Name) -> str:
    """Translate names of other versions of Python and numpy to those in :data:`CALLS`."""
    asked = str(name)
    for now, before in _MOVED:
        if asked.startswith(now):
            asked = before + asked.removeprefix(now)
    return asked
