"""``tools/labelled64``: an unconditional generator becomes a labelled one without training."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cagc.checkpoints import Checkpoint, load_checkpoint, load_generator, save_checkpoint
from cagc.common.errors import CagcError
from cagc.data.dataset import ImageDataset
from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from cagc.pictures import image_grid

TOOLS = Path(__file__).resolve().parents[2] / "tools" / "labelled64"


def _tool(name: str):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder that the tool writes, of a generator whose w says where the face is."""
    folder = tmp_path_factory.mktemp("labelled")
    torch.manual_seed(0)
    g = Generator(GeneratorConfig.uniform(16, 128, 10, style_dim=16, mapping_layers=3)).requires_grad_(False)
    save_checkpoint(folder / "init.safetensors", Checkpoint(g_ema=g))
    w = g.mapping.w(torch.randn(240, 16))
    places = (w[:, 0] - w[:, 0].mean()) / w[:, 0].std()
    maps = np.zeros((240, 64, 64), np.uint8)
    for label_map, place in zip(maps, places.clamp(-3, 3)):
        left = 24 + int(6 * place)
        label_map[20:40, left : left + 16] = 2
    np.savez(folder / "latents.npz", w=w.numpy(), labels=maps)
    (folder / "images").mkdir()
    for i, image in enumerate(g.synthesis(w[:60, None].expand(-1, g.num_ws, -1), "none").clamp(-1, 1)):
        image_grid(image[None], tile=16).save(folder / "images" / f"{i:05d}.png")
    arguments = ["--latents", folder / "latents.npz", "--images", folder / "images", "--init"]
    arguments += [folder / "init.safetensors", "--out", folder / "made", "--count", 30]
    _tool("make_teacher").run([str(word) for word in arguments])
    return folder


def test_the_label_moves_w_along_one_direction(made):
    before, teacher = load_generator(made / "init.safetensors"), load_generator(made / "made" / "teacher.safetensors")
    assert teacher.c_dim == 2 and teacher.config.mapping_width == 18
    z, (left, right) = torch.randn(64, 16), torch.eye(2)
    w = [teacher.mapping.w(z, label.expand(64, 2)) for label in (left, right)]
    moved = (w[1] - w[0]).mean(dim=0)
    assert moved[0] > 3 * moved[1:].abs().max()
    torch.testing.assert_close(w[0].mean(dim=0)[1:], before.mapping.w(z).mean(dim=0)[1:], rtol=0, atol=moved[0] / 6)


def test_the_images_are_labelled_by_the_face(made):
    data = ImageDataset(made / "made" / "images.zip", 16)
    labels = data.labels(2)
    with np.load(made / "latents.npz") as archive:
        places = _tool("make_teacher").face_places(archive["labels"])
    numbers = [int(Path(name).stem) for name in data.names]
    expected = [int(places[number] > np.median(places)) for number in numbers]
    assert len(data) == 30 and labels.rows.tolist() == expected
    with zipfile.ZipFile(made / "made" / "images.zip") as archive:
        assert len(json.loads(archive.read("dataset.json"))["labels"]) == 30


def test_the_table_by_label(made, tmp_path, capsys):
    tool = _tool("examine")
    path = made / "made" / "teacher.safetensors"
    tool.main(tool.Options(path, path, tmp_path / "out", samples=4))
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["labels"]
    assert [row["label"] for row in rows] == [0, 1] and all(row["l1"] == 0 for row in rows)
    assert (tmp_path / "out" / "label-1.png").is_file() and "teacher on its side" in capsys.readouterr().out


def test_trained_against_its_labelled_images(made, tmp_path):
    """The discriminator starts with the logits of the unlabelled one for every label."""
    tool, d = _tool("train_teacher"), Discriminator(DiscriminatorConfig.uniform(16, 64, 6))
    images = torch.randn(4, 3, 16, 16)
    judge = tool.with_labels(d, 2)
    for label in torch.eye(2):
        torch.testing.assert_close(judge(images, label.expand(4, 2)), d(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(CagcError, match="discriminator: got c_dim 2, expected one without labels"):
        tool.with_labels(judge, 2)
    g = load_generator(made / "init.safetensors")
    save_checkpoint(tmp_path / "d.safetensors", Checkpoint(g_ema=g, d=d))
    folder, config = made / "made", replace(tool.recipe(), steps=2, batch_size=2, gan_delay=0, gan_ramp=0)
    tool.main(tool.Options(folder / "teacher.safetensors", folder / "images.zip", tmp_path / "d.safetensors",
                           tmp_path / "run", config=config))  # fmt: skip
    before, after = (load_generator(f) for f in (folder / "teacher.safetensors", tmp_path / "run/teacher.safetensors"))
    assert after.c_dim == 2 and not torch.equal(after.synthesis.b16.conv1.weight, before.synthesis.b16.conv1.weight)
    assert load_checkpoint(tmp_path / "run" / "teacher.safetensors").d.config.c_dim == 2
