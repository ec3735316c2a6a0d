"""Reads the peers' golden vectors; the index files beside the arrays describe the cases.

The folder is ``$CAGC_PEER_VECTORS``, by default ``../shared/peer_vectors`` beside the repository.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "peer_vectors"
FOLDER = Path(os.environ.get("CAGC_PEER_VECTORS") or DEFAULT)


@lru_cache(maxsize=8)
def _arrays(path: Path) -> np.lib.npyio.NpzFile:
    return np.load(path)


@cache
def load_torch(name: str) -> dict[str, Any]:
    """A ``.pt`` file of the folder."""
    return torch.load(FOLDER / name, weights_only=True)


@dataclass(frozen=True)
class Case:
    """One call of a peer's function."""

    index: Path
    id: str
    op: str
    options: dict[str, Any]
    keys: dict[str, str]

    def __contains__(self, name: str) -> bool:
        return name in self.keys

    def __getitem__(self, name: str) -> torch.Tensor:
        """Array ``name`` in its stored dtype."""
        return torch.from_numpy(np.array(_arrays(self.index.with_suffix(".npz"))[self.keys[name]]))

    def f64(self, name: str) -> torch.Tensor:
        """Array ``name`` in float64, the dtype that the peers' values were computed in."""
        return self[name].double()

    def series(self, prefix: str) -> list[torch.Tensor]:
        """Arrays ``prefix0``, ``prefix1``, ... as long as they go on."""
        series: list[torch.Tensor] = []
        while f"{prefix}{len(series)}" in self:
            series.append(self[f"{prefix}{len(series)}"])
        return series


@cache
def _read(index: Path) -> tuple[Case, ...]:
    document = json.loads(index.read_text())
    return tuple(
        Case(index, c["id"], c["op"], c["options"], {n: m["key"] for n, m in c["arrays"].items()})
        for c in document.get("cases", [])
    )


def documents(group: str) -> list[dict[str, Any]]:
    """The index files of a group, whole, each with its path under "path"."""
    return [{**json.loads(path.read_text()), "path": path} for path in sorted(FOLDER.glob(f"g{group}_*.json"))]


def iter_cases(group: str, *ops: str) -> Iterator[Case]:
    """Cases of the index files ``g<group>_*.json``; of the named operations only, when any is named."""
    for index in sorted(FOLDER.glob(f"g{group}_*.json")):
        yield from (c for c in _read(index) if not ops or c.op in ops)


def cases(group: str, *ops: str, having: str | None = None):
    """``parametrize`` over :func:`iter_cases` (with the array ``having``), or one skip that says where was looked."""
    found = [c for c in iter_cases(group, *ops) if having is None or having in c]
    params = [pytest.param(c, id=f"{c.index.stem}-{c.op}-{c.id}") for c in found]
    if not params:
        reason = f"no peer vectors of group {group} {' '.join(ops)} in {FOLDER} (set CAGC_PEER_VECTORS)"
        params = [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="absent")]
    return pytest.mark.parametrize("case", params)
