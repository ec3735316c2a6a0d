from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cagc.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from cagc.common.errors import CagcError
from cagc.models import Generator, GeneratorConfig

TOOL = Path(__file__).resolve().parents[2] / "tools" / "faces64" / "train_teacher.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("train_teacher", TOOL)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def options(tool, small_teacher, tmp_path):
    """Images 3 … 22 of a generator with the w of each, and a smaller generator with the same mapping to begin with."""
    start = load_checkpoint(small_teacher)
    z = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    images = start.g_ema(z, noise="none").clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
    for i, image in enumerate(images):
        file = tmp_path / "ab"[i % 2] / f"{i + 3:05d}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    np.savez(tmp_path / "latents.npz", w=start.g_ema.mapping.w(z).numpy(), first=3)
    torch.manual_seed(2)
    small = Generator(GeneratorConfig.uniform(16, 128, 10, style_dim=16, mapping_layers=2))
    small.mapping.load_state_dict(start.g_ema.mapping.state_dict())
    for name, parameter in small.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.3)
    save_checkpoint(tmp_path / "init.safetensors", Checkpoint(g_ema=small, d=start.d))
    config = replace(
        tool.recipe(), steps=25, batch_size=8, learning_rate=0.01, gan_weight=0.01, gan_delay=2, gan_ramp=2,
                     perceptual_weight=0.0, tensorboard=False)  # fmt: skip
    return tool.Options(
        images=[tmp_path / "b", tmp_path / "a"], latents=tmp_path / "latents.npz", init=tmp_path / "init.safetensors",
        out=tmp_path / "out", without_noise=True, held_out=4, config=config,
    )  # fmt: skip


def test_every_image_meets_its_w(tool, options, small_teacher):
    ws, images = tool.read_recorded(options.images, options.latents, 16)
    drawn = load_checkpoint(small_teacher).g_ema.synthesis(ws[:, None].expand(-1, 6, -1), "none").clamp(-1, 1)
    assert (drawn - (images.float() / 127.5 - 1)).abs().max() < 1.01 / 127.5


def test_training_from_recorded_images(tool, options, capsys):
    ws, images = tool.read_recorded(options.images, options.latents, 16)
    unseen = tool.RecordedTeacher(ws[-4:], images[-4:])
    before = tool.held_out_l1(load_checkpoint(options.init).g_ema, unseen)
    tool.train(options)
    result = load_checkpoint(options.out / "teacher.safetensors")
    after = tool.held_out_l1(result.g_ema, unseen)
    told = float(capsys.readouterr().out.split("held-out L1 ")[1].split()[0])
    assert after < 0.8 * before and told == pytest.approx(after, abs=0.01)
    assert result.d is not None and result.metadata["settings"]["noise"] == "none"
    parameters = dict(result.g_ema.named_parameters())
    assert all(p.item() == 0 for name, p in parameters.items() if name.endswith("noise_strength"))
    first = dict(load_checkpoint(options.init).g_ema.named_parameters())["mapping.fc0.weight"]
    torch.testing.assert_close(parameters["mapping.fc0.weight"], first.half().float())


def test_inputs_that_do_not_fit(tool, options, tmp_path):
    with pytest.raises(CagcError, match="no .npz with an array 'w'"):
        tool.train(replace(options, latents=options.init))
    np.savez(tmp_path / "short.npz", w=np.zeros((5, 16), np.float16))
    with pytest.raises(CagcError, match="names that are no number of a row"):
        tool.train(replace(options, latents=tmp_path / "short.npz"))
    with pytest.raises(CagcError, match="held_out: got 20, expected 1 to 19"):
        tool.train(replace(options, held_out=20))
    assert not options.out.exists()
