"""Writes tables and charts from committed results: ``python -m benchmarks.report``; ``--check`` only compares.

``--show DIR`` prints the tables of the rows in DIR, such as ``benchmarks/results/local``, and writes nothing.

Results are in ``benchmarks/results/<device>/``: JSON Lines of the benchmarks, and ``compress.json``, the
``metrics.json`` of a ``cagc compress`` run. Tables go between the markers of README.md and docs/*.md, long tables and
charts into docs/performance/<device>/.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cagc.common.files import atomic_write

from . import headline, pages, tables, tables_compression, tables_documents
from .results import Row, read
from .tables import between, document_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs" / "performance.md"
STUDENTS64 = RESULTS / "students64.md"
FIGURES = "<!-- figures:begin -->", "<!-- figures:end -->"
PERFORMANCE = "<!-- performance:begin -->", "<!-- performance:end -->"
# Command of the README's table; docs/performance/<device>/runs.md has that of each row.
COMMAND = "pytest benchmarks/bench_generators.py -k test_generator --peers ../peers"
DETAILS = "<!-- results:begin -->", "<!-- results:end -->"


def devices() -> dict[str, list[Row]]:
    """Return the last row of each measurement, by folder of results."""
    found = {}
    for folder in sorted(path for path in RESULTS.glob("*") if path.is_dir() and path.name != "local"):
        rows = list(read(*sorted(folder.glob("*.jsonl"))).latest().values())
        if rows:
            found[folder.name] = rows
    return found


def performance() -> str:
    """Return the README's section: times of a single image, full and pruned, on each device."""
    parts = []
    for rows in devices().values():
        if table := tables.summary(rows, batches=(1,)):
            made = f"`{COMMAND}`; {pages.versions(tables.of(rows, 'generators'))}."
            parts.append(f"**{pages.machine(rows)}**, float32, batch 1\n\n{table}\n\n{made}")
    return "\n\n".join(parts)


def details() -> str:
    """Return the tables and charts of docs/performance.md."""
    parts = []
    for name, rows in devices().items():
        pictures = {path.stem for path in (DOCS.parent / "performance" / name).glob("*.png")}
        parts.append(pages.summary(name, rows, pictures))
    return "\n\n".join(parts)


def documents() -> dict[Path, str]:
    """Return each file that holds tables, with current tables. Raises ValueError if a marker is missing."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/compress.json"))]
    tables_of = {
        ROOT / "README.md": {
            PERFORMANCE: performance(),
            headline.MARKERS: headline.text(list(devices().values()), runs),
            FIGURES: "\n\n".join(document_table("compress", run) for run in runs),
        },
        DOCS: {DETAILS: details()},
        DOCS.parent / "students.md": {
            tables_compression.MARKERS: tables_compression.tables(RESULTS, tables_compression.FACES256),
        },
        STUDENTS64: {
            tables_compression.STEPS: tables_compression.steps_tables(RESULTS),
            tables_compression.MARKERS: tables_compression.tables(RESULTS, tables_compression.FACES64),
        },
    } | {DOCS.parent / f"{name}.md": make(RESULTS) for name, make in tables_documents.PAGES.items()}
    found = {page: page.read_text() for page in tables_of}
    for page, made in tables_of.items():
        for markers, content in made.items():
            found[page] = between(found[page], *markers, content)
    for name, rows in devices().items():
        found |= pages.long(DOCS.parent / "performance" / name, rows)
    return found


def draw() -> list[Path]:
    """Write every chart that the results allow and return the paths."""
    from . import plots  # matplotlib, which the check of tables does not need

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
    """Write tables and charts or, with ``--check``, return 1 if a table differs from the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where a table differs")
    parser.add_argument("--show", type=Path, metavar="DIR", help="print the tables of the rows in this folder")
    given = parser.parse_args(arguments)
    if given.show is not None:
        rows = list(read(*sorted(given.show.glob("*.jsonl"))).latest().values())
        makers = [(title, make) for title, _, make, *_ in pages.SUMMARY] + list(pages.LONG.values())
        print("\n\n".join(f"## {title}\n\n{table}" for title, make in makers if (table := make(rows))))
        return 0
    if given.check:
        return int(any(not path.exists() or path.read_text() != text for path, text in documents().items()))
    print(f"{len(draw())} pictures in {DOCS.parent / 'performance'}")
    for path, text in documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
