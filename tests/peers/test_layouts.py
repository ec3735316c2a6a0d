"""Files and networks of public code bases themselves: written by their code and read by ours, and the other way round.

Needs ``--peers DIR``; a code base without a checkout there is skipped. What else their code imports is stood in for.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from cagc.checkpoints import Checkpoint, convert, load_checkpoint, save_checkpoint

from ..compress import nvlabs_networks as networks

OWNED = ("training", "torch_utils", "dnnlib", "requests", "pkg_resources", "basicsr", "arch", "metrics", "legacy")


@pytest.fixture
def checkout(peers, monkeypatch):
    """A function (name, folders) that puts folders of a checkout on the path; their modules are forgotten later."""

    def use(name: str, *folders: str) -> Path:
        if not (peers / name).is_dir():
            pytest.skip(f"no checkout {name} in {peers}")
        for folder in folders:
            monkeypatch.setattr(sys, "path", [str(peers / name / folder), *sys.path])
        return peers / name

    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in OWNED}
    for name in ("requests", "pkg_resources"):  # imported by NVlabs' code, for downloads and versions
        sys.modules[name] = ModuleType(name)
        sys.modules[name].parse_version = torch.torch_version.TorchVersion
    yield use
    for name in list(sys.modules):
        if name.split(".")[0] in OWNED:
            del sys.modules[name]
    sys.modules.update(before)


def fill(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith(("bias", "w_avg", "noise_strength")) or ".weight" in f".{name}" and tensor.numel() == 1:
            tensor.normal_()
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("case", networks.CASES)
def test_state_dicts_load_into_nvlabs_classes(checkout, tmp_path, case):
    checkout("stylegan3", ".")
    module = importlib.import_module("training.networks_stylegan2")
    ours, judge = networks.generator(case), networks.discriminator(case)
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(g_ema=ours, d=judge))
    convert(tmp_path / "a.safetensors", tmp_path / "a.pt", to="nvlabs-state")
    document = torch.load(tmp_path / "a.pt", weights_only=True)
    g = module.Generator(**document["init_kwargs"]["G_ema"]).eval().requires_grad_(False)
    d = module.Discriminator(**document["init_kwargs"]["D"]).eval().requires_grad_(False)
    g.load_state_dict(document["G_ema"])
    d.load_state_dict(document["D"])
    z, c, images = networks.inputs(case, d.img_channels)
    labels = [c if network.config.c_dim else None for network in (ours, judge)]
    drawn = ours(z, labels[0], truncation_psi=0.7, noise_mode="const")
    torch.testing.assert_close(drawn, g(z, c, truncation_psi=0.7, noise_mode="const"), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(judge(images, labels[1]), d(images, c), rtol=1e-4, atol=1e-4)


def test_stylegan_human(checkout, tmp_path):
    """Its 1024 × 512 px from a constant of 4 × 2, here at 32 × 16."""
    checkout("StyleGAN-Human", ".", "training_scripts/sg2")
    module = importlib.import_module("training.networks")
    sizes = {"channel_base": 128, "channel_max": 6, "num_fp16_res": 0}
    g = fill(module.Generator(8, 0, 8, 32, False, 3, {"num_layers": 2}, sizes))
    d = fill(module.Discriminator(0, 32, 3, square=False, **sizes))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G_ema": g, "D": d}))
    read = load_checkpoint(tmp_path / "a.pkl")
    assert read.g_ema.img_size == read.d.config.img_size == (32, 16)
    z, images = torch.randn(2, 8), torch.randn(2, 3, 32, 16)
    expected = g(z, torch.zeros(2, 0), truncation_psi=0.7, noise_mode="const")
    torch.testing.assert_close(read.g_ema(z, None, 0.7, noise_mode="const"), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(read.d(images), d(images, None), rtol=1e-4, atol=1e-4)


def _leaky(x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if bias is not None:
        x = x + bias.reshape(1, -1, *[1] * (x.ndim - 2))
    return nn.functional.leaky_relu(x, 0.2) * 2**0.5


class _FusedLeakyReLU(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _leaky(x, self.bias)


@pytest.mark.parametrize("kind", ("Clean", "Bilinear"))
def test_gfpgan(checkout, tmp_path, kind):
    path = checkout("GFPGAN") / "gfpgan" / "archs" / f"stylegan2_{kind.lower()}_arch.py"
    stand_ins = {
        "basicsr.ops.fused_act": {"FusedLeakyReLU": _FusedLeakyReLU, "fused_leaky_relu": _leaky},
        "basicsr.utils.registry": {"ARCH_REGISTRY": SimpleNamespace(register=lambda: lambda cls: cls)},
        "basicsr.archs.arch_util": {"default_init_weights": lambda *args, **kwargs: None},
    }
    for name, members in stand_ins.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
    module = ModuleType("arch")
    exec(compile(path.read_text(), path.name, "exec"), vars(module))
    theirs = fill(getattr(module, f"StyleGAN2Generator{kind}")(16, num_style_feat=8, num_mlp=2, narrow=1 / 64))
    decoder = {f"stylegan_decoder.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"params_ema": {"conv_body_first.weight": torch.zeros(1), **decoder}}, tmp_path / "a.pth")
    z = torch.randn(2, 8)
    expected = theirs([z], randomize_noise=False)[0]
    with pytest.warns(UserWarning, match="took "):
        ours = load_checkpoint(tmp_path / "a.pth", assume={"upsampling": "bilinear"}).g_ema
    torch.testing.assert_close(ours(z, noise_mode="const"), expected, rtol=1e-4, atol=1e-4)
