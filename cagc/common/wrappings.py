"""Finds state dicts inside nested dictionaries, pickled modules and prefixes of names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from .errors import CagcError
from .inert_values import Record, StoredArray, StoredTensor, UnreadableTensor, kind
from .torch_files import Document, SafeTensor

MAX_TENSORS = 20_000
MAX_MODULE_DEPTH = 32
MAX_WRAPPINGS = 4
MAX_NETWORKS = 8
"""Entries of a list that is searched for networks."""
_STORED = (StoredTensor, StoredArray, UnreadableTensor, SafeTensor, torch.Tensor)


@dataclass(eq=False)
class Part:
    """The tensors of one network in a file.

    Attributes:
        place: keys that lead to the tensors, joined by "/".
        prefix: common prefix of their names in the file, such as "decoder.".
        tensors: stored tensors by name without the prefix; loaded by :meth:`fetch`.
        options: other attributes of a pickled module, by dotted name without the prefix.
        class_name: class of a pickled module, else "".
        beside: entries of the enclosing dictionaries.
        document: the document of the tensors, kept open while they are in use.
    """

    place: str
    prefix: str
    tensors: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    class_name: str = ""
    beside: dict[Any, Any] = field(default_factory=dict)
    document: Document | None = None

    @property
    def label(self) -> str:
        """Where the tensors are, in the form that ``--key`` accepts."""
        return "/".join(filter(None, (self.place, self.prefix)))

    def under(self, prefix: str) -> Part:
        """Return the part whose names begin with ``prefix``, with the prefix removed."""
        if not prefix:
            return self
        tensors, options = (
            {name.removeprefix(prefix): value for name, value in names.items() if name.startswith(prefix)}
            for names in (self.tensors, self.options)
        )
        return Part(self.place, prefix, tensors, options, self.class_name, self.beside, self.document)

    def assume(self, name: str, default: Any) -> Any:
        """What the caller said about ``name``, which the file does not store; else ``default``, which is noted."""
        if self.document is None:
            return default
        if name in self.document.given:
            return self.document.given[name]
        self.document.assumed[name] = default
        return default

    def fetch(self, name: str) -> torch.Tensor:
        """Load tensor ``name``: dense, contiguous, on the CPU, without a gradient graph.

        Raises:
            CagcError: it is of a kind that is not supported. KeyError: there is none.
        """
        return fetch(self.tensors[name], name)


def fetch(value: Any, name: str) -> torch.Tensor:
    """Load ``value``, a stored tensor or array or a tensor; see :meth:`Part.fetch`."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise CagcError(f"{name} is a sparse, meta or quantized tensor, expected one with dense numbers")
        return value.detach().cpu().contiguous()
    if isinstance(value, UnreadableTensor):
        raise CagcError(f"{name} is a {value.kind} tensor, expected one with dense numbers")
    return value.load()


def parts(document: Document, anchors: Iterable[str]) -> list[Part]:
    """Find every group of tensors that contains a name of ``anchors``, with any prefix, which the part records."""
    found = []
    for state in states(document):
        prefixes = dict.fromkeys(
            name[: -len(anchor)]
            for anchor in anchors
            for name in state.tensors
            if name == anchor or name.endswith(f".{anchor}")
        )
        found += [state.under(prefix) for prefix in prefixes]
    return found


def states(document: Document) -> Iterator[Part]:
    """Yield every dictionary of tensors and every pickled module in ``document``, outermost first."""
    yield from _states(document.root, "", {}, document, {}, 0)


def _states(
    value: Any, place: str, beside: dict[Any, Any], document: Document, seen: dict[int, None], level: int
) -> Iterator[Part]:
    if level > MAX_WRAPPINGS:
        return
    if isinstance(value, Record):
        if "_parameters" in value.state or "_modules" in value.state:
            tensors, options = flatten(value)
            yield Part(place, "", tensors, options, value.name.name, beside, document)
            return
        value = value.entries
    if isinstance(value, (list, tuple)) and len(value) <= MAX_NETWORKS:
        value = {str(number): entry for number, entry in enumerate(value)}
    if not isinstance(value, dict) or id(value) in seen:
        return
    tensors = {name: entry for name, entry in value.items() if isinstance(name, str) and isinstance(entry, _STORED)}
    if len(tensors) > MAX_TENSORS:
        raise CagcError(f"{place or 'the file'} holds {len(tensors)} tensors, expected at most {MAX_TENSORS}")
    if tensors:
        yield Part(place, "", tensors, {}, "", {**beside, **value}, document)
    for name, entry in value.items():
        if isinstance(name, str) and isinstance(entry, (dict, Record)):
            inner = f"{place}/{name}" if place else name
            yield from _states(entry, inner, {**beside, **value}, document, {**seen, id(value): None}, level + 1)


def flatten(module: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters and buffers of a pickled module, and its other attributes, both by dotted name.

    Raises:
        CagcError: it has more submodules or tensors, or deeper nesting, than a limit of this module.
    """
    tensors: dict[str, Any] = {}
    options: dict[str, Any] = {}
    pending = [("", module, 0)]
    visited = 0
    while pending:
        prefix, record, depth = pending.pop()
        visited += 1
        if depth > MAX_MODULE_DEPTH or max(visited, len(tensors)) > MAX_TENSORS or len(options) > 20 * MAX_TENSORS:
            raise CagcError(
                f"a module of more than {MAX_MODULE_DEPTH} levels, or more than {MAX_TENSORS:,} submodules or tensors"
            )
        for group in ("_parameters", "_buffers"):
            entries = _names(record.state.get(group))
            tensors |= {f"{prefix}{name}": value for name, value in entries.items() if isinstance(value, _STORED)}
        for name, value in record.state.items():
            if not name.startswith("_"):
                options[f"{prefix}{name}"] = value
        children = _names(record.state.get("_modules"))
        pending += [(f"{prefix}{name}.", c, depth + 1) for name, c in children.items() if isinstance(c, Record)]
    return tensors, options


def _names(group: Any) -> dict[str, Any]:
    group = group.entries if isinstance(group, Record) else group
    return {name: value for name, value in group.items() if isinstance(name, str)} if isinstance(group, dict) else {}


def contents(root: Any) -> str:
    """Describe the content of a document in a few words for a message."""
    if not isinstance(root, dict):
        return f"got {kind(root)}"
    return f"got keys {sorted(str(name)[:40] for name in root)[:5]}"
