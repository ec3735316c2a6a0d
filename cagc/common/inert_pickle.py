"""An unpickler that cannot run code, for protocols 0 to 5 as PyTorch, NVlabs' networks and numpy use them.

The opcodes are read by the standard library's :mod:`pickletools`. Containers, numbers, text and bytes are built; names
of classes and functions stay names, and objects become records. The calls in :data:`CALLS` are answered by functions
of ours that build such values; any other call is an error.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from .errors import CagcError
from .inert_calls import CALLS, key, persistent_module, usual_name
from .inert_values import Name, Record, StoredArray, StoredDtype, kind

MAX_OPCODES = 2_000_000
MAX_NESTING = 200
MAX_INTEGER_BITS = 256
_COPIES = 3
"""Bytes that may be allocated per byte of a file: protocol 2 writes bytes as text, which is encoded and copied."""

_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NEW = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Budget:
    """Counts the opcodes and allocated bytes that one file may still use."""

    def __init__(self, size: int) -> None:
        self.opcodes = MAX_OPCODES
        self.bytes = _COPIES * size + 4096

    def step(self, count: int = 1) -> None:
        """Count opcodes, or elements that an opcode copies. Raises CagcError beyond the limit."""
        self.opcodes -= count
        if self.opcodes < 0:
            raise CagcError(f"a pickle of more than {MAX_OPCODES:,} steps, which no checkpoint needs")

    def copy(self, values: Any) -> None:
        """Count the bytes and elements that a call may copy from its arguments. Raises CagcError beyond the limit."""
        for value in values:
            if isinstance(value, (str, bytes, bytearray)):
                self.bytes -= len(value)
                if self.bytes < 0:
                    raise CagcError("a pickle that makes far more bytes than it holds")
            elif isinstance(value, (list, tuple, dict, set, frozenset)):
                self.step(len(value))


class InertUnpickler:
    """Reads one pickle at a time from ``stream``.

    Args:
        stream: has ``read``, ``readline`` and ``tell``, which never allocate more than the rest of the file.
        budget: shared by all pickles of one file.
        calls: further accepted calls by name, which take precedence over :data:`CALLS`.
        persistent: returns the object of a persistent identifier.
    """

    def __init__(
        self,
        stream: BinaryIO,
        budget: Budget,
        calls: Mapping[str, Callable[..., Any]] | None = None,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.stream, self.budget = stream, budget
        self.calls = {**CALLS, **(calls or {}), "_codecs.encode": self._encode}
        self.calls |= {"copyreg._reconstructor": self._reconstruct, "torch._tensor._rebuild_from_type_v2": self._typed}
        self.persistent = persistent

    def load(self) -> Any:
        """Return the next pickle's value, which holds only plain values and those of :mod:`inert_values`.

        Raises:
            CagcError: it asks for a call that is not accepted, or exceeds a limit of this module.
            Exception: of many types if the stream is damaged.
        """
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(self.stream):
            self.budget.step()
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _LITERALS:
                if type(argument) is int and argument.bit_length() > MAX_INTEGER_BITS:
                    raise CagcError(f"an integer of {argument.bit_length()} bits, expected at most {MAX_INTEGER_BITS}")
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _NEW:
                self.stack.append(_NEW[name]())
            elif name in _TUPLES:
                self.stack[-_TUPLES[name] :] = [tuple(self._top(_TUPLES[name]))]
            elif name.endswith("GET"):
                self.stack.append(self.memo[argument])
            elif name.endswith("PUT"):
                self.memo[argument] = self.stack[-1]
            else:
                step = getattr(self, f"_{name.lower()}", None)
                if step is None:
                    raise CagcError(f"a pickle with the step {name}, which no checkpoint needs")
                step(argument)
        raise CagcError("truncated")

    def _top(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise CagcError("a damaged pickle: it takes more values than it has")
        return self.stack[-count:]

    def _take(self, count: int) -> list[Any]:
        values = self._top(count)
        del self.stack[-count:]
        return values

    def _marked(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _proto(self, version: int) -> None:
        if version > 5:
            raise CagcError(f"a pickle of protocol {version}, expected at most 5")

    def _frame(self, _: Any) -> None: ...

    def _readonly_buffer(self, _: Any) -> None: ...

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))
        if len(self.marks) > MAX_NESTING:
            raise CagcError(f"a pickle nested more than {MAX_NESTING} levels deep")

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _pop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._take(1)

    def _list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append({})
        self._set(items)

    def _frozenset(self, _: Any) -> None:
        self.stack.append(frozenset(key(item) for item in self._marked()))

    def _append(self, _: Any) -> None:
        self._extend(self._take(1))

    def _appends(self, _: Any) -> None:
        self._extend(self._marked())

    def _extend(self, values: list[Any]) -> None:
        target = self._top(1)[0]
        content = target.elements if isinstance(target, Record) else target
        if not isinstance(content, list):
            raise CagcError(f"a damaged pickle: it appends to {kind(target)}")
        content.extend(values)

    def _setitem(self, _: Any) -> None:
        self._set(self._take(2))

    def _setitems(self, _: Any) -> None:
        self._set(self._marked())

    def _set(self, values: list[Any]) -> None:
        target = self._top(1)[0]
        content = target.entries if isinstance(target, Record) else target
        if not isinstance(content, dict) or len(values) % 2:
            raise CagcError(f"a damaged pickle: it sets items of {kind(target)}")
        content.update((key(k), v) for k, v in zip(values[::2], values[1::2]))

    def _additems(self, _: Any) -> None:
        items, target = self._marked(), self._top(1)[0]
        if not isinstance(target, set):
            raise CagcError(f"a damaged pickle: it adds to {kind(target)}")
        target.update(map(key, items))

    def _global(self, argument: str) -> None:
        self._named(*argument.split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        self._named(*self._take(2))

    def _named(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise CagcError("a damaged pickle: a class without a name")
        if module.startswith("dnnlib.tflib"):
            raise CagcError("a TensorFlow snapshot; legacy.py of stylegan2-ada-pytorch writes one that can be read")
        self.stack.append(Name(module[:200], name[:200]))

    def _persid(self, identifier: Any) -> None:
        if self.persistent is None:
            raise CagcError("a pickle that refers to something outside of it")
        self.stack.append(self.persistent(identifier))

    def _binpersid(self, _: Any) -> None:
        self._persid(self._take(1)[0])

    def _reduce(self, _: Any) -> None:
        function, arguments = self._take(2)
        self.stack.append(self._call(function, arguments))

    def _newobj(self, _: Any) -> None:
        name, arguments = self._take(2)
        self.stack.append(self._new(name, arguments))

    def _newobj_ex(self, _: Any) -> None:
        name, arguments, _ = self._take(3)
        self.stack.append(self._new(name, arguments))

    def _obj(self, _: Any) -> None:
        name, *arguments = self._marked()
        self.stack.append(self._call(name, arguments) if arguments else self._new(name, ()))

    def _inst(self, argument: str) -> None:
        self._named(*argument.split(" ", 1))
        name, arguments = self._take(1)[0], self._marked()
        self.stack.append(self._call(name, arguments) if arguments else self._new(name, ()))

    def _build(self, _: Any) -> None:
        state = self._take(1)[0]
        target = self._top(1)[0]
        if isinstance(target, (StoredArray, StoredDtype)):
            self.budget.copy(state)
            target.set_state(state)
        elif isinstance(target, Record):
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, dict):
                    target.state.update((name, value) for name, value in part.items() if isinstance(name, str))

    def _call(self, function: Any, arguments: Any) -> Any:
        meaning = self._meaning(function)
        if meaning is None:
            asked = usual_name(function) if isinstance(function, Name) else kind(function)
            raise CagcError(
                f"holds more than tensors, numbers, text and containers: it asks to run {asked}, which is refused; who "
                "trusts the file can load it in the code that it comes from and save the state dicts alone"
            )
        self.budget.copy(arguments)
        return meaning(*arguments)

    def _meaning(self, function: Any) -> Callable[..., Any] | None:
        if not isinstance(function, Name):
            return None
        asked = usual_name(function)
        if asked.endswith(".persistence._reconstruct_persistent_obj"):  # forks move the module
            return persistent_module
        return self.calls.get(asked)

    def _new(self, name: Any, arguments: Any) -> Any:
        """Build an object of a class. Constructors are never run: a class that is not in the table becomes a record."""
        if not isinstance(name, Name):
            raise CagcError(f"a damaged pickle: an object of {kind(name)}")
        return Record(name) if self._meaning(name) is None else self._call(name, arguments)

    def _reconstruct(self, name: Any, *_: Any) -> Any:
        return self._new(name, ())

    def _typed(self, function: Any, _type: Any, arguments: Any, *_: Any) -> Any:
        return self._call(function, arguments)

    def _encode(self, text: Any, encoding: Any = "latin-1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
            raise CagcError("a damaged pickle: bytes that are not written as text")
        return text.encode(encoding)
