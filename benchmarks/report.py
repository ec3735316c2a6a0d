"""Tables of the README from committed results: ``python -m benchmarks.report`` writes them, ``--check`` only compares.

Results lie in ``benchmarks/results/<device>/``. ``compress.json`` is the ``metrics.json`` of a ``cagc compress`` run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cagc.files import atomic_write

from . import tables_compression

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"


def compress_table(document: dict[str, Any]) -> str:
    """Rows of one compression: size, time with its spread, realised share, distances to the data and the teacher."""
    key = f"frechet_distance[{document['features']}]"
    lines = [
        "| | MACs | parameters | ms (10th–90th percentile) | MACs cut | faster | realised share | Fréchet distance "
        "| content L1 | content PSNR |",
        "|---" * 10 + "|",
    ]
    for name, row in document["generators"].items():
        latency, fidelity = row["latency"], row["content_l1"] is not None
        lines.append(
            f"| {name} | {row['macs'] / 1e9:.3f} G | {row['parameters'] / 1e6:.2f} M | {latency['median_ms']:.1f} "
            f"({latency['p10_ms']:.1f}–{latency['p90_ms']:.1f}) | {row['macs_ratio']:.2f}× | "
            f"{row['time_ratio']:.2f}× | "
            f"{row['realised_share']:.2f} | {row[key]:.1f} | "
            + (f"{row['content_l1']:.4f} | {row['content_psnr_db']:.2f} dB |" if fidelity else "– | – |")
        )
    provenance = document["provenance"]
    facts = [f"`{provenance['Command']}`", provenance["Machine"], provenance["Versions"], f"plan {provenance['Plan']}"]
    return "\n".join([*lines, "", f"{'; '.join(facts)}. Fréchet distance over {document['features']} features."])


def figures() -> str:
    """All tables, in the order of the result files' names."""
    parts = [compress_table(json.loads(path.read_text())) for path in sorted(RESULTS.glob("*/compress.json"))]
    return "\n\n".join(parts)


def rendered(readme: str) -> str:
    """``readme`` with the tables between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"README: expected the markers {BEGIN} and {END}")
    head, rest = readme.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    return f"{head}{BEGIN}\n{figures()}\n{END}{tail}"


def main(arguments: list[str] | None = None) -> int:
    """Write the README, or with ``--check`` return 1 where it differs from what the results give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    path = ROOT / "README.md"
    before = path.read_text()
    after = tables_compression.rendered(rendered(before), RESULTS)
    if parser.parse_args(arguments).check:
        return int(before != after)
    with atomic_write(path) as temporary:
        temporary.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
