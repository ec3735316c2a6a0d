"""Tables and pictures from committed results: ``python -m benchmarks.report`` writes them, ``--check`` only compares.

Results lie in ``benchmarks/results/<device>/``: JSON Lines of the benchmarks, and ``compress.json``, the
``metrics.json`` of a ``cagc compress`` run. They go between the markers of README.md and docs/performance.md, long
tables and pictures into docs/performance/<device>/.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cagc.files import atomic_write

from . import headline, pages, tables, tables_compression, tables_editing, tables_sngan
from .results import Row, read

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"
PERFORMANCE = "<!-- performance:begin -->", "<!-- performance:end -->"
# Of the README's table; each row's own is in docs/performance/<device>/runs.md.
COMMAND = "pytest benchmarks/bench_generators.py -k test_generator --peers ../peers"
DETAILS = "<!-- results:begin -->", "<!-- results:end -->"


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
    return "\n".join(
        [
            *lines,
            "",
            f"{'; '.join(facts)}. Fréchet distance over {document['features']} features. "
            "A timed image follows an untimed one of the same generator.",
        ]
    )


def figures() -> str:
    """All tables, in the order of the result files' names."""
    parts = [compress_table(json.loads(path.read_text())) for path in sorted(RESULTS.glob("*/compress.json"))]
    return "\n\n".join(parts)


def rendered(readme: str) -> str:
    """``readme`` with the tables of compressions between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    return between(readme, BEGIN, END, figures())


def between(text: str, begin: str, end: str, content: str) -> str:
    """``text`` with ``content`` between two markers. Raises ValueError where one is missing."""
    if begin not in text or end not in text:
        raise ValueError(f"expected the markers {begin} and {end}")
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


def devices() -> dict[str, list[Row]]:
    """Folder of results → the last row of each measurement in its JSON Lines files."""
    found = {}
    for folder in sorted(path for path in RESULTS.glob("*") if path.is_dir() and path.name != "local"):
        rows = list(read(*sorted(folder.glob("*.jsonl"))).latest().values())
        if rows:
            found[folder.name] = rows
    return found


def performance() -> str:
    """The README's section: what the cut is worth for a single image, on each device."""
    parts = []
    for rows in devices().values():
        if table := tables.summary(rows, batches=(1,)):
            made = f"`{COMMAND}`; {pages.versions(tables.of(rows, 'generators'))}."
            parts.append(f"**{pages.machine(rows)}**, float32, batch 1\n\n{table}\n\n{made}")
    return "\n\n".join(parts)


def details() -> str:
    """The tables and pictures of docs/performance.md."""
    parts = []
    for name, rows in devices().items():
        pictures = {path.stem for path in (DOCS.parent / "performance" / name).glob("*.png")}
        parts.append(pages.summary(name, rows, pictures))
    return "\n\n".join(parts)


def documents() -> dict[Path, str]:
    """Each file that holds tables, as the results would have it. Raises ValueError where a marker is missing."""
    readme = between((ROOT / "README.md").read_text(), *PERFORMANCE, performance())
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/compress.json"))]
    readme = between(readme, *headline.MARKERS, headline.text(list(devices().values()), runs))
    long = {}
    for name, made in (("editing", tables_editing.tables(RESULTS)), ("sngan", tables_sngan.tables(RESULTS))):
        page = DOCS.parent / f"{name}.md"
        long[page] = page.read_text()
        for markers, table in made.items():
            long[page] = between(long[page], *markers, table)
    for name, rows in devices().items():
        long |= pages.long(DOCS.parent / "performance" / name, rows)
    students = DOCS.parent / "students.md"
    page = between(students.read_text(), *tables_compression.STEPS, tables_compression.steps_tables(RESULTS))
    return long | {
        ROOT / "README.md": tables_compression.rendered(rendered(readme), RESULTS, tables_compression.HEADLINE),
        students: tables_compression.rendered(page, RESULTS),
        DOCS: between(DOCS.read_text(), *DETAILS, details()),
    }


def draw() -> list[Path]:
    """Write every picture that the results allow; the paths. Raises ImportError without matplotlib."""
    from . import plots

    made = []
    for name, rows in devices().items():
        figures = {stem: plot(rows) for stem, plot in plots.PLOTS.items()}
        students = [RESULTS / name / file for file in ("compression.json", "budgets.json")]
        figures["quality"] = plots.quality(*(json.loads(path.read_text()) for path in students if path.exists()))
        for stem, figure in figures.items():
            if figure is not None:
                made.append(DOCS.parent / "performance" / name / f"{stem}.png")
                plots.save(figure, made[-1])
    return made


def main(arguments: list[str] | None = None) -> int:
    """Write tables and pictures, or with ``--check`` return 1 where a table differs from what the results give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where a table differs")
    if parser.parse_args(arguments).check:
        return int(any(not path.exists() or path.read_text() != text for path, text in documents().items()))
    try:
        print(f"{len(draw())} pictures in {DOCS.parent / 'performance'}")
    except ImportError as error:
        print(f"no pictures: {error} (pip install 'cagc[bench]')")
    for path, text in documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
