"""Builds the tables of pages in docs (see ``PAGES``) from ``benchmarks/results/*/``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cagc_kernels.compat import peers

from . import pages, tables_compression
from .bench_compression import TEACHER
from .results import Row, read
from .tables import document_table, faster, grid, milliseconds

Tables = dict[tuple[str, str], str]
"""The text between each pair of markers of a page."""

PROJECTION = "<!-- projection:begin -->", "<!-- projection:end -->"
SMOOTHNESS = "<!-- smoothness:begin -->", "<!-- smoothness:end -->"
STUDENTS = "<!-- students:begin -->", "<!-- students:end -->"
PUBLISHED = "<!-- published:begin -->", "<!-- published:end -->"
EDGE = "<!-- edge:begin -->", "<!-- edge:end -->"
INSTRUCTIONS = "<!-- instructions:begin -->", "<!-- instructions:end -->"
CONTENTION = "<!-- contention:begin -->", "<!-- contention:end -->"
STYLEGAN3 = "<!-- stylegan3:begin -->", "<!-- stylegan3:end -->"
LABELS = "<!-- labels:begin -->", "<!-- labels:end -->"
COMPATIBILITY = "<!-- compatibility:begin -->", "<!-- compatibility:end -->"


def _documents(results: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(results.glob(f"*/{name}")) if path.parent.name != "local"]


def editing(results: Path) -> Tables:
    """Return the tables of projection.json and smoothness.json."""
    made = ((PROJECTION, "projection"), (SMOOTHNESS, "smoothness"))
    return {
        markers: "\n\n".join(document_table(name, found) for found in _documents(results, f"{name}.json"))
        for markers, name in made
    }


def students(document: dict[str, Any]) -> str:
    """Return a table of SN-GANs, one row per label: size, times and realised share by batch, quality over seeds."""
    batches = sorted(document["rows"][f"{TEACHER} None"]["latency_by_batch"], key=int)
    return tables_compression.students(document, table="sngan_students", batches=batches)


def published(rows: Sequence[Row]) -> str:
    """Return a table of SN-GAN at the published size, with one row per width and implementation."""
    return document_table("sngan_published", rows, about=f"{pages.machine(rows)}, {pages.versions(rows)}")


def sngan(results: Path) -> Tables:
    """Return the tables of sngan.json and sngan.jsonl."""
    files = [path for path in sorted(results.glob("*/sngan.jsonl")) if path.parent.name != "local"]
    found = [read(path).latest().values() for path in files]
    rows = [[row for row in latest if row["benchmark"] == "sngan"] for latest in found]  # others are of students
    made = map(students, _documents(results, "sngan.json")), map(published, rows)
    return {STUDENTS: "\n\n".join(made[0]), PUBLISHED: "\n\n".join(made[1])}


def compatibility(results: Path) -> Tables:
    """Return the rows of compat/rows.jsonl, each with the commit of its checkout."""
    parts = []
    for path in sorted(results.glob("*/compat/rows.jsonl")):
        rows = [json.loads(text) for text in path.read_text().splitlines()]
        shown = [{**row, "code_base": f"{row['code_base']} {row['commit']}".strip()} for row in rows]
        versions = sorted({f"cagc {row['cagc']}, torch {row['torch']}" for row in rows})
        parts.append(
            "\n".join([peers.heading(), *map(peers.line, shown), "", f"{path.parents[1].name}; {'; '.join(versions)}."])
        )
    return {COMPATIBILITY: "\n\n".join(parts)}


def instructions(document: dict[str, Any]) -> str:
    """Return a table of counted instructions, one row per target and student."""
    rows = {(row["target"], row["student"], row["when"]): row for row in document["rows"]}
    pairs = [(row, rows[target, student, "after"]) for (target, student, when), row in rows.items() if when == "before"]
    return document_table("instructions", document, pairs=pairs)


def _timed(row: dict[str, Any]) -> list[str]:
    low, high = row["spread_ms"]
    faster = f"{row['times_faster']:.1f}×" if "times_faster" in row else ""
    memory = f"{row['bytes'] / 1e6:.0f}" if "bytes" in row else ""
    return [row["program"], f"{row['ms']:.3g} ({low:.3g}–{high:.3g})", f"{1000 / row['ms']:.3g}", faster, memory]


def contention(document: dict[str, Any]) -> str:
    """Return the tables of programs that share the machine, one per generator."""
    parts, found = [], document["machine"]
    for name, rows in document["generators"].items():
        cells = []
        for row in rows:
            low, high = row["spread"]
            slower = f"{row['slower']:.2f}× ({low:.2f}–{high:.2f})"
            cells.append([row["team"], f"{row['alone_ms']:.3g}", f"{row['beside_ms']:.3g}", slower])
        header = (f"{name}, {document['threads']} threads", "ms an image, alone", "ms, two at once", "slower (range)")
        parts.append(grid(header, cells))
    parts.append(f"{found['cpu']}, {found['cores']} cores; commit {document['commit']}.")
    return "\n\n".join(parts)


def edge(results: Path) -> Tables:
    """Return the tables of docs/edge.md: of edge.json (times, pages), instructions.json and contention.json."""
    parts = []
    for document in _documents(results, "edge.json"):
        for name, rows in document["generators"].items():
            rival = "faster than onnxruntime-web, as many threads"
            header = (name, "ms an image (range of rounds)", "images/s", rival, "MB in memory")
            parts.append(grid(header, [_timed(row) for row in rows]))
        sizes = [[row["page"], f"{row['bytes'] / 1e6:.2f}", f"{row['ready_ms']:.0f}"] for row in document["pages"]]
        parts.append(grid(("page of the embedded generators", "MB", "ms until it can draw"), sizes))
        found, versions = document["machine"], document["versions"]
        named = ", ".join(f"{key} {versions[key]}" for key in ("browser", "onnxruntime-web", "cagc") if key in versions)
        parts.append(f"{found['cpu']}, {found['cores']} cores; {named}; commit {document['commit']}.")
    counted = map(instructions, _documents(results, "instructions.json"))
    shared = map(contention, _documents(results, "contention.json"))
    return {EDGE: "\n\n".join(parts), INSTRUCTIONS: "\n\n".join(counted), CONTENTION: "\n\n".join(shared)}


def stylegan3(results: Path) -> Tables:
    """Return the table of stylegan3.jsonl: the op at the shapes of layers, then the whole generator."""
    parts = []
    for path in sorted(results.glob("*/stylegan3.jsonl")):
        rows, cells = list(read(path).latest().values()), []
        for row in rows:
            case, figures = row["case"], row["figures"]
            name = f"filtered_lrelu, {case['layer']}, {case['channels']} channels" if "layer" in case else "generator"
            share = f"{figures['copy_share']:.2f}" if "copy_share" in figures else "–"
            cells.append([name, milliseconds(row), faster(row, "stylegan3"), share])
            if "realised_share" in figures:
                times = row["ms"]["median"] * row["ratios"]["student"]["median"]
                cells.append([f"its student, {figures['macs_cut']:.2f}× fewer MACs", f"{times:.1f}", "–", "–"])
                cells.append([f"realised share of the student {figures['realised_share']:.2f}", "", "", ""])
        header = ("256 px, configuration T", "ms (10th–90th percentile)", "faster than NVlabs' code", "of a copy")
        parts.append(grid(header, cells) + f"\n\n{pages.machine(rows)}, {pages.versions(rows)}.")
    return {STYLEGAN3: "\n\n".join(parts)}


def labels(results: Path) -> Tables:
    """Return the table of labels.json, which tools/labelled64/examine.py writes: one row a label."""
    parts = []
    for document in _documents(results, "labels.json"):
        header = ("label", "teacher on its side", "student on its side", "L1", "PSNR")
        rows = [
            [str(row["label"]), f"{row['teacher']:.1%}", f"{row['student']:.1%}", f"{row['l1']:.4f}",
             f"{row['psnr_db']:.2f} dB"]
            for row in document["labels"]
        ]  # fmt: skip
        parts.append(grid(header, rows) + f"\n\n{document['samples']} images a label.")
    return {LABELS: "\n\n".join(parts)}


PAGES = {
    "edge": edge,
    "compatibility": compatibility,
    "editing": editing,
    "labels": labels,
    "sngan": sngan,
    "stylegan3": stylegan3,
}
