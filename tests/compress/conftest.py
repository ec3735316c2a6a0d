from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from cagc.checkpoints import Checkpoint, save_checkpoint
from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig


@pytest.fixture(scope="session")
def small_teacher(tmp_path_factory) -> Path:
    """Checkpoint of a 16 px generator and discriminator: a real run in a second."""
    torch.manual_seed(5)
    g = Generator(GeneratorConfig.uniform(16, 256, 24, style_dim=16, mapping_layers=2))
    g.estimate_w_avg(100)
    d = Discriminator(DiscriminatorConfig.uniform(16, 128, 12))
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_checkpoint(path, Checkpoint(g_ema=g, d=d))
    return path


@pytest.fixture(scope="module")
def generator() -> Generator:
    """A 16 px generator in float64 whose biases, noise strengths and mean w are not zero."""
    torch.manual_seed(5)
    config = GeneratorConfig.uniform(16, channel_base=256, channel_max=24, style_dim=16, mapping_layers=2)
    g = Generator(config).double()
    for name, parameter in g.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            parameter.data += 0.1 * torch.randn_like(parameter)
    g.w_avg.copy_(torch.randn(16))
    return g.eval()


@pytest.fixture(scope="session")
def small_images(tmp_path_factory) -> Path:
    """Folder of 24 images of several sizes."""
    folder = tmp_path_factory.mktemp("images")
    rng = torch.Generator().manual_seed(6)
    for i in range(24):
        size = (16 + i % 3 * 5, 16 + i % 3 * 5, 3)
        image = Image.fromarray(torch.randint(0, 256, size, generator=rng, dtype=torch.uint8).numpy())
        image.save(folder / f"{i:02d}.png")
    return folder
