from __future__ import annotations

import json
import re
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cagc.checkpoints import Checkpoint, load_checkpoint, load_generator, save_checkpoint
from cagc.common.errors import CagcError
from cagc.generate import parse_seeds
from cagc.metrics.macs import total_macs
from cagc.models import Generator, GeneratorConfig
from cagc.pruning.budget import ChannelPlan
from cagc.pruning.scores import score_channels

from .commands import refused, run, stop_side_by_side


@pytest.fixture(scope="module")
def compressed(tmp_path_factory, small_teacher, small_images):
    out = tmp_path_factory.mktemp("compressed") / "out"
    run(
        "compress", "--teacher", small_teacher, "--data", small_images, "--content", "everything", "--out", out,
        "--samples", 8, "--steps", 3, "--macs", "1/3", "--evaluation-samples", 24,
        "--features", "efficientnet-lite0@32", "--baseline", "l1-out",
    )  # fmt: skip
    return out


def test_compress_writes_what_it_promises(compressed, small_teacher, capsys):
    names = {p.name for p in compressed.iterdir()}
    assert {"student.safetensors", "plan.json", "metrics.json", "report.html", "student.html", "grids"} <= names
    teacher, student = load_generator(small_teacher), load_generator(compressed / "student.safetensors")
    plan = ChannelPlan.load(compressed / "plan.json")
    assert student.config.channels == plan.channels()
    metrics = json.loads((compressed / "metrics.json").read_text())["generators"]
    assert list(metrics) == ["Teacher", "Before distillation", "Pruned by l1-out", "Student"]
    assert metrics["Student"]["macs"] == total_macs(student) <= total_macs(teacher) / 3
    assert metrics["Student"]["latency"]["median_ms"] > 0
    assert metrics["Student"]["frechet_distance[efficientnet-lite0@32]"] > 0
    assert 0 < metrics["Student"]["content_l1"] < 2
    page = (compressed / "report.html").read_text()
    assert "data:image/png;base64," in page and "http://" not in page.replace("http://www.w3.org", "")
    assert 'href="student.html"' in page
    changed = [n for n, t in student.named_parameters() if not n.startswith("mapping")]
    pruned = dict(load_generator(compressed / "pruned.safetensors").named_parameters())
    assert any(not torch.equal(student.get_parameter(n), pruned[n]) for n in changed)


def test_compress_refuses_a_folder_in_use(compressed, small_teacher, small_images, tmp_path, capsys):
    options = ("--teacher", small_teacher, "--data", small_images, "--content", "everything")
    assert "--overwrite" in refused(capsys, "compress", *options, "--out", compressed)
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.tex").touch()
    line = refused(capsys, "compress", *options, "--out", other, "--overwrite")
    assert "no compression wrote" in line and (other / "thesis.tex").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (("--teacher", "absent.safetensors"), "no such file"),
        (("--data", "absent"), "does not exist"),
        (("--data", "EMPTY"), "holds no image"),
        (("--data", "BROKEN"), "broken"),
        (("--data", "WIDE"), "x.png in WIDE: 24 x 18 px, LA; expected a square RGB image (--convert-images crops"),
        (("--content", "absent"), "absent"),
        (("--classes", "nose"), "has none"),
        (("--macs", "1e-9"), "reach"),
        (("--macs", "0.5", "--keep", "0.5"), "one of --macs, --keep and --latency-ms"),
        (("--keep", "1.5"), "keep"),
        (("--metric", "best"), "content-aware"),
        (("--baseline", "worst"), "l1-out"),
        (("--features", "taste"), "efficientnet-lite0"),
        (("--evaluation-samples", "1"), "evaluation_samples"),
        (("--samples", "0"), "samples"),
        (("--steps", "0"), "steps"),
        (("--round-to", "0"), "round_to"),
        (("--device", "quantum"), "device"),
    ],
)
def test_compress_refuses_bad_input_before_it_writes(options, message, tmp_path, small_teacher, small_images, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"no image")
    (tmp_path / "wide").mkdir()
    Image.new("LA", (24, 18)).save(tmp_path / "wide" / "x.png")
    folders = {name.upper(): tmp_path / name for name in ("empty", "broken", "wide")}
    options, message = [folders.get(o, o) for o in options], message.replace("WIDE", str(folders["WIDE"]))
    defaults = {"--teacher": small_teacher, "--data": small_images, "--content": "everything", "--samples": "4"}
    given = [x for name, value in defaults.items() if name not in options for x in (name, value)]
    out = tmp_path / "out"
    line = refused(capsys, "compress", *given, *options, "--out", out)
    assert message in line
    assert not out.exists()


