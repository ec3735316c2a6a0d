"""Checkpoints of every layout, small and sound, as documents or as bytes."""

from __future__ import annotations

import argparse
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from cagc.checkpoints import Checkpoint, to_nvlabs_state, to_rosinality
from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from tests.compress import test_nvlabs as nvlabs
from tests.compress import test_stylegan3_files as stylegan3


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorConfig.uniform(16, 64, 6, style_dim=8, mapping_layers=2))


def networks() -> Checkpoint:
    g = generator()
    return Checkpoint(g_ema=g, g=g, d=Discriminator(DiscriminatorConfig(16, {16: 3, 8: 4, 4: 5})))


def training_file() -> dict[str, Any]:
    document = to_rosinality(networks())
    return document | {"args": argparse.Namespace(lr=0.1, out=Path("a"), n=np.int64(3)), "best": np.float64(1.5)}


def basicsr() -> dict[str, Any]:
    state = to_rosinality(networks())["g_ema"]
    return {"params_ema": {basicsr_name(name): t for name, t in state.items() if not name.endswith("kernel")}}


def stylegan3_state() -> dict[str, Any]:
    return {"G_ema": stylegan3.state(stylegan3.generator(num_layers=3))}


def clean() -> dict[str, Any]:
    """As GFPGAN's "clean" code names its tensors, whatever their values."""
    state = {basicsr_name(name): t for name, t in to_rosinality(networks())["g_ema"].items() if "kernel" not in name}
    layers = {f"style_mlp.{i}.": f"style_mlp.{2 * i - 1}." for i in (2, 1)}
    for ours, theirs in layers.items():
        state = {name.replace(ours, theirs): t for name, t in state.items()}
    return {"params_ema": {name.replace("activate.bias", "bias"): t for name, t in state.items()}}


def labelled_state() -> dict[str, Any]:
    """State dicts of NVlabs' code with labels and shortcuts."""
    options = {"style_dim": 8, "mapping_layers": 2, "c_dim": 3, "block_architecture": "resnet"}
    g = Generator(GeneratorConfig.uniform(16, 64, 6, **options))
    d = Discriminator(DiscriminatorConfig.uniform(16, 64, 6, c_dim=3, mapping_layers=2))
    return to_nvlabs_state(Checkpoint(g_ema=g, d=d))


def basicsr_name(name: str) -> str:
    renamed = {"input.input": "constant_input.weight", "noises.noise_": "noises.noise", "style.": "style_mlp."}
    for ours, theirs in renamed.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    name = f"style_{name}" if name.startswith("conv") else name
    return name.replace(".noise.weight", ".weight").replace(".conv.", ".modulated_conv.")


def snapshot(protocol: int) -> bytes:
    """An NVlabs snapshot; their modules are only there while it is written."""
    places = {"torch_utils.persistence": nvlabs._reconstruct_persistent_obj, "dnnlib.util": nvlabs.EasyDict}
    added = []
    for name, member in places.items():
        for part in (name.partition(".")[0], name):
            if part not in sys.modules:
                sys.modules[part] = ModuleType(part)
                added.append(part)
        setattr(sys.modules[name], member.__name__, member)
        member.__module__ = name
    try:
        made = networks()
        theirs = {"G_ema": nvlabs._theirs(made.g_ema), "D": nvlabs._their_discriminator(made.d)}
        return pickle.dumps(theirs | {"training_set_kwargs": nvlabs.EasyDict(a=np.float64(1))}, protocol=protocol)
    finally:
        for part in added:
            del sys.modules[part]
