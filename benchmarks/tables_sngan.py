"""Tables of docs/sngan.md, from ``benchmarks/results/*/sngan.json`` and ``sngan.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import pages
from .bench_compression import TEACHER
from .results import Row, read
from .tables import grid
from .tables_compression import footnote, mean

STUDENTS = "<!-- students:begin -->", "<!-- students:end -->"
PUBLISHED = "<!-- published:begin -->", "<!-- published:end -->"
_FIGURES = (
    ("frechet_to_data", 1), ("frechet_to_teacher", 1), ("precision", 3), ("recall", 3), ("content_l1", 4),
)  # fmt: skip


def students(document: dict[str, Any]) -> str:
    """One line a label: size, time at each batch with the realised share of the MAC cut, and quality over its seeds."""
    full = document["rows"][f"{TEACHER} None"]
    batches = sorted(full["latency_by_batch"], key=int)
    header = ["", "seeds", "MACs", "parameters", "MACs cut"]
    header += [f"ms, batch {batch} (faster, realised share)" for batch in batches]
    header += ["Fréchet distance to the data", "to the teacher", "precision", "recall", "content L1", "content PSNR"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in document["rows"].values():
        groups.setdefault(row["label"], []).append(row)
    lines = []
    for label, rows in groups.items():
        first = rows[0]
        cut = full["macs"] / first["macs"]
        cells = [label, "–" if label == TEACHER else str(len(rows))]
        cells += [f"{first['macs'] / 1e9:.4f} G", f"{first['parameters'] / 1e6:.3f} M", f"{cut:.2f}×"]
        for batch in batches:
            found = first["latency_by_batch"][batch]
            cells.append(f"{found['median_ms']:.2f} ({found['speedup']:.2f}×, {found['speedup'] / cut:.2f})")
        cells += [mean(rows, key, digits) for key, digits in _FIGURES]
        lines.append([*cells, mean(rows, "content_psnr", 2, " dB")])
    timing = f"Milliseconds: the runtime, {document['timed_on']['threads']} threads, all rows by turns. "
    return f"{grid(header, lines)}\n\n{timing}{footnote(document)}"


def published(rows: Sequence[Row]) -> str:
    """One line a width and way of running, at the published size."""
    header = ("batch", "widths", "GMACs an image", "run by", "ms", "MACs cut", "faster", "realised share")
    lines = []
    for row in rows:
        case, figures = row["case"], row["figures"]
        lines.append((
            str(case["batch"]), case["widths"], f"{row['macs'] / case['batch'] / 1e9:.3f}", row["implementation"],
            f"{row['ms']['median']:.2f} ({row['ms']['p10']:.2f}–{row['ms']['p90']:.2f})",
            f"{figures['MACs cut']:.2f}×", f"{figures['speed-up']:.2f}×", f"{figures['realised share']:.2f}",
        ))  # fmt: skip
    command = sorted({row["command"] for row in rows})[0]
    return f"{grid(header, lines)}\n\n`{command}`; {pages.machine(rows)}, {pages.versions(rows)}."


def tables(results: Path) -> dict[tuple[str, str], str]:
    """Markers → what stands between them."""
    folders = sorted(path for path in results.glob("*") if path.name != "local")
    documents = [json.loads((f / "sngan.json").read_text()) for f in folders if (f / "sngan.json").exists()]
    found = [read(f / "sngan.jsonl").latest().values() for f in folders if (f / "sngan.jsonl").exists()]
    rows = [[row for row in latest if row["benchmark"] == "sngan"] for latest in found]  # the students' stand beside
    return {STUDENTS: "\n\n".join(map(students, documents)), PUBLISHED: "\n\n".join(map(published, rows))}