def test_one_broken_image_is_named_and_skipped(tmp_path, small_teacher, small_images, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in small_images.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "torn.png").write_bytes(next(small_images.iterdir()).read_bytes()[:60])
    run(
        "evaluate", "--student", small_teacher, "--teacher", small_teacher, "--data", folder, "--content", "everything",
        "--samples", 24, "--features", "efficientnet-lite0@32",
    )  # fmt: skip
    printed, errors = capsys.readouterr()
    (line,) = (line for line in errors.splitlines() if "torn.png" in line)
    assert line.startswith("warning: ") and "1 of 25" in line
    assert "Student" in printed


def test_score_prune_distill_evaluate_generate_on_their_own(tmp_path, small_teacher, small_images, capsys):
    common = ("--teacher", small_teacher, "--content", "everything")
    scores, student = tmp_path / "scores.json", tmp_path / "student.safetensors"
    run("score", *common, "--samples", 6, "--out", scores)
    run("prune", "--teacher", small_teacher, "--scores", scores, "--keep", 0.5, "--round-to", 1, "--out", student)
    assert load_generator(student).config.channels["b4.conv1"] == 12
    again = tmp_path / "again.safetensors"
    run("prune", "--teacher", small_teacher, "--plan", tmp_path / "student.plan.json", "--out", again)
    assert load_generator(again).config == load_generator(student).config
    run(
        "distill", "--student", student, *common, "--data", small_images, "--out", tmp_path / "run",
        "--steps", 2, "--batch-size", 4, "--perceptual-weight", 0,
    )  # fmt: skip
    figures = tmp_path / "figures.json"
    trained = tmp_path / "run" / "student.safetensors"
    run(
        "evaluate",
        "--student",
        trained,
        *common,
        "--data",
        small_images,
        "--samples",
        24,
        "--json",
        figures,
        "--features",
        "efficientnet-lite0@32",
    )
    assert json.loads(figures.read_text())["Student"]["macs_ratio"] > 2
    run("generate", "--generator", trained, "--seeds", "3,5-6", "--out", tmp_path / "images")
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == ["00003.png", "00005.png", "00006.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3-1", "expected numbers and ranges"),
        ("1,,2", "expected numbers and ranges"),
        ("-1", "expected numbers and ranges"),
        (str(2**32), f"got {2**32}, expected at most {2**32 - 1}"),
        ("0-99999999999", "expected at most 4294967295"),
        ("0-1000000", "expected at most 1,000,000 of them"),
        ("0-999998,5,7", "expected at most 1,000,000 of them"),
    ],
)
def test_seeds_that_cannot_be_drawn(text, message):
    with pytest.raises(CagcError, match=message):
        parse_seeds(text)


def test_seeds_are_kept_once_and_in_order():
    assert parse_seeds("7,0-2, 1") == [7, 0, 1, 2]
    assert len(parse_seeds("0-999999")) == 1_000_000


