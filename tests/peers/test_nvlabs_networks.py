"""Networks of NVlabs' public code against ours: labels, architectures, channels. Needs ``--peers DIR``.

With ``CAGC_WRITE_GOLDEN=1`` it writes the arrays that ``tests/compress/test_architectures.py`` compares with.
"""

from __future__ import annotations

import importlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers import Unavailable, imported
from cagc.checkpoints import load_checkpoint

from ..compress import nvlabs_networks as networks


def _theirs(module, case: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    ours, judge = networks.generator(case).config, networks.discriminator(case).config
    sizes = {**networks.SIZES, "num_fp16_res": 0}
    shape = {"img_resolution": networks.RESOLUTION}
    g = module.Generator(
        ours.z_dim, ours.c_dim, ours.style_dim, **shape, img_channels=ours.img_channels,
        mapping_kwargs={"num_layers": ours.mapping_layers}, architecture=ours.block_architecture,
        activation=ours.activation, conv_clamp=ours.conv_clamp, **sizes,
    )  # fmt: skip
    d = module.Discriminator(
        judge.c_dim, **shape, img_channels=judge.img_channels, architecture=judge.block_architecture, conv_clamp=None,
        mapping_kwargs={"num_layers": judge.mapping_layers}, **sizes,
        epilogue_kwargs={"mbstd_num_channels": judge.mbstd_channels},
    )  # fmt: skip
    return networks.fill(g), networks.fill(d)


def _compare(peers: Path, case: str, tmp_path: Path) -> dict[str, np.ndarray]:
    with imported(peers, "stylegan3", "cpu"):
        module = importlib.import_module("training.networks_stylegan2")
        g, d = _theirs(module, case)
        (tmp_path / "snapshot.pkl").write_bytes(pickle.dumps({"G_ema": g, "D": d}))
        z, c, images = networks.inputs(case, d.img_channels)
        drawn = {
            f"{case} image": g(z, c, truncation_psi=0.7, truncation_cutoff=3, noise_mode="const"),
            f"{case} logits": d(images, c),
        }
    read = load_checkpoint(tmp_path / "snapshot.pkl")
    assert read.g_ema.config == networks.generator(case).config
    labels = {network: c if network.config.c_dim else None for network in (read.g_ema, read.d)}
    ours = {
        f"{case} image": read.g_ema(z, labels[read.g_ema], 0.7, 3, noise_mode="const"),
        f"{case} logits": read.d(images, labels[read.d]),
    }
    for name, expected in drawn.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-4)
    return {name: value.numpy() for name, value in drawn.items()}


def test_networks(peers, tmp_path):
    try:
        found = {name: array for case in networks.CASES for name, array in _compare(peers, case, tmp_path).items()}
    except Unavailable as error:
        if not str(error).startswith("no checkout"):
            raise
        pytest.skip(str(error))
    if os.environ.get("CAGC_WRITE_GOLDEN"):
        np.savez_compressed(networks.GOLDEN, **{name: networks.kept(array) for name, array in found.items()})
