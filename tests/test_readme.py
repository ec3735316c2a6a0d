from __future__ import annotations

import json
from pathlib import Path

from benchmarks import report

ROOT = Path(__file__).resolve().parents[1]


def test_tables_are_what_the_committed_results_give():
    assert list(report.RESULTS.glob("*/compress.json"))
    assert report.main(["--check"]) == 0, "run python -m benchmarks.report"


def test_a_changed_result_is_noticed(tmp_path, monkeypatch):
    source = next(report.RESULTS.glob("*/compress.json"))
    document = json.loads(source.read_text())
    document["generators"]["Student"]["macs"] += 10**7
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "compress.json").write_text(json.dumps(document))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert report.main(["--check"]) == 1


def test_ci_runs_the_test_command_that_the_readme_prints():
    commands = [
        line.strip() for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("    pip install")
    ]
    assert commands == [
        "pip install torch==2.13.0 -e . && cagc compress",
        "pip install torch==2.13.0 -e '.[test]' && pytest",
    ]
    script = (ROOT / ".ci" / "run").read_text()
    for part in commands[1].split(" && "):
        assert f"\n{part}\n" in script
