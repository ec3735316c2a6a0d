from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import bench_compression, report, results, student_grid, tables_compression
from benchmarks.bench_compression import TEACHER, Run
from cagc.checkpoints import generator_hash, load_generator, save_generator
from cagc.common.errors import CagcError
from cagc.pruning.budget import plan_channels
from cagc.pruning.prune import prune
from cagc.pruning.scores import score_channels

SMALL = ("--samples", 12, "--draws", 2, "--pairs", 2, "--features", "efficientnet-lite0@32")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_teacher) -> list[Path]:
    """Two folders as ``cagc compress`` writes them: with the teacher as student, and with half of its channels."""
    teacher, folders = load_generator(small_teacher), []
    plan = plan_channels(teacher, score_channels(teacher, "random", samples=1), keep=0.5, round_to=1)
    for seed, student in enumerate((teacher, prune(teacher, plan))):
        folder = tmp_path_factory.mktemp("run")
        save_generator(student, folder / "student.safetensors")
        options = {"metric": "l1-out", "seed": seed, "content": "faces", "rescale": "keep"}
        (folder / "config.json").write_text(json.dumps(options))
        folders.append(folder)
    return folders


def bench(*words) -> None:
    bench_compression.main([str(word) for word in words])


def test_rows_say_how_far_a_student_is_from_its_teacher(runs, small_teacher, tmp_path, capsys, monkeypatch):
    out = tmp_path / "results" / "device" / "compression.json"
    common = ("--teacher", small_teacher, "--out", out)
    bench(runs[0], f"named={runs[1] / 'student.safetensors'}", *common, *SMALL)
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == [f"{TEACHER} None", "l1-out 0", "named None"]
    teacher, same, half = rows.values()
    assert same["frechet_to_teacher"] == pytest.approx(teacher["frechet_to_teacher"], rel=1e-6)
    assert same["content_l1"] < 1e-6 and same["content_perceptual"] < 1e-6 and same["precision"] == teacher["precision"]
    assert half["frechet_to_teacher"] > teacher["frechet_to_teacher"] and half["content_l1"] > 0.01
    assert half["macs"] < teacher["macs"] and teacher["content_l1"] is None and half["frechet_to_data"] is None
    assert same["face_l1"] < 1e-6 and half["person_l1"] > 0.01 and "face_l1" not in teacher
    assert half["path_length"] > 0 and len(half["frechet_to_teacher_of_draws"]) == 2
    before = out.read_bytes()
    capsys.readouterr()
    bench(runs[0], *common, *SMALL)
    assert capsys.readouterr().out == "" and out.read_bytes() == before
    with pytest.raises(CagcError, match="has settings"):
        bench(runs[0], *common, *SMALL, "--pairs", 3)
    monkeypatch.setattr(results, "roofs", lambda device, dtype: {"copy_gbs": 1.0, "matrix_gflops": 1.0})
    bench(runs[0], *common, "--timing", "--repeats", 2, "--threads", torch.get_num_threads())
    timed = results.read(out.with_suffix(".jsonl")).rows
    assert [row["case"] for row in timed] == [{"generator": name, "batch": 1} for name in (TEACHER, "l1-out")]
    assert timed[1]["ms"]["rounds"] == 2 and timed[1]["ratios"].keys() == {TEACHER} and timed[1]["macs"] > 0
    document = json.loads(out.read_text())
    assert document["rows"]["l1-out 0"]["latency"]["median_ms"] > 0
    document["rows"]["l1-out 1"] = document["rows"]["l1-out 0"] | {"seed": 1, "content_l1": 0.5}
    table = tables_compression.students(document).splitlines()
    assert [line.split(" | ")[0] for line in table[2:5]] == [f"| {TEACHER}", "| l1-out", "| named"]
    assert " ± " in table[3] and " ± " not in table[4] and "12 images per generator" in table[-1]
    page = tables_compression.tables(out.parents[1], out.name)
    assert page.startswith("| | seeds") and "| named |" in page
    assert tables_compression.tables(out.parents[1], "another.json") == ""


def test_gaps_by_steps():
    def row(label: str, distance: float, content: float, face: float) -> dict:
        return {"label": label, "frechet_to_data": distance, "content_l1": content, "face_l1": face}

    rows = [
        row(TEACHER, 50.0, 0, 0),
        row("content-agnostic", 60.0, 0.2, 0.1),
        row("content-agnostic", 80.0, 0.2, 0.1),
        row("content-agnostic, 2,500 steps", 55.0, 0.1, 0.1),
        row("content-aware", 80.0, 0.1, 0.09),
        row("content-aware, 2,500 steps", 60.0, 0.2, 0.05),
        row("content-aware, paper, 120 steps of 16", 90.0, 0.5, 0.5),
    ]
    table = tables_compression.steps_table({"rows": dict(enumerate(rows))}).splitlines()
    assert table[0] == "| steps | 1,000 | 2,500 |"
    assert [line.split(" | ")[1:] for line in table[2:]] == [
        ["1.40×", "1.10× |"],
        ["1.60×", "1.20× |"],
        ["50.0 %", "-100.0 % |"],
        ["10.0 %", "50.0 % |"],
    ]


def test_the_embedded_student_is_one_of_the_committed_rows():
    shipped = generator_hash(load_generator("faces64-student"))
    documents = [json.loads(path.read_text()) for path in report.RESULTS.glob("*/compression.json")]
    assert any(row["generator"] == shipped for document in documents for row in document["rows"].values())


def test_labels_come_from_the_run(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    for options, label in (
        ({"metric": "content-aware", "content": "everything", "seed": 0}, "content-agnostic"),
        ({"metric": "diversity", "content": "faces", "recipe": "svs", "rescale": "svs", "seed": 2}, "diversity, svs"),
        ({"metric": "l1-out", "content": "faces", "recipe": "quick", "rescale": "svs", "seed": 3}, "l1-out, svs"),
        ({"metric": "l1-out", "content": "faces", "recipe": "features", "seed": 3}, "l1-out, features"),
    ):
        (folder / "config.json").write_text(json.dumps(options))
        assert Run.parse(str(folder)) == Run(label, folder / "student.safetensors", options["seed"])
    assert Run.parse(f"longer={folder}") == Run("longer", folder / "student.safetensors", 3)
    with pytest.raises(CagcError, match="holds no compression"):
        Run.parse(str(tmp_path))


def test_picture_has_a_row_of_each_and_of_their_difference(runs, small_teacher, tmp_path):
    out, same = tmp_path / "docs" / "grid.png", runs[0] / "student.safetensors"
    options = ["--teacher", str(small_teacher), "--count", "2", "--tile", "80", "--out", str(out)]
    student_grid.main([*options, "--students", f"Same={same}", str(same)])
    with Image.open(out) as sheet:
        assert sheet.height == 5 * 80 + 4 * 6
        rows = [sheet.crop((sheet.width - 80, top, sheet.width, top + 80)) for top in (0, 86, 172)]
    assert rows[0].tobytes() == rows[1].tobytes() != rows[2].tobytes()
    assert max(high for _, high in rows[2].getextrema()) <= 1
