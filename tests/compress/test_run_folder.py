"""The folder of a run: its lock, its identity, and its state after a run that failed."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from cagc import content
from cagc.common.errors import CagcError
from cagc.common.fingerprint import fingerprint
from cagc.distill import DistillConfig, ImageDataset, RunFolder, distill
from cagc.models import Generator, GeneratorConfig

CONFIG = DistillConfig(
    steps=3, batch_size=2, perceptual_weight=0, gan_weight=0, path_weight=0, checkpoint_every=1, sample_every=0,
    log_every=1, tensorboard=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(8)
    student, teacher = (
        Generator(GeneratorConfig.uniform(8, 64, width, style_dim=4, mapping_layers=1)) for width in (4, 8)
    )
    student.mapping.load_state_dict(teacher.mapping.state_dict())
    return student, teacher


@pytest.fixture(scope="module")
def whole(networks, tmp_path_factory):
    return run(networks, tmp_path_factory.mktemp("whole") / "run")


def run(networks, out, config=CONFIG, **options) -> dict[str, torch.Tensor]:
    return distill(*networks, None, None, config, out, **({"progress": False} | options)).state_dict()


def test_checkpoint_with_other_weights_in_a_sound_archive_is_passed_over(networks, whole, tmp_path):
    out = tmp_path / "run"
    run(networks, out, replace(CONFIG, steps=2))
    last = RunFolder(out).checkpoints()[-1]
    state = torch.load(last, weights_only=True)
    state["trainer"]["g"]["synthesis.b4.const"][0, 0, 0] += 1
    torch.save(state, last)
    with pytest.warns(UserWarning, match="damaged .the checksum of its content does not match"):
        assert fingerprint(run(networks, out, resume=True)) == fingerprint(whole)


def test_folder_that_another_run_is_at_work_in_is_refused(networks, tmp_path):
    out, said = tmp_path / "run", []

    def second(step, steps, losses):
        for resume in (True, False):
            with pytest.raises(CagcError) as refusal:
                run(networks, out, resume=resume, overwrite=not resume)
            said.append(str(refusal.value))

    run(networks, out, replace(CONFIG, steps=1), progress=second)
    assert said == 2 * [f"{out}: another process is at work in this folder; wait until it has ended, or stop it"]
    assert [record["step"] for record in RunFolder(out).metrics()] == [1]
    run(networks, out, resume=True)


def test_folder_that_is_removed_is_told_so(networks, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(CagcError, match=f"the folder of the run, {out}, was removed, and nothing of the run is left"):
        run(networks, out, progress=lambda step, *_: step == 2 and shutil.rmtree(out))
    with pytest.raises(CagcError, match=f"no checkpoint is left in {out}"):
        run(networks, out, progress=lambda step, *_: step == 2 and shutil.rmtree(out / "checkpoints"))


@pytest.mark.parametrize("again", [{"resume": True}, {}], ids=["resumed", "started"])
def test_run_that_ended_before_its_first_checkpoint_begins_anew(networks, whole, tmp_path, again):
    out = tmp_path / "run"
    run(networks, out)
    for path in out.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "config.json":
            path.unlink()
    leftover = out / ".cagc-config-x.json"
    leftover.touch()
    assert fingerprint(run(networks, out, **again)) == fingerprint(whole)
    assert not leftover.exists()


def test_folder_whose_name_is_not_utf8(networks, whole, tmp_path):
    out = tmp_path / os.fsdecode(b"\xff")
    with pytest.warns(UserWarning, match="tensorboard: the name of the folder is not UTF-8"):
        run(networks, out, replace(CONFIG, steps=1, tensorboard=True), sources={"data": str(out)})
    assert RunFolder(out).config()["sources"] == {"data": str(out)}
    assert fingerprint(run(networks, out, resume=True)) == fingerprint(whole)


def test_other_content_under_equal_names_is_not_taken_up(networks, tmp_path):
    images, masks, out = tmp_path / "images", tmp_path / "masks", tmp_path / "run"
    for folder in (images, masks):
        folder.mkdir()
        for seed in range(2):
            Image.new("RGB", (8, 8), "white").save(folder / f"{seed}.png")
    config = replace(CONFIG, steps=1, gan_weight=1, r1_gamma=0, augment="none")

    def start(resume: bool) -> None:
        data, parser = ImageDataset(images, 8), content.load(masks)
        distill(*networks, None, data, config, out, parser, resume=resume, progress=False)

    start(False)
    for folder, name in ((images, "data"), (masks, "content")):
        before = (folder / "0.png").read_bytes()
        Image.new("RGB", (8, 8), (255, 255, 250)).save(folder / "0.png")
        with pytest.raises(CagcError, match=f"the run in {out} has {name} = "):
            start(True)
        (folder / "0.png").write_bytes(before)
    start(True)


def test_fingerprint_sees_bits_types_and_order():
    a = torch.tensor([1.0, 0.0])
    same = [{"a": a, "b": [1, "x"]}, {"a": a.clone(), "b": (1, "x")}]
    others = [
        {"a": torch.tensor([1.0, -0.0]), "b": [1, "x"]},
        {"a": a.double(), "b": [1, "x"]},
        {"a": a[None], "b": [1, "x"]},
        {"a": a, "b": [True, "x"]},
        {"a": a, "b": ["x", 1]},
        {"a": a, "b": [1], "x": []},
        {"b": [1, "x"], "a": a},
    ]
    assert len({fingerprint(content) for content in same}) == 1
    assert len({fingerprint(content) for content in [same[0], *others]}) == 1 + len(others)
