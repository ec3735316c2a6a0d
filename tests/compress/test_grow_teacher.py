"""The tool that grows the embedded teacher to 256 px."""

from __future__ import annotations

import importlib
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cagc.checkpoints import load_checkpoint
from cagc.models import Generator, GeneratorConfig
from cagc_kernels import upsample2d

TOOLS = Path(__file__).resolve().parents[2] / "tools" / "faces256"
MODULES = ("faces", "growth", "objective", "examine", "train_teacher")


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, str(TOOLS))
    modules = {name: importlib.import_module(name) for name in MODULES}
    yield modules
    sys.path.remove(str(TOOLS))
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture
def archive(tmp_path):
    """Noise at 256 px as seeds 0 to 5."""
    path = tmp_path / "images.zip"
    pixels = np.random.default_rng(0).integers(0, 255, (6, 256, 256, 3), dtype=np.uint8)
    with zipfile.ZipFile(path, "w") as bundle:
        for i, image in enumerate(pixels):
            with bundle.open(f"{i:05d}.webp", "w") as file:
                Image.fromarray(image).save(file, "WEBP", lossless=True)
    return path, pixels


def test_a_grown_generator_begins_as_the_small_one_enlarged(tools):
    torch.manual_seed(0)
    small = Generator(GeneratorConfig.uniform(16, 128, 8, style_dim=8, mapping_layers=1))
    large, w = tools["growth"].grow_generator(small, {32: 6, 64: 4}), torch.randn(2, 8)
    image = small.synthesis(w[:, None].expand(-1, 6, -1), "none")
    for side in (32, 64):
        image = upsample2d(image, small.synthesis.resample_filter)
        torch.testing.assert_close(tools["growth"].synthesise(large, w, side), image)
    large.synthesis.b64.to_rgb.weight.data.normal_()
    whole = large.synthesis(w[:, None].expand(-1, 10, -1), "none")
    part = tools["growth"].synthesise(large, w, 64, train_from=64, corner=(8, 4, 16))
    torch.testing.assert_close(part[..., 6:-6, 6:-6], whole[..., 22:42, 14:34])


def test_images_are_found_by_seed_and_averaged(tools, archive):
    path, pixels = archive
    faces = tools["faces"].Faces([path])
    assert faces.seeds(128) == list(range(6)) and faces.seeds(512) == []
    expected = torch.from_numpy(pixels[[4, 1]].reshape(2, 128, 2, 128, 2, 3).mean(axis=(2, 4))).permute(0, 3, 1, 2)
    assert (faces.batch([4, 1], 128) - (expected / 127.5 - 1)).abs().max() <= 1 / 127.5


def test_a_run_goes_on_where_it_stopped(tools, archive, tmp_path):
    tool = tools["train_teacher"]
    np.savez(tmp_path / "latents.npz", w=np.random.default_rng(1).standard_normal((6, 512)).astype(np.float16))
    options = tool.Options(
        [archive[0]], tmp_path / "latents.npz", tmp_path / "out", stages=["new256"], held_out=2, checkpoint_every=1,
        set=["new256.steps=2", "new256.batch=2", "new256.warm_up=1", "new256.size=32"],
    )  # fmt: skip
    options.out.mkdir()
    run = tool.Run(options)
    first = run.update()
    run.save()
    assert "critics" not in first and np.isfinite(list(first.values())).all()
    run.update()
    resumed = tool.Run(options)
    assert resumed.step == 1
    resumed.stage_to_end()
    trained, small = load_checkpoint(options.out / "new256.safetensors"), run.small.g_ema
    assert trained.g_ema.config.resolution == trained.d.config.resolution == 256
    torch.testing.assert_close(trained.g_ema.synthesis.b64.conv1.weight, small.synthesis.b64.conv1.weight)
    for ours, theirs in zip(resumed.average.parameters(), run.average.parameters()):
        torch.testing.assert_close(ours, theirs)
    assert run.average.synthesis.b256.to_rgb.weight.any()
