"""Assigns roles to the networks in a file: the averaged generator, the trained one, the discriminator."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

from ..common.errors import CagcError
from ..common.inert_values import Record
from ..common.reading import printable
from ..common.torch_files import Document
from ..common.wrappings import contents, states
from .layouts import DISCRIMINATOR, GENERATOR, LAYOUTS, OTHER, Candidate, candidates

_USUAL = {"g_ema": ("g_ema", "G_ema"), "g": ("g", "G"), "d": ("d", "D")}
_AVERAGED = {"ema", "running", "averaged", "average", "avg"}


def choose(document: Document, source: str, key: str | None = None) -> dict[str, Callable[[], Any]]:
    """Return a function for each network "g_ema", "g" and "d" that the file holds, which builds it.

    If several networks fit a role, its function raises an error that lists them, unless ``key`` selects one.

    Raises:
        CagcError: the file holds no network of a known layout, or ``key`` does not select exactly one.
    """
    found = candidates(document)
    known = [candidate for candidate in found if candidate.layout.network != OTHER]
    if key is not None:
        return _named(known, key, source)
    if not known:
        raise CagcError(f"{source}: {_explain(document, found)}")
    generators = [c for c in known if c.layout.network == GENERATOR]
    averaged = [c for c in generators if _is_averaged(c)]
    trained = [c for c in generators if not _is_averaged(c)]
    if not averaged and not _usual(trained, "g"):  # no name says that they are being trained
        averaged, trained = trained, []
    discriminators = [c for c in known if c.layout.network == DISCRIMINATOR]
    groups = {"g_ema": averaged, "g": trained, "d": discriminators}
    return {name: _one(group, name, source) for name, group in groups.items() if group}


def _named(known: list[Candidate], key: str, source: str) -> dict[str, Callable[[], Any]]:
    matching = [c for c in known if key == c.part.label] or [c for c in known if key in (c.part.place, c.part.prefix)]
    if len(matching) != 1:
        labels = ", ".join(map(_label, known)) or "none"
        raise CagcError(
            f"{source}: key {printable(key)[:60]!r} names {len(matching)} networks, expected one of {labels}"
        )
    return {"d" if matching[0].layout.network == DISCRIMINATOR else "g_ema": _builder(matching[0], source)}


def _is_averaged(candidate: Candidate) -> bool:
    return bool(_AVERAGED & set(re.split(r"[/._]", candidate.part.label.lower())))


def _usual(group: list[Candidate], name: str) -> list[Candidate]:
    return [c for c in group if c.part.label in _USUAL[name]]


def _label(candidate: Candidate) -> str:
    return repr(printable(candidate.part.label)[:60] or "the whole file")


def _one(group: list[Candidate], name: str, source: str) -> Callable[[], Any]:
    """Return what builds the only network of a group, or the one at the usual key; otherwise it raises an error."""
    chosen = group if len(group) == 1 else _usual(group, name)
    if len(chosen) != 1:
        labels = ", ".join(map(_label, group))
        message = f"{source}: holds {len(group)} networks that could be {name!r}: {labels}; choose by convert --key"

        def refuse() -> Any:
            raise CagcError(message)

        return refuse
    return _builder(chosen[0], source, told=chosen[0].part.label in ("", *_USUAL[name]))


def _builder(candidate: Candidate, source: str, told: bool = True) -> Callable[[], Any]:
    label = printable(candidate.part.label)[:80]

    def build() -> Any:
        network = candidate.build(f"{source} [{label}]" if label else source)
        if not told:
            warnings.warn(f"{source}: took {candidate.layout.title} under {label!r}", stacklevel=2)
        return network

    return build


def _explain(document: Document, others: list[Candidate]) -> str:
    """Why no network can be read: what the file looks like instead."""
    if others:
        return f"{_label(others[0])} is {others[0].layout.title}, which is not supported"
    titles = ", ".join(layout.title for layout in LAYOUTS if layout.network != OTHER)
    return (
        f"{contents(document.root)}{describe_unknown(document)}, expected 'g_ema', 'g' or 'd' ('G_ema', 'G', 'D') or "
        f"a state dict alone, of {titles}"
    )


def describe_unknown(document: Document) -> str:
    """Describe the first usual key that holds something of no known layout, as the end of a message; "" if none."""
    if not isinstance(document.root, dict):
        return ""
    known = {c.part.place for c in candidates(document)}
    for names in _USUAL.values():
        for name in names:
            value = document.root.get(name)
            if value and name not in known:
                return f"; {name!r} is {_looks_like(document, name, value)}"
    return ""


def _looks_like(document: Document, name: str, value: Any) -> str:
    if isinstance(value, Record):
        return f"of another class, {value.name.name[:60]}"
    tensors = next((part.tensors for part in states(document) if part.place == name), {})
    return f"of no known layout (it has {', '.join(sorted(tensors)[:3])[:100]})" if tensors else "no state dict"
