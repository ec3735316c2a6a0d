"""StyleGAN3 of NVlabs' public code against ours: images, transforms, gradients. Needs ``--peers DIR``.

With ``CAGC_WRITE_GOLDEN=1`` it writes the arrays that ``tests/compress/test_stylegan3.py`` compares with.
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
from cagc.checkpoints import load_generator

from ..compress import stylegan3_networks as networks


def _theirs(case: str) -> torch.nn.Module:
    module = importlib.import_module("training.networks_stylegan3")
    options = {**networks.SIZES, **networks.CASES[case]}
    c_dim = options.pop("c_dim", 0)
    theirs = module.Generator(networks.Z, c_dim, networks.W, networks.RESOLUTION, 3, num_fp16_res=0, **options)
    return networks.fill(theirs, networks.generator(case).config)


def _gradients(generator: torch.nn.Module, case: str) -> list[torch.Tensor]:
    z, c, _ = networks.inputs(case)
    z.requires_grad_()
    image = generator(z, c, noise_mode="const")
    weights = torch.linspace(-1, 1, image.numel()).view_as(image)
    names = [name for name, _ in generator.named_parameters() if ".L" in name and name.count(".") == 2][:4]
    leaves = [generator.get_parameter(name).requires_grad_() for name in names]
    found = torch.autograd.grad((generator(z, c, noise_mode="const") * weights).sum(), [z, *leaves])
    generator.requires_grad_(False)
    return list(found)


def _compare(case: str, tmp_path: Path) -> dict[str, np.ndarray]:
    theirs = _theirs(case)
    (tmp_path / "snapshot.pkl").write_bytes(pickle.dumps({"G_ema": theirs}))
    torch.save(theirs.state_dict(), tmp_path / "state.pt")
    z, c, turn = networks.inputs(case)
    plain = theirs(z, c, truncation_psi=0.7, truncation_cutoff=3)
    gradients = _gradients(theirs, case)
    theirs.synthesis.input.transform.copy_(torch.linalg.inv(turn))
    turned = theirs(z, c)
    ours = load_generator(tmp_path / "snapshot.pkl")
    assert ours.config == networks.generator(case).config
    torch.testing.assert_close(ours(z, c, 0.7, 3), plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(z, c, transform=turn), turned, rtol=1e-4, atol=1e-4)
    for got, want in zip(_gradients(ours, case), gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())
    if case != "critical":  # whose options only the pickle has
        again = load_generator(tmp_path / "state.pt")
        assert torch.equal(again(z, c), ours(z, c))
    return {f"{case} image": plain.numpy(), f"{case} turned": turned.numpy()}


def test_networks(peers, tmp_path):
    try:
        with imported(peers, "stylegan3", "cpu"):
            found = {name: a for case in networks.CASES for name, a in _compare(case, tmp_path).items()}
    except Unavailable as error:
        if not str(error).startswith("no checkout"):
            raise
        pytest.skip(str(error))
    if os.environ.get("CAGC_WRITE_GOLDEN"):
        np.savez_compressed(networks.GOLDEN, **{name: array[:, :, ::2, ::2] for name, array in found.items()})
