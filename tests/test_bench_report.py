"""Tables and pictures of results."""

from __future__ import annotations

import json
import re
import sys

import pytest

from benchmarks import (
    harness,
    headline,
    pages,
    plots,
    report,
    results,
    tables,
    tables_compression,
    tables_documents,
)
from cagc.common.files import atomic_write


def make_row(*arguments, **options) -> results.Row:
    return results.make_row(*arguments, **{"shape": (1,), "bytes": 1, "macs": 1} | options)


def generator_rows(factor: float = 1.0, cache: str = "warm") -> list[results.Row]:
    """Rows of one resolution: a peer's code, its grouped way, and ours, at two widths."""
    seconds = {"authors, full": 0.8, "grouped, full": 0.7, "runtime, full": 0.3}
    seconds |= {"authors, 0.3": 0.2, "grouped, 0.3": 0.15, "runtime, 0.3": 0.03}
    times = {name: [factor * s * f for f in (0.9, 1.0, 1.2)] for name, s in seconds.items()}
    rows = []
    for name in times:
        implementation, width = name.split(", ")
        case = {"resolution": 256, "batch": 1, "widths": width}
        macs = {"full": 44_000_000_000, "0.3": 4_000_000_000}[width]
        figures = {"images/s": 1.0, "peak MB": 12.3, "MACs cut": 44e9 / macs, "speed-up": 10.0, "realised share": 0.91}
        about = {"of": name, "macs": macs, "figures": figures, "cache": cache}
        rows.append(make_row("generators", implementation, case, times, "cpu", **about))
    return rows


def other_rows() -> list[results.Row]:
    """One or two rows of every other benchmark."""
    one = {"runtime": [0.01, 0.012]}
    sizes = ((0.5, 10**9), (1.0, 4 * 10**9))
    rows = [
        make_row("widths", "runtime", {"resolution": 64, "batch": 1, "keep": keep}, one, "cpu", macs=macs)
        for keep, macs in sizes
    ]
    layer = {"resolution": 256, "widths": "full", "batch": 1, "layer": "b4.conv1"}
    rows.append(make_row("layers", "runtime", layer, one, "cpu", macs=10**8, bytes=10**6, figures={"kernel": "k"}))
    ops = {"native": [0.01, 0.01], "copy": [0.009, 0.009]}
    rows.append(make_row("ops", "native", {"layer": "blur full 8x8"}, ops, "cpu", bytes=10**6, macs=10**6))
    figures = {"full MACs": 11, "predicted ms": 2.0, "score kept": 0.5}
    case = {"generator": "faces64", "metric": "x"}
    rows.append(make_row("plans", "runtime", case, one, "cpu", macs=1, figures=figures))
    rows.append(make_row("training", "runtime", {"generator": "faces64", "batch": 16}, one, "cpu"))
    case = {"generator": "faces64", "samples": 400}
    rows.append(make_row("scores", "runtime", case, one, "cpu", figures={"seconds": 3.0}))
    case = {"op": "up", "channels": 8, "side": 8, "peer": "authors"}
    rows.append(make_row("peers", "runtime", case, one | {"authors": [0.02, 0.02]}, "cpu"))
    rows.append(make_row("sparse", "native", {"layer": "8-8 4", "kept": 0.3}, ops, "cpu"))
    case = {"resolution": 256, "batch": 1, "widths": "full", "beside": "other runtimes"}
    rows.append(make_row("generators", "runtime", case, one, "cpu", macs=1, figures={"realised share": 1.0}))
    case = {"resolution": 1024, "batch": 1, "widths": "its own"}
    times = {"mobile-stylegan": [0.4, 0.4], "runtime, 0.3": [0.2, 0.2]}
    return rows + generator_rows(1.1, "cold") + [make_row("generators", "mobile-stylegan", case, times, "cpu")]


def test_the_summary_compares_with_the_authors():
    lines = tables.summary(generator_rows()).splitlines()
    assert len(lines) == 4
    assert f"| 256, 1 | {harness.allocator()} | full | 44.00 | 1.00× | 800.0 | 300.0 | 2.67× | 2.67× |" in lines[2]
    assert "| 11.00× | 200.0 | 30.0 | 6.67× | 26.67× | 0.91 |" in lines[3]
    assert tables.summary(generator_rows(), batches=(4,)) == ""


