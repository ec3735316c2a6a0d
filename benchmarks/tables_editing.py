"""Builds the tables of docs/editing.md from ``benchmarks/results/*/{projection,smoothness}.json``."""

from __future__ import annotations

import json
from pathlib import Path

from .tables import document_table

PROJECTION = "<!-- projection:begin -->", "<!-- projection:end -->"
SMOOTHNESS = "<!-- smoothness:begin -->", "<!-- smoothness:end -->"


def tables(results: Path) -> dict[tuple[str, str], str]:
    """Return the text between each pair of markers."""
    return {
        markers: "\n\n".join(
            document_table(name, json.loads(path.read_text())) for path in sorted(results.glob(f"*/{name}.json"))
        )
        for markers, name in ((PROJECTION, "projection"), (SMOOTHNESS, "smoothness"))
    }
