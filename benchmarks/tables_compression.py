"""Tables of students in the README and docs/students.md, from ``benchmarks/results/*/compression.json``."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .bench_compression import TEACHER, draws_error, spread
from .tables import grid

BEGIN, END = "<!-- compression:begin -->", "<!-- compression:end -->"
STEPS = "<!-- steps:begin -->", "<!-- steps:end -->"
AGNOSTIC, USUAL_STEPS = "content-agnostic", 1000
# The README's rows; docs/students.md has all.
HEADLINE = (
    TEACHER,
    "content-aware",
    "content-agnostic",
    "l1-out",
    "content-aware, paper, 120 steps of 16",
    "content-aware, 12,500 steps",
    "content-agnostic, 12,500 steps",
    "content-aware, face only, L1 by area, 12,500 steps",
)

_COLUMNS = (
    "seeds",
    "MACs",
    "parameters",
    "ms",
    "Fréchet distance to the teacher",
    "to the data",
    "precision",
    "recall",
)
_PAIRED = ("content L1", "face L1", "content PSNR", "content perceptual", "path length")


def compression_table(document: dict[str, Any], labels: Sequence[str] | None = None) -> str:
    """One row per label, of all or of ``labels``: means over training seeds, ± their standard deviation."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in document["rows"].values():
        if labels is None or row["label"] in labels:
            groups.setdefault(row["label"], []).append(row)
    lines = [f"| | {' | '.join(_COLUMNS + _PAIRED)} |", "|---" * (len(_COLUMNS) + len(_PAIRED) + 1) + "|"]
    lines += [_line(label, rows) for label, rows in groups.items()]
    timing = ""
    if threads := document.get("timed_on", {}).get("threads"):
        timing = (
            f"Milliseconds: the runtime, {threads} threads, rows by turns, each after an untimed image of its own. "
        )
    return "\n".join([*lines, "", timing + footnote(document)])


def steps_table(document: dict[str, Any]) -> str:
    """Students of the same kind by steps: Fréchet distance over the teacher's, L1 below the content-agnostic's."""
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
    """Mean of a figure that all ``rows`` have."""
    return statistics.fmean(row[key] for row in rows)


def _line(label: str, rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    latency = next((row["latency"]["median_ms"] for row in rows if row.get("latency")), None)
    cells = [
        label,
        "–" if label == TEACHER else str(len(rows)),
        f"{first['macs'] / 1e9:.3f} G",
        f"{first['parameters'] / 1e6:.2f} M",
        "–" if latency is None else f"{latency:.1f}",
        mean(rows, "frechet_to_teacher", 1),
        mean(rows, "frechet_to_data", 1),
        mean(rows, "precision", 3),
        mean(rows, "recall", 3),
        mean(rows, "content_l1", 4),
        mean(rows, "face_l1", 4),
        mean(rows, "content_psnr", 2, " dB"),
        mean(rows, "content_perceptual", 4),
        mean(rows, "path_length", 1),
    ]
    return f"| {' | '.join(cells)} |"


def mean(rows: list[dict[str, Any]], key: str, digits: int, unit: str = "") -> str:
    """Mean of a figure over the rows that have it, ± its standard deviation where there are two or more."""
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return "–"
    average, deviation = spread(values)
    around = "" if deviation is None else f" ± {deviation:.{digits}f}"
    return f"{average:.{digits}f}{around}{unit}"


def footnote(document: dict[str, Any]) -> str:
    """How the figures were measured, and where."""
    settings, where = document["settings"], document["provenance"]
    machine = ", ".join(f"{key} {value}" for key, value in where["machine"].items() if value is not None)
    error = max(draws_error(row) for row in document["rows"].values())
    return (
        f"{settings['samples']:,} images a side, {settings['pairs']:,} pairs; Fréchet distance, precision and recall "
        f"(k = {settings['neighbours']}) over {settings['features']} features, perceptual distances over "
        f"{where['perceptual']}. ± is the standard deviation over training seeds; redrawing the images moves a Fréchet "
        f"distance by {error:.1f} (standard error over {settings['draws']} disjoint draws, the largest of all rows). "
        f"Content: {where['content']}; {machine}; cagc {where['versions']['cagc']}, torch {where['versions']['torch']}."
    )


def rendered(page: str, results: Path, labels: Sequence[str] | None = None) -> str:
    """``page`` with the tables of all rows, or of ``labels``, between its markers; as it is where it has none.

    Raises:
        ValueError: one marker of the two is missing.
    """
    if BEGIN not in page and END not in page:
        return page
    if BEGIN not in page or END not in page:
        raise ValueError(f"page: expected both markers {BEGIN} and {END}")
    head, rest = page.split(BEGIN, 1)
    tables = [compression_table(document, labels) for document in _documents(results)]
    return "\n".join([head + BEGIN, *tables, END]) + rest.split(END, 1)[1]


def steps_tables(results: Path) -> str:
    """The table of students by steps of every machine."""
    return "\n\n".join(map(steps_table, _documents(results)))


def _documents(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(results.glob("*/compression.json"))]
