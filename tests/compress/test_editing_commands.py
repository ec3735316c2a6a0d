"""``cagc project | mix | morph | edit`` on a teacher and a student that was pruned from it."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch
from PIL import Image

import cagc
from cagc import assets
from cagc.checkpoints import load_generator, save_generator
from cagc.editing import mixing
from cagc.editing.directions import Directions
from cagc.editing.projection import Projection
from cagc.models import Generator, GeneratorConfig

from .commands import refused, run


@pytest.fixture(scope="module")
def pair(tmp_path_factory, small_teacher) -> tuple:
    teacher = load_generator(small_teacher)
    scores = cagc.score_channels(teacher, "random", samples=1)
    path = tmp_path_factory.mktemp("pair") / "student.safetensors"
    save_generator(cagc.prune(teacher, cagc.plan_channels(teacher, scores, keep=0.5)), path)
    return "--teacher", small_teacher, "--student", path


PIXELS = ("--perceptual-weight", 0, "--steps", 4)


def test_project_writes_both_side_by_side(pair, small_images, tmp_path, capsys):
    files = [small_images / "01.png", small_images / "02.png"]
    run("project", *files, *pair, *PIXELS, "--out", tmp_path / "p")
    capsys.readouterr()
    metrics = json.loads((tmp_path / "p" / "metrics.json").read_text())
    assert metrics["images"] == ["01.png", "02.png"]
    for label in ("Teacher", "Student"):
        assert len(metrics[label]["psnr_db"]) == 2 and metrics[label]["steps"] == 4
        assert metrics[label]["content_psnr_db"] == metrics[label]["psnr_db"]
        assert Projection.load(tmp_path / "p" / f"{label.lower()}.safetensors").ws.shape[0] == 2
        rows = (tmp_path / "p" / f"{label.lower()}-loss.csv").read_text().splitlines()
        assert rows[0] == "step,loss" and len(rows) == 5
    Image.open(tmp_path / "p" / "comparison.png").verify()
    assert "exists" in refused(capsys, "project", *files, *pair, *PIXELS, "--out", tmp_path / "p")
    found = ("--projection", tmp_path / "p" / "teacher.safetensors")
    run("morph", *pair[:2], *found, "--steps", 3, "--out", tmp_path / "m.gif")
    assert Image.open(tmp_path / "m.gif").n_frames == 4


def test_project_says_what_it_resizes(pair, small_images, tmp_path, capsys):
    options = (*pair[:2], *PIXELS, "--steps", 1)
    run("project", small_images / "01.png", small_images / "03.png", *options, "--out", tmp_path / "a")
    run("project", small_images, *options, "--count", 2, "--out", tmp_path / "b")
    said = capsys.readouterr().err
    assert said.count("01.png: 21 x 21 px, resized to 16 px") == 2
    assert "03.png" not in said and "00.png" not in said  # 16 px as they are


def test_project_converts_an_image_only_where_told_to(pair, tmp_path, capsys):
    photo = tmp_path / "wide.png"
    Image.new("L", (30, 20)).save(photo)
    options = ("project", photo, *pair[:2], *PIXELS, "--steps", 1, "--out", tmp_path / "p")
    line = refused(capsys, *options)
    assert (
        line == f"error: image {photo}: 30 x 20 px, L; expected a square RGB image (--convert-images crops and "
        "converts)"
    )
    assert not (tmp_path / "p").exists()
    run(*options, "--convert-images")
    assert "wide.png: 30 x 20 px, L turned into RGB, centre-cropped, resized to 16 px" in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind, message", [("none", "images: got none"), ("torn", "torn.png"), ("float", "no known range")], ids=str
)
def test_project_names_an_image_that_it_cannot_use(kind, message, small_images, small_teacher, tmp_path, capsys):
    files = {"none": [], "torn": [tmp_path / "torn.png"], "float": [small_images / "01.png", tmp_path / "f.tif"]}[kind]
    (tmp_path / "torn.png").write_bytes((small_images / "01.png").read_bytes()[:100])
    Image.new("F", (20, 20)).save(tmp_path / "f.tif")
    options = ("--convert-images", "--teacher", small_teacher, "--out", tmp_path / "p")
    assert message in refused(capsys, "project", *files, *options)
    assert not (tmp_path / "p").exists()


def test_project_without_its_features_leaves_nothing(pair, small_images, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lpips", None)
    options = ("--perceptual", "lpips-vgg", "--out", tmp_path / "p")
    assert "pip install lpips" in refused(capsys, "project", small_images, *pair, *options)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ("project {0} --count 0", "count: got 0, expected at least 1"),
        ("mix --seeds a", "seeds: got 'a'"),
        ("edit --seeds a", "seeds: got 'a'"),
        ("edit --strengths", "strengths: got none"),
    ],
)
def test_refused_options_leave_nothing_behind(options, message, pair, small_images, tmp_path, capsys):
    words = options.format(small_images).split()
    assert message in refused(capsys, *words, *pair, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_interrupted_project_writes_its_best(pair, small_images, tmp_path, monkeypatch):
    from cagc.cli import editing as commands

    def interrupted(generator, targets, config, mask, progress, perceptual):
        def stop(done, total):
            if done == 2:
                raise KeyboardInterrupt

        return project(generator, targets, config, mask, stop)

    project = commands.project
    monkeypatch.setattr(commands, "project", interrupted)
    with pytest.raises(SystemExit) as stop:
        run("project", small_images, "--count", 2, *pair, *PIXELS, "--out", tmp_path / "p")
    assert stop.value.code == 130
    metrics = json.loads((tmp_path / "p" / "metrics.json").read_text())
    assert metrics["Teacher"]["stopped"] == "interrupted" and "Student" not in metrics


def test_mix_draws_a_grid_for_each(pair, tmp_path, capsys):
    run("mix", *pair, "--seeds", "0-1", "--styles", "2-4", "--layers", "2-3", "--out", tmp_path)
    sizes = {Image.open(tmp_path / f"{label}.png").size for label in ("teacher", "student")}
    assert len(sizes) == 1
    width, height = sizes.pop()
    assert width / height == pytest.approx(4 / 3, rel=0.05)
    assert "expected numbers and ranges within 0-5" in refused(capsys, "mix", *pair, "--layers", "2-6", "--overwrite")


def test_morph(pair, tmp_path, capsys, monkeypatch):
    run("morph", *pair, "--steps", 3, "--out", tmp_path / "m.webp")
    picture = Image.open(tmp_path / "m.webp")
    assert picture.n_frames == 4 and picture.width == 2 * picture.height + 2
    assert "ends in .gif" in refused(capsys, "morph", *pair, "--out", tmp_path / "m.avi")
    monkeypatch.setattr(mixing.importlib.util, "find_spec", lambda name: None)
    assert "pip install av" in refused(capsys, "morph", *pair, "--out", tmp_path / "m.mp4")
    assert "two numbers" in refused(capsys, "morph", *pair, "--ends", "1", "--out", tmp_path / "n.gif")
    assert "exists" in refused(capsys, "morph", *pair, "--out", tmp_path / "m.webp")


def test_edit_saves_directions_and_takes_them_up(pair, small_teacher, tmp_path, capsys):
    run("edit", *pair, "--seeds", "0-1", "--out", tmp_path / "a")
    directions = tmp_path / "a" / "directions.safetensors"
    assert len(Directions.load(directions)) == 10
    run("edit", *pair, "--seeds", "0-1", "--directions", directions, "--out", tmp_path / "b")
    first, second = (Image.open(tmp_path / name / "edit.png").tobytes() for name in "ab")
    assert first == second
    other = load_generator(small_teacher)
    with torch.no_grad():
        other.mapping.fc0.bias += 1
    save_generator(other, tmp_path / "other.safetensors")
    stranger = ("--teacher", tmp_path / "other.safetensors")
    line = refused(capsys, "edit", *stranger, "--directions", directions, "--out", tmp_path / "c")
    assert "mapping network" in line
    line = refused(capsys, "mix", "--teacher", small_teacher, "--student", tmp_path / "other.safetensors")
    assert "mapping network is not the teacher's" in line


def test_generator_of_width_one(tmp_path, small_images, capsys):
    path = tmp_path / "one.safetensors"
    save_generator(Generator(GeneratorConfig.uniform(8, 8, 1, style_dim=1, mapping_layers=1)), path)
    run("edit", "--teacher", path, "--seeds", 0, "--out", tmp_path / "e")
    assert len(Directions.load(tmp_path / "e" / "directions.safetensors")) == 1
    measured = ("--content", "everything", "--metrics", "leakage", "psnr", "--pairs", 2, "--samples", 20)
    assert "leakage: no image has both" in refused(capsys, "evaluate", "--teacher", path, "--student", path, *measured)


def test_latents_of_another_generator(pair, small_images, tmp_path, capsys):
    run("project", small_images, "--count", 2, *pair[:2], *PIXELS, "--steps", 1, "--out", tmp_path / "p")
    found = Projection.load(tmp_path / "p" / "teacher.safetensors")
    for name, changed in (("noise", {"noise": found.noise[:-1]}), ("w", {"ws": found.ws[:, :-1]})):
        dataclasses.replace(found, **changed).save(tmp_path / "other.safetensors")
        words = ("morph", *pair[:2], "--projection", tmp_path / "other.safetensors", "--ends", "0,1")
        assert f"holds {name} " in refused(capsys, *words, "--out", tmp_path / "m.gif")


def test_sngan_is_edited_and_projected_and_has_no_layers_to_mix(tmp_path, capsys):
    teacher = ("--teacher", assets.sngan32() / "teacher.safetensors")
    run("edit", *teacher, "--seeds", 0, "--strengths", -2, 2, "--out", tmp_path / "e")
    assert Directions.load(tmp_path / "e" / "directions.safetensors").source == "b4"
    run("morph", *teacher, "--steps", 2, "--out", tmp_path / "m.gif")
    Image.new("RGB", (40, 40), "orange").save(tmp_path / "orange.png")
    run("project", tmp_path / "orange.png", *teacher, *PIXELS, "--out", tmp_path / "p")
    losses = Projection.load(tmp_path / "p" / "teacher.safetensors").losses
    assert losses[-1] < losses[0]
    assert "one w for all layers" in refused(capsys, "mix", *teacher, "--out", tmp_path / "x")
