"""Builds the README's first figures: a published generator, full and pruned, and the default run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .results import Row
from .tables import document_table, of

MARKERS = "<!-- headline:begin -->", "<!-- headline:end -->"
CASE = {"resolution": 256, "batch": 1}
USUAL = {"cache": "warm", "allocator": "kept", "dtype": "float32"}
# Plans round widths to multiples of 8 by default.
NAMES = {"full": "full generator", "0.3 by 8": "student, 0.3 of every layer, by 8"}
RUN_BY = {"authors": "the authors' code", "runtime": "`cagc.runtime.compile`"}


def table(rows: Sequence[Row]) -> str:
    """Return the table of one image at 256 px with MACs and milliseconds; an empty string if a row was not timed."""
    found = {
        (row["case"].get("widths"), row["implementation"]): row
        for row in of(rows, "generators")
        if USUAL.items() <= row.items() and CASE.items() <= row["case"].items()
    }
    lines, machine = [], {}
    for width, name in NAMES.items():
        for implementation, by in RUN_BY.items():
            row = found.get((width, implementation))
            if row is None:
                return ""
            machine = row["device"]
            lines.append((f"{name}, {by}", row))
    where = f"{CASE['resolution']} px, batch {CASE['batch']}, {machine['cpu']}, {machine['threads']} cores"
    return document_table("headline", lines, where=where)


def sentence(document: dict[str, Any]) -> str:
    """Return a sentence with the results of a default ``cagc compress``, whose metrics.json is ``document``."""
    student = document["generators"]["Student"]
    ratio = student["time_ratio"]
    time = "a time that this machine was too noisy to tell" if ratio is None else f"{ratio:.1f} times less time"
    return (
        f"`cagc compress` on the embedded faces: {student['macs_ratio']:.1f} times fewer MACs, "
        f"{time}, {student['content_psnr_db']:.1f} dB from the teacher on the "
        "content."
    )


def text(devices: Sequence[Sequence[Row]], runs: Sequence[dict[str, Any]]) -> str:
    """Return the text between :data:`MARKERS`."""
    return "\n\n".join([part for part in map(table, devices) if part] + [sentence(run) for run in runs])