def test_the_headline_is_of_warm_caches():
    names = {"full": "full", "0.3": "0.3 by 8"}
    rows = [
        row | {"case": row["case"] | {"widths": names[row["case"]["widths"]]}, "allocator": "kept"}
        for row in generator_rows() + generator_rows(1.1, "cold")
    ]
    assert headline.table(rows[len(rows) // 2 :]) == ""
    assert headline.table(rows) == headline.table(rows[: len(rows) // 2]) and "| 800 (" in headline.table(rows)


def test_every_table_is_written_and_ordered(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "pytest", "benchmarks/"])  # a worker's own is another
    rows = generator_rows() + other_rows()
    for title, _, make, *_ in pages.SUMMARY:
        assert make(rows).startswith("|") or title == "Sparse convolution", title
    for title, make in pages.LONG.values():
        assert make(rows).startswith(("|", "256 px, widths full")) and make([]) == "", title
    ways = [line.split(" | ")[4] for line in tables.generators(rows).splitlines()[2:]]
    assert ways == ["authors", "grouped", "runtime"] * 2
    assert "runtime, 0.3: 2.00" in tables.mobile(rows) and "| 1.10× | 0.91 |" in tables.cold(rows)
    another = [row | {"commit": "another"} if row["cache"] == "warm" else row for row in rows]
    assert "| – | 0.91 |" in tables.cold(another)  # warm and cold images are compared within a run only
    assert pages.runs(rows + rows).count("pytest") == len({row["benchmark"] for row in rows})


def test_long_tables_have_pages_of_their_own(project):
    folder = project / "docs" / "performance" / "a-device"
    made = report.documents()
    assert {path.name for path in made if path.parent == folder} == {"generators.md", "runs.md"}
    assert "(performance/a-device/generators.md)" in made[report.DOCS] and "With cold" not in made[report.DOCS]
    report.main([])
    (folder / "runs.md").unlink()
    assert report.main(["--check"]) == 1


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A README and a page without tables, and results of one device."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").mkdir()
    markers = {
        "README.md": (*report.headline.MARKERS, *report.PERFORMANCE, *report.FIGURES),
        "docs/performance.md": report.DETAILS,
        "docs/edge.md": (*tables_documents.EDGE, *tables_documents.INSTRUCTIONS, *tables_documents.CONTENTION),
        "docs/editing.md": (*tables_documents.PROJECTION, *tables_documents.SMOOTHNESS),
        "docs/compatibility.md": tables_documents.COMPATIBILITY,
        "docs/sngan.md": (*tables_documents.STUDENTS, *tables_documents.PUBLISHED),
        "docs/labels.md": tables_documents.LABELS,
        "docs/stylegan3.md": tables_documents.STYLEGAN3,
        "docs/students.md": tables_compression.MARKERS,
        "results/students64.md": (*tables_compression.MARKERS, *tables_compression.STEPS),
    }
    for name, lines in markers.items():
        (tmp_path / name).write_text("\n".join(["# Title", *lines, "the end\n"]))
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "DOCS", tmp_path / "docs" / "performance.md")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report, "STUDENTS64", tmp_path / "results" / "students64.md")
    results.append(tmp_path / "results" / "a-device" / "generators.jsonl", generator_rows())
    results.append(tmp_path / "results" / "local" / "generators.jsonl", generator_rows(2.0))
    return tmp_path


def test_tables_are_written_between_their_markers(project, monkeypatch):
    monkeypatch.setattr(report, "draw", lambda: [])
    assert report.main(["--check"]) == 1
    assert report.main([]) == 0 and report.main(["--check"]) == 0
    for name in ("README.md", "docs/performance.md"):
        text = (project / name).read_text()
        assert text.startswith("# Title") and text.endswith("the end\n")
        assert "| 256" in text and "local" not in text
    path = project / "results" / "a-device" / "generators.jsonl"
    results.append(path, generator_rows(1.5))
    assert report.main(["--check"]) == 1


def test_the_tables_of_any_folder_are_shown(project, capsys):
    assert report.main(["--show", str(project / "results" / "local")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("## Speed-up by pruning\n\n| px, batch") and "| 1600.0 | 600.0 |" in shown


def test_pictures_are_drawn_and_shown(project):
    results.append(project / "results" / "a-device" / "rest.jsonl", other_rows())
    first = {path: path.read_bytes() for path in report.draw()}
    assert {path.stem for path in first} == {"widths", "realised-share", "roofline", "ops"}
    assert "](performance/a-device/widths.png)" in report.details()
    assert len(report.draw()) == 4 and all(path.read_bytes() == data for path, data in first.items())


def test_students_of_several_budgets_are_joined():
    row = {"frechet_to_teacher": 50.0, "content_l1": None}
    budgets = {f"{n}": row | {"label": f"aware, 1/{n}", "macs": 10**9 // n, "content_l1": 0.1} for n in (11, 3)}
    left, right = plots.quality({"rows": {"t": row | {"label": "teacher", "macs": 10**9}}}, {"rows": budgets}).axes
    lines = {line.get_label(): list(line.get_xdata()) for line in left.lines}
    assert lines == {"aware": [10**9 // 11 / 1e9, 10**9 // 3 / 1e9], "teacher": [1.0]}
    assert len(right.lines[0].get_xdata()) == 2 and plots.quality() is None


def test_committed_rows_say_all_that_they_must():
    files = [results.read(path) for path in results.RESULTS.glob("*/*.jsonl") if path.parent.name != "local"]
    assert files and all(not loaded.skipped() and len(loaded.latest()) == len(loaded.rows) for loaded in files)
    for row in (row for loaded in files for row in loaded.rows):
        name = f"{row['benchmark']} {row['implementation']} {row['case']}"
        for part in ("shape", "roofs", "versions", "commit", "command", "at"):
            assert row[part], f"{name}: no {part}"
        for part in ("bytes", "macs"):
            assert type(row[part]) is int and (row[part] > 0 or row["implementation"] == "random"), f"{name}: no {part}"
        assert "driver" in row["device"] and not row["commit"].endswith("+"), name
        assert not any(word.startswith("/") for word in re.split("[ =']", row["command"])), f"{name}: {row['command']}"


def test_committed_documents_were_measured_by_committed_code():
    for path in results.RESULTS.glob("*/*.json"):
        document = json.loads(path.read_text())
        commit = document.get("commit") or document.get("provenance", {}).get("commit", "")
        assert not commit.endswith("+"), path


def test_a_page_without_markers_is_left_alone(project):
    with atomic_write(report.DOCS) as temporary:
        temporary.write_text("# mine")
    with pytest.raises(ValueError, match="markers"):
        report.main([])
    assert report.DOCS.read_text() == "# mine"
