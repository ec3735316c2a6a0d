"""The table of code bases in docs/compatibility.md, from ``benchmarks/results/<device>/compat.jsonl``."""

from __future__ import annotations

import json
from pathlib import Path

from cagc_kernels.compat import peers

MARKERS = "<!-- compatibility:begin -->", "<!-- compatibility:end -->"


def table(results: Path) -> str:
    """Return the rows of every device's file in Markdown, each with the commit of its checkout."""
    parts = []
    for path in sorted(results.glob("*/compat.jsonl")):
        rows = [json.loads(text) for text in path.read_text().splitlines()]
        shown = [{**row, "code_base": f"{row['code_base']} {row['commit']}".strip()} for row in rows]
        versions = sorted({f"cagc {row['cagc']}, torch {row['torch']}" for row in rows})
        parts.append(
            "\n".join([peers.heading(), *map(peers.line, shown), "", f"{path.parent.name}; {'; '.join(versions)}."])
        )
    return "\n\n".join(parts)
