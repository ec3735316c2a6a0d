"""Networks of NVlabs' code that the golden arrays are of: options, weights by name, inputs.

``tests/peers/test_nvlabs_networks.py`` compares with their code and writes the arrays.
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np
import torch

from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

GOLDEN = Path(__file__).with_name("nvlabs_networks.npz")
RESOLUTION = 16
SIZES = {"channel_base": 64, "channel_max": 6}
W, Z, EMBED = 10, 8, 10

# Options of a generator and of a discriminator, in our words.
CASES = {
    "labels": ({"c_dim": 5}, {"c_dim": 5}),
    "resnet": ({"block_architecture": "resnet", "img_channels": 1}, {"block_architecture": "skip", "img_channels": 1}),
    "orig": ({"block_architecture": "orig", "activation": "relu", "conv_clamp": 1.5}, {"block_architecture": "orig"}),
    "planes": ({"img_channels": 96, "c_dim": 25}, {"img_channels": 4, "mbstd_channels": 2}),
}


def fill(network: torch.nn.Module, name=lambda name: name) -> torch.nn.Module:
    """Set every parameter and buffer that is saved from a hash of its name; ``name`` makes it that of NVlabs' code."""
    for ours, tensor in network.state_dict().items():
        theirs = name(ours)
        if not theirs.endswith("resample_filter"):
            rng = np.random.default_rng(crc32(theirs.encode()))
            scale = 100 if "mapping.fc" in theirs and theirs.endswith("weight") else 1  # their learning rate multiplier
            tensor.copy_(torch.as_tensor(scale * rng.standard_normal(tuple(tensor.shape))))
    return network.eval().requires_grad_(False)


def generator(case: str) -> Generator:
    options = {"style_dim": W, "z_dim": Z, "mapping_layers": 2} | CASES[case][0]
    network = Generator(GeneratorConfig.uniform(RESOLUTION, **SIZES, **options))
    return fill(network, lambda name: name.replace("to_rgb", "torgb").replace("w_avg", "mapping.w_avg"))


def discriminator(case: str) -> Discriminator:
    network = Discriminator(DiscriminatorConfig.uniform(RESOLUTION, **SIZES, mapping_layers=2, **CASES[case][1]))
    places = {"from_rgb": f"b{RESOLUTION}.fromrgb", "last_from_rgb": "b4.fromrgb"}
    places |= {name: f"b4.{name}" for name in ("conv", "fc", "out")}

    def theirs(name: str) -> str:
        head, _, rest = name.partition(".")
        return f"{places.get(head, head)}.{rest}".replace("from_rgb", "fromrgb")

    return fill(network, theirs)


def inputs(case: str, channels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z [2, Z], labels [2, c_dim] and images [2, channels, R, R]."""
    rng = np.random.default_rng(crc32(case.encode()))
    shapes = (2, Z), (2, CASES[case][0].get("c_dim", 0)), (2, channels, RESOLUTION, RESOLUTION)
    z, c, images = (torch.from_numpy(rng.standard_normal(shape)).float() for shape in shapes)
    return z, c, images


def kept(array: np.ndarray) -> np.ndarray:
    """What is kept of a golden array: every sixth of many channels, every third row and column of an image."""
    return array[:, :: max(1, array.shape[1] // 16), ::3, ::3] if array.ndim == 4 else array
