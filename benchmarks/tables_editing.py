"""Tables of docs/editing.md, from ``benchmarks/results/*/{projection,smoothness}.json``."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

PROJECTION = "<!-- projection:begin -->", "<!-- projection:end -->"
SMOOTHNESS = "<!-- smoothness:begin -->", "<!-- smoothness:end -->"


def projection_table(document: dict[str, Any]) -> str:
    """PSNR of each image, on the content and on everything, by generator."""
    names = document["images"]
    lines = [f"| | PSNR on | {' | '.join(names)} | mean |", "|---" * (len(names) + 3) + "|"]
    for label, row in document["generators"].items():
        for what, key in (("the content", "content_psnr_db"), ("everything", "psnr_db")):
            values = [*row[key], mean(row[key])]
            lines.append(f"| {label} | {what} | {' | '.join(f'{v:.2f} dB' for v in values)} |")
    return "\n".join([*lines, "", f"`{document['command']}`; {_machine(document)}."])


def smoothness_table(document: dict[str, Any]) -> str:
    """One row a measure, one column a generator."""
    generators = document["generators"]
    lines = [f"| | {' | '.join(generators)} |", "|---" * (len(generators) + 1) + "|"]
    for name in next(iter(generators.values())):
        lines.append(f"| {name} | {' | '.join(f'{row[name]:.4g}' for row in generators.values())} |")
    facts = (
        f"{document['samples']} pairs behind a path length, {document['perceptual']} features, {document['content']}"
    )
    return "\n".join([*lines, "", f"`{document['command']}`; {facts}; {_machine(document)}."])


def _machine(document: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in document["machine"].items() if value is not None)


def tables(results: Path) -> dict[tuple[str, str], str]:
    """Markers → what stands between them."""
    made = {PROJECTION: ("projection.json", projection_table), SMOOTHNESS: ("smoothness.json", smoothness_table)}
    return {
        markers: "\n\n".join(table(json.loads(path.read_text())) for path in sorted(results.glob(f"*/{name}")))
        for markers, (name, table) in made.items()
    }
