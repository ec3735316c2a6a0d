"""Builds the tables of students in docs/students.md and benchmarks/results/students64.md from committed documents."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .bench_compression import TEACHER, draws_error
from .tables import document_table, grid

MARKERS = "<!-- compression:begin -->", "<!-- compression:end -->"
STEPS = "<!-- steps:begin -->", "<!-- steps:end -->"
AGNOSTIC, USUAL_STEPS = "content-agnostic", 1000
# Documents of :mod:`benchmarks.bench_compression` in the folder of a device, by the teacher of their students.
FACES64, FACES256 = "compression.json", "compression256.json"


def students(document: dict[str, Any], table: str = "students", **values: object) -> str:
    """Return a table with one row per label: means over training seeds, ± their standard deviation."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in document["rows"].values():
        groups.setdefault(row["label"], []).append(row)
    error = max(draws_error(row) for row in document["rows"].values())
    return document_table(table, document, groups=groups, teacher=TEACHER, error=error, **values)


def tables(results: Path, name: str) -> str:
    """Return the tables of :func:`students` of the documents ``name``, one for every machine."""
    return "\n".join(students(document) for document in _documents(results, name))


def steps_table(document: dict[str, Any]) -> str:
    """Return a table of students by steps: Fréchet distance relative to the teacher's, L1 to the content-agnostic's."""
    kinds: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for row in document["rows"].values():
        found = re.fullmatch(r"(.*), ([\d,]+) steps", row["label"])
        kind, steps = (found[1], int(found[2].replace(",", ""))) if found else (row["label"], USUAL_STEPS)
        kinds.setdefault(kind, {}).setdefault(steps, []).append(row)
    teacher = average(kinds.pop(TEACHER)[USUAL_STEPS], "frechet_to_data")
    kinds = {kind: found for kind, found in kinds.items() if len(found) > 1}
    columns = sorted({steps for found in kinds.values() for steps in found})

    def cells(kind: str, cell: Callable[[int], str]) -> list[str]:
        return [cell(steps) if steps in kinds[kind] else "–" for steps in columns]

    def gap(kind: str, key: str) -> list[str]:
        ours, theirs = kinds[kind], kinds[AGNOSTIC]
        return cells(kind, lambda n: f"{100 * (1 - average(ours[n], key) / average(theirs[n], key)):.1f} %")

    lines = [
        (f"Fréchet distance to the data over the teacher's: {kind}",)
        + tuple(cells(kind, lambda n: f"{average(kinds[kind][n], 'frechet_to_data') / teacher:.2f}×"))
        for kind in kinds
    ]
    for key, region in (("content_l1", "the person"), ("face_l1", "the face")):
        others = [kind for kind in kinds if kind != AGNOSTIC]
        lines += [(f"L1 on {region} below {AGNOSTIC}'s: {kind}", *gap(kind, key)) for kind in others]
    return grid(("steps", *(f"{steps:,}" for steps in columns)), lines)


def average(rows: list[dict[str, Any]], key: str) -> float:
    """Return the mean of a figure that all ``rows`` have."""
    return statistics.fmean(row[key] for row in rows)


def steps_tables(results: Path) -> str:
    """Return the tables of students by steps for every machine."""
    return "\n\n".join(map(steps_table, _documents(results, FACES64)))


def _documents(results: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(results.glob(f"*/{name}"))]
