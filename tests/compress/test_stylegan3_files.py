"""StyleGAN3 networks in NVlabs' layout: pruned ones, numpy arrays, and files that are not what they should be."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import cagc
from cagc.checkpoints import load_generator
from cagc.common.errors import CagcError
from cagc.models import StyleGAN3Config, StyleGAN3Generator

SIZES = {"channel_base": 128, "channel_max": 7, "num_layers": 4, "style_dim": 8}


def generator(**options) -> StyleGAN3Generator:
    torch.manual_seed(0)
    made = StyleGAN3Generator(StyleGAN3Config.uniform(32, **{**SIZES, **options})).eval().requires_grad_(False)
    made.w_avg.normal_()
    return made


def state(made: StyleGAN3Generator) -> dict[str, torch.Tensor]:
    """Its state dict under NVlabs' names, which have the sizes and full widths of the layers."""
    found, names = {}, [*list(made.config.channels)[1:], "to_rgb"]
    theirs = {our: f"L{i}_{size}_9" for i, (our, size) in enumerate(zip(names, made.config.sizes(), strict=True))}
    for name, tensor in made.state_dict().items():
        network, _, rest = ("mapping.w_avg" if name == "w_avg" else name).partition(".")
        layer, _, last = rest.partition(".")
        found[f"{network}.{theirs.get(layer, layer)}{'.' * bool(last)}{last}"] = tensor
    for our, their in theirs.items():
        for kind in ("up_filter", "down_filter"):
            taps = getattr(made.synthesis.get_submodule(our), kind)
            if taps is not None:
                found[f"synthesis.{their}.{kind}"] = taps
    return found


def written(path: Path, document: object) -> Path:
    torch.save(document, path)
    return path


@pytest.mark.parametrize("options", [{}, {"conv_kernel": 1, "use_radial_filters": True, "c_dim": 3}], ids=("T", "R"))
def test_pruned_networks_and_numpy_arrays(options, tmp_path):
    full = generator(**options)
    scores = cagc.score_channels(full, "random", samples=1)
    student = cagc.prune(full, cagc.plan_channels(full, scores, keep=0.5, round_to=1))
    z, c = torch.randn(2, 8), torch.eye(3)[:2] if "c_dim" in options else None
    for made in (full, student):
        tensors = state(made)
        arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
        (tmp_path / "arrays.pkl").write_bytes(pickle.dumps({"G_ema": arrays}))
        for path in (written(tmp_path / "g.pt", {"G_ema": tensors}), tmp_path / "arrays.pkl"):
            back = load_generator(path)
            assert back.config == made.config
            torch.testing.assert_close(back(z, c, 0.5), made(z, c, 0.5))


def without(pattern: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not re.search(pattern, name)}


def changed(pattern: str, change: Callable[[torch.Tensor], torch.Tensor]):
    return lambda tensors: {n: change(t.clone()) if re.search(pattern, n) else t for n, t in tensors.items()}


@pytest.mark.parametrize(
    "damage, message",
    [
        (without(r"L2_\d+_9\.weight"), r"synthesis\.L2_\*\.weight is missing, though others of its kind are there"),
        (without(r"L2_\d+_9\.affine\.bias"), r"tensor 'synthesis\.L2_52_9\.affine\.bias' is missing"),
        (without(r"input\.phases"), r"tensor 'synthesis\.input\.phases' is missing"),
        (without(r"L[1-9]"), "holds 1 layers 'synthesis.L\\*', expected 3 to 65"),
        (changed(r"L1_.*affine\.weight", lambda t: t[:3]), r"L1_52_9.affine.weight has shape \[3, 8\], expected"),
        (changed(r"L1_.*up_filter", lambda t: t * 1.01), "L1_52_9.up_filter is not the filter of the published design"),
        (changed("transform", lambda t: t * 0), "synthesis.input.transform: got .* last row of 0, 0, 1"),
        (changed("transform", lambda t: t - torch.diag(torch.tensor([0.0, 1, 0]))), "which is not invertible"),
        (lambda t: {n.replace("L1_52", "L1_40"): v for n, v in t.items()}, "L1_40_9 draws 40 pixels, expected 52"),
        (lambda t: {n.replace("32_9", "33_9"): v for n, v in t.items()}, "resolution: got 33, expected a power of two"),
        (lambda t: {**t, "mapping.embed_proj.weight": torch.zeros(2, 2)}, "StyleGAN-XL with classes.* not supported"),
    ],
)  # fmt: skip
def test_incomplete_or_damaged_files(damage, message, tmp_path):
    with pytest.raises(CagcError, match=message):
        load_generator(written(tmp_path / "g.pt", damage(state(generator()))))
