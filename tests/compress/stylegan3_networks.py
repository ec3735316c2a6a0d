"""StyleGAN3 networks that the golden arrays are of: options, weights by name, inputs.

``tests/peers/test_stylegan3.py`` compares with NVlabs' code and writes the arrays.
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np
import torch

from cagc.models import StyleGAN3Config, StyleGAN3Generator

GOLDEN = Path(__file__).with_name("stylegan3_networks.npz")
RESOLUTION, W, Z, LABELS = 32, 10, 8, 5
SIZES = {"channel_base": 128, "channel_max": 6, "num_layers": 6}
# Options in our words, which are NVlabs' but for c_dim.
CASES = {
    "T": {},
    "R, labels": {"conv_kernel": 1, "use_radial_filters": True, "c_dim": LABELS},
    "critical": {"num_critical": 3, "margin_size": 4, "output_scale": 0.5, "conv_clamp": 0.7},
}


def generator(case: str) -> StyleGAN3Generator:
    """Ours, filled as :func:`fill` fills theirs."""
    options = {"style_dim": W, "z_dim": Z, **CASES[case]}
    network = StyleGAN3Generator(StyleGAN3Config.uniform(RESOLUTION, **SIZES, **options))
    return fill(network, network.config)


def fill(network: torch.nn.Module, config: StyleGAN3Config) -> torch.nn.Module:
    """Set every parameter and buffer that is saved from a hash of its name, ours or theirs."""
    names = [*list(config.channels)[1:], "to_rgb"]
    for name, tensor in network.state_dict().items():
        if name.endswith(("_filter", "transform")):
            continue
        network_name, layer, *rest = (name if name != "w_avg" else "mapping.w_avg").split(".")
        if network_name == "synthesis" and layer != "input" and layer not in names:
            layer = names[int(layer[1:].split("_")[0])]
        name = ".".join([network_name, layer, *rest])
        rng = np.random.default_rng(crc32(name.encode()))
        value = rng.standard_normal(tuple(tensor.shape))
        if name.endswith("magnitude_ema"):
            value = 0.5 + value**2
        elif name.endswith("mapping.fc0.weight") or name.endswith("mapping.fc1.weight"):
            value = 100 * value  # their learning rate multiplier
        elif name.endswith("affine.bias"):
            value = 1 + value / 4
        tensor.copy_(torch.as_tensor(value))
    return network.eval().requires_grad_(False)


def inputs(case: str) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """z [2, Z], labels [2, LABELS] or None, and a transform of the image [3, 3]."""
    rng = np.random.default_rng(crc32(case.encode()))
    z, c = (torch.from_numpy(rng.standard_normal((2, n))).float() for n in (Z, LABELS))
    turn = torch.tensor([[0.8, -0.6, 0.1], [0.6, 0.8, -0.2], [0.0, 0.0, 1.0]])
    return z, c if "c_dim" in CASES[case] else None, turn