def test_annotated_masks_can_be_the_content_and_images_are_optional(tmp_path, small_teacher):
    images, masks = tmp_path / "images", tmp_path / "masks"
    run("generate", "--generator", small_teacher, "--seeds", "0-3", "--out", images)
    masks.mkdir()
    for path in images.iterdir():
        mask = np.zeros((16, 16), np.uint8)
        mask[4:12, 4:12] = 255
        Image.fromarray(mask).save(masks / path.name)
    run("score", "--teacher", small_teacher, "--content", masks, "--samples", 4, "--out", tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["settings"]["content_area"] == 0.25
    run(
        "compress", "--teacher", small_teacher, "--content", masks,
        "--samples", 4, "--macs", 0.5,
        "--steps", 2, "--evaluation-samples", 24, "--features", "efficientnet-lite0@32", "--out", tmp_path / "out",
        "--no-web",
    )  # fmt: skip
    assert not (tmp_path / "out" / "student.html").exists()
    assert "student.html" not in (tmp_path / "out" / "report.html").read_text()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["generators"]
    assert metrics["Student"]["content_coverage"] == 0.25
    assert metrics["Student"]["frechet_distance[efficientnet-lite0@32]"] is None


def test_a_seed_is_the_same_image_in_any_batch(tmp_path, small_teacher, capsys):
    for batch, out in ((1, "a"), (3, "b")):
        run(
            "generate",
            "--generator",
            small_teacher,
            "--seeds",
            "0-2",
            "--noise",
            "random",
            "--batch",
            batch,
            "--out",
            tmp_path / out,
        )
    images = {
        out: [np.asarray(Image.open(tmp_path / out / f"0000{i}.png")).astype(int) for i in range(3)] for out in "ab"
    }
    for i, (a, b) in enumerate(zip(images["a"], images["b"], strict=True)):
        assert abs(a - b).max() <= 1 and abs(a - images["a"][i - 1]).max() > 10
    assert "exists" in refused(
        capsys, "generate", "--generator", small_teacher, "--seeds", "2", "--out", tmp_path / "a"
    )


def test_convert_writes_the_layout_of_the_suffix(tmp_path, small_teacher, capsys):
    run("convert", small_teacher, tmp_path / "r.pt")
    assert set(torch.load(tmp_path / "r.pt", weights_only=True)) == {"g_ema", "d", "latent_avg"}
    run("convert", tmp_path / "r.pt", tmp_path / "back.safetensors")
    assert load_checkpoint(tmp_path / "back.safetensors").d is not None
    assert "exists" in refused(capsys, "convert", small_teacher, tmp_path / "r.pt")
    assert "suffix" in refused(capsys, "convert", small_teacher, tmp_path / "r.onnx")


def test_networks_that_do_not_fit(tmp_path, small_teacher, small_images, capsys):
    other = tmp_path / "other.safetensors"
    save_checkpoint(
        other, Checkpoint(g_ema=Generator(GeneratorConfig.uniform(8, 64, 8, style_dim=16, mapping_layers=2)))
    )
    common = ("--teacher", small_teacher, "--content", "everything", "--data", small_images)
    assert "img_size" in refused(capsys, "evaluate", "--student", other, *common)
    assert "img_size" in refused(capsys, "distill", "--student", other, *common, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run("score", "--teacher", small_teacher, "--metric", "l1-out", "--samples", 2, "--out", tmp_path / "s.json")
    line = refused(
        capsys,
        "prune",
        "--teacher",
        other,
        "--scores",
        tmp_path / "s.json",
        "--keep",
        0.5,
        "--out",
        tmp_path / "p.safetensors",
    )
    assert "scores" in line and not (tmp_path / "p.safetensors").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ("score --metric random --out {0}/none/s.json", "none does not exist"),
        ("prune --scores {0}/s.json --keep 0.5 --out {0}/p.pt", "got suffix '.pt', expected '.safetensors'"),
        ("prune --plan {0}/p.plan.json --macs 0.5 --out {0}/p.safetensors", "got --plan and a budget"),
        ("export --out {0}/none/g.onnx", "none does not exist"),
        ("evaluate --student {1} --json {0}/none/e.json", "none does not exist"),
        ("evaluate --student {1} --pairs 0", "pairs: got 0, expected at least 1"),
        ("evaluate --student {1} --metrics kid --samples 1 --data {2}", "samples: got 1, expected at least 2"),
        ("generate --generator {1} --truncation nan --out {0}/images", "truncation: got nan, expected a finite number"),
    ],
)
def test_refused_options_leave_nothing_behind(options, message, tmp_path, small_teacher, small_images, capsys):
    scores = score_channels(load_generator(small_teacher), "random")
    scores.save(tmp_path / "s.json")
    words = [word.format(tmp_path, small_teacher, small_images) for word in options.split()]
    teacher = () if words[0] in ("generate", "export") else ("--teacher", small_teacher)
    assert message in refused(capsys, *words, *teacher)
    assert [file.name for file in tmp_path.iterdir()] == ["s.json"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, small_teacher, small_images):
    """Compressions that were stopped during distillation: folder, exit status and standard error, by signal."""
    outs = {how: tmp_path_factory.mktemp(how.name) / "out" for how in (signal.SIGINT, signal.SIGKILL)}
    words = [
        "compress", "--teacher", small_teacher, "--data", small_images, "--content", "everything", "--samples", 4,
        "--steps", 100, "--macs", 0.5, "--evaluation-samples", 24, "--features", "efficientnet-lite0@32", "--out",
    ]  # fmt: skip
    found = stop_side_by_side(
        {how: [*words, out] for how, out in outs.items()},
        lambda how: len(list((outs[how] / "distill" / "checkpoints").glob("step-*.pt"))) == 2,
    )
    return {how: (outs[how], *said) for how, said in found.items()}


