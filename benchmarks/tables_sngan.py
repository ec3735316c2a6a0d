"""Builds the tables of docs/sngan.md from ``benchmarks/results/*/sngan.json`` and ``sngan.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import pages, tables_compression
from .bench_compression import TEACHER
from .results import Row, read
from .tables import document_table

STUDENTS = "<!-- students:begin -->", "<!-- students:end -->"
PUBLISHED = "<!-- published:begin -->", "<!-- published:end -->"


def students(document: dict[str, Any]) -> str:
    """Return a table with one row per label: size, times and realised share by batch, and quality over seeds."""
    batches = sorted(document["rows"][f"{TEACHER} None"]["latency_by_batch"], key=int)
    return tables_compression.students(document, table="sngan_students", batches=batches)


def published(rows: Sequence[Row]) -> str:
    """Return a table at the published size, with one row per width and way of running."""
    return document_table("sngan_published", rows, about=f"{pages.machine(rows)}, {pages.versions(rows)}")


def tables(results: Path) -> dict[tuple[str, str], str]:
    """Return the text between each pair of markers."""
    folders = sorted(path for path in results.glob("*") if path.name != "local")
    documents = [json.loads((f / "sngan.json").read_text()) for f in folders if (f / "sngan.json").exists()]
    found = [read(f / "sngan.jsonl").latest().values() for f in folders if (f / "sngan.jsonl").exists()]
    rows = [[row for row in latest if row["benchmark"] == "sngan"] for latest in found]  # the students' stand beside
    return {STUDENTS: "\n\n".join(map(students, documents)), PUBLISHED: "\n\n".join(map(published, rows))}