def test_ctrl_c_tells_how_to_go_on(stopped):
    out, status, error = stopped[signal.SIGINT]
    assert status == 130 and "Traceback" not in error
    assert f"go on with `cagc compress --resume --out {out}`" in error


def test_killed_compression_goes_on(stopped):
    out, status, _ = stopped[signal.SIGKILL]
    assert status == -signal.SIGKILL and not (out / "distill" / "student.safetensors").exists()
    plan = (out / "plan.json").read_bytes()
    run("distill", "--resume", "--out", out / "distill")
    steps = [json.loads(line)["step"] for line in (out / "distill" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 100
    run("compress", "--resume", "--out", out)
    assert (out / "plan.json").read_bytes() == plan
    # Not rounded: the teacher's mapping network, which the student shares, is not one that float16 holds.
    student, trained = (load_generator(folder / "student.safetensors") for folder in (out, out / "distill"))
    for name, tensor in trained.state_dict().items():
        assert torch.equal(student.state_dict()[name], tensor), name
    assert (out / "report.html").exists()


def test_a_refused_setting_is_named_as_it_was_given(capsys):
    with pytest.raises(SystemExit) as exit:
        run("compress", "--distillation.steps", 0)
    title, rule, *lines = capsys.readouterr().err.splitlines()
    assert exit.value.code == 2 and "Error parsing distillation: steps: got 0" in "".join([rule, *lines])
    assert len(title) == len(lines[0])


def test_help_explains_every_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "argv", ["cagc"])

    def text(*args: str) -> str:
        with pytest.raises(SystemExit) as stop:
            run(*args, "--help")
        assert stop.value.code == 0
        return capsys.readouterr().out

    commands = re.findall(r"• (\w+)", text())
    assert commands[:6] == ["compress", "score", "prune", "distill", "evaluate", "generate"]
    for command in commands:
        page = text(command)
        assert "``" not in page and ":func:" not in page, command
        assert not re.findall(r"(?m)^[ │]+(--.*?)(?: {2,}|[ │]*\n[ │]+)\((?:default|required)", page), command


def test_images_are_converted_only_where_told_to(tmp_path, small_teacher, capsys):
    folder, out = tmp_path / "images", tmp_path / "run"
    folder.mkdir()
    for i in range(4):
        Image.new("L", (24, 18), 60 * i).save(folder / f"{i}.png")
    common = ("--student", small_teacher, "--teacher", small_teacher, "--data", folder, "--content", "everything")
    training = ("--steps", 1, "--batch-size", 4, "--perceptual-weight", 0, "--sample-every", 0, "--no-tensorboard")
    measured = ("--metrics", "frechet", "--features", "efficientnet-lite0@32", "--samples", 4)
    assert "0.png" in refused(capsys, "evaluate", *common, *measured)
    run("evaluate", *common, *measured, "--convert-images")
    assert "0.png" in refused(capsys, "distill", *common, *training, "--out", out) and not out.exists()
    run("distill", *common, *training, "--out", out, "--convert-images")
    run("distill", "--resume", "--out", out)
