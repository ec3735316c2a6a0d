"""Layouts of public code bases, on files written here in their names; conversion to the layouts that can express it."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import replace

import pytest
import torch

from cagc.checkpoints import Checkpoint, convert, load_checkpoint, load_generator, save_checkpoint, to_rosinality
from cagc.checkpoints.layouts import LAYOUTS
from cagc.common.errors import CagcError
from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

from . import nvlabs_networks as networks
from .commands import refused, run

OPTIONS = {"style_dim": 8, "mapping_layers": 2}


def make(**options) -> Generator:
    torch.manual_seed(0)
    g = Generator(GeneratorConfig.uniform(16, 64, 6, **(OPTIONS | options))).requires_grad_(False)
    for name, parameter in g.named_parameters():
        if name.endswith(("bias", "noise_strength")):
            parameter.normal_()
    g.w_avg.normal_()
    return g


@pytest.fixture(scope="module")
def document() -> dict:
    return to_rosinality(Checkpoint(g_ema=make()))


def draws_the_same(a: Generator, b: Generator) -> None:
    z = torch.randn(2, b.z_dim, generator=torch.Generator().manual_seed(1))
    c = torch.eye(b.c_dim)[:2] if b.c_dim else None
    options = {"truncation_psi": 0.5, "noise_mode": "const"}
    torch.testing.assert_close(a(z, c, **options), b(z, c, **options), rtol=1e-5, atol=2e-5)


def test_the_multiplier_of_the_mapping_network(tmp_path, document):
    """From the training options; else from the caller; else assumed, and told."""
    other = make(lr_multiplier=0.1)
    other.load_state_dict(make().state_dict())
    torch.save(document, tmp_path / "plain.pt")
    torch.save(document | {"args": argparse.Namespace(lr_mlp=0.1)}, tmp_path / "args.pt")
    assert load_generator(tmp_path / "args.pt").config.lr_multiplier == 0.1
    draws_the_same(load_generator(tmp_path / "plain.pt", assume={"lr_mlp": 0.1}), other)
    checkpoint = load_checkpoint(tmp_path / "plain.pt")
    assert checkpoint.g_ema.config.lr_multiplier == 0.01 and checkpoint.assumed == {"lr_mlp": 0.01}
    for assume, message in (
        ({"lr_mlp": 0}, "lr_mlp: got 0, expected a number above 0"),
        ({"upsampling": "cubic"}, "upsampling: got 'cubic', expected one of fir, bilinear"),
        ({"depth": 2}, "assume: got 'depth', expected one of lr_mlp, upsampling"),
    ):
        with pytest.raises(CagcError, match=message):
            load_generator(tmp_path / "plain.pt", assume=assume)


def test_a_prefix_without_a_dictionary(tmp_path, document):
    torch.save({f"module.{name}": tensor for name, tensor in document["g_ema"].items()}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="under 'module.'"):
        load_generator(tmp_path / "a.pt")


def test_another_blur_kernel_is_refused(tmp_path, document):
    """``Generator(blur_kernel=[1, 2, 1])``: its convolutions take it, its toRGB layers keep [1, 3, 3, 1]."""
    kernel = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])) / 4
    state = {n: kernel if n.endswith("conv.blur.kernel") else t for n, t in document["g_ema"].items()}
    torch.save({"g_ema": state}, tmp_path / "a.pt")
    with pytest.raises(CagcError, match="the filter to_rgbs.0.upsample.kernel differs from convs.2.conv.blur.kernel"):
        load_generator(tmp_path / "a.pt")


def basicsr(name: str) -> str:
    """A rosinality name in BasicSR's words."""
    for ours, theirs in (("input.input", "constant_input.weight"), ("noises.noise_", "noises.noise")):
        name = name.replace(ours, theirs)
    name = f"style_{name}" if name.startswith("conv") else name.replace("style.", "style_mlp.", 1)
    return name.replace(".noise.weight", ".weight").replace(".conv.", ".modulated_conv.")


def clean(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    """A tensor of BasicSR's as GFPGAN's "clean" code has it: gains multiplied in, activations counted as layers."""
    if match := re.fullmatch(r"style_mlp\.(\d+)\.(.*)", name):
        gain = 0.01 * math.sqrt(2 / tensor.shape[-1] if tensor.ndim == 2 else 2)
        return f"style_mlp.{2 * int(match[1]) - 1}.{match[2]}", tensor * gain
    if name.endswith("modulated_conv.weight"):
        return name, tensor / math.sqrt(tensor[0, 0].numel())
    if name.endswith("modulation.weight"):
        return name, tensor / math.sqrt(tensor.shape[1])
    if name.endswith("activate.bias"):
        return name.replace("activate.bias", "bias"), tensor.reshape(1, -1, 1, 1) * math.sqrt(2)
    return name, tensor * math.sqrt(2) if re.fullmatch(r"style_conv\w*(\.\d+)?\.weight", name) else tensor


def test_gfpgan(tmp_path, document):
    ours = make(upsampling="bilinear")
    ours.load_state_dict(make().state_dict())
    state = {basicsr(n): t for n, t in document["g_ema"].items() if not n.endswith("kernel")}
    encoder, mean = {"conv_body_first.0.weight": torch.zeros(1)}, {"latent_avg": document["latent_avg"]}
    decoder = {f"stylegan_decoder.{name}": tensor for name, tensor in state.items()}
    torch.save({"params_ema": encoder | decoder} | mean, tmp_path / "bilinear.pth")
    found = load_checkpoint(tmp_path / "bilinear.pth", assume={"upsampling": "bilinear"})
    with pytest.warns(UserWarning, match="took BasicSR's StyleGAN2 generator under 'params_ema/stylegan_decoder.'"):
        draws_the_same(found.g_ema, ours)
    with pytest.warns(UserWarning):
        plain = load_checkpoint(tmp_path / "bilinear.pth")
        draws_the_same(plain.g_ema, make())
    assert plain.assumed == {"lr_mlp": 0.01, "upsampling": "fir"}
    decoder = {f"stylegan_decoder.{n}": t for n, t in (clean(*item) for item in state.items())}
    torch.save({"params_ema": encoder | decoder} | mean, tmp_path / "clean.pth")
    with pytest.warns(UserWarning, match='took GFPGAN\'s "clean" StyleGAN2 generator'):
        found = load_checkpoint(tmp_path / "clean.pth")
        draws_the_same(found.g_ema, ours)
    assert found.assumed == {}


@pytest.mark.parametrize("case", networks.CASES)
def test_state_dicts_of_nvlabs(tmp_path, case):
    """Written by ``convert --to nvlabs-state`` and read back: alone, and inside EG3D's generator."""
    g, d = networks.generator(case), networks.discriminator(case)
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(g_ema=g, d=d))
    assert convert(tmp_path / "a.safetensors", tmp_path / "a.pt", to="nvlabs-state") == {}
    document = torch.load(tmp_path / "a.pt", weights_only=True)
    kwargs = document["init_kwargs"]["G_ema"]
    assert (kwargs["channel_base"], kwargs["channel_max"]) == (64, 6)
    assert kwargs["mapping_kwargs"]["lr_multiplier"] == g.config.lr_multiplier
    inside = {f"backbone.{name}": tensor for name, tensor in document["G_ema"].items()}
    torch.save(inside | {"superresolution.block0.conv0.weight": torch.zeros(1)}, tmp_path / "eg3d.pt")
    torch.save(document["G_ema"], tmp_path / "alone.pt")
    for name in ("a.pt", "alone.pt", "eg3d.pt"):
        back = load_checkpoint(tmp_path / name)
        if g.config.conv_clamp is None and g.config.activation == "lrelu":
            assert back.g_ema.config == g.config
            draws_the_same(back.g_ema, g)
        assert back.g_ema.img_channels == g.img_channels and back.g_ema.c_dim == g.c_dim
    back = load_checkpoint(tmp_path / "a.pt").d
    expected = d.config if d.config.c_dim else replace(d.config, mapping_layers=8)  # which no labels need
    assert back.config == expected


@pytest.mark.parametrize(
    "options,to,message",
    [
        ({"c_dim": 3}, "rosinality", "rosinality's layout: has c_dim 0 alone, got 3"),
        ({"z_dim": 4}, "rosinality", "rosinality's layout: has z_dim 8 as w, got 4"),
        ({"block_architecture": "resnet"}, "rosinality", "has block_architecture 'skip' alone, got 'resnet'"),
        ({"const_size": (4, 2)}, "rosinality", r"has const_size \(4, 4\) alone, got \(4, 2\)"),
        ({"const_size": (4, 2)}, "nvlabs-state", r"NVlabs' layout: has const_size \(4, 4\) alone, got \(4, 2\)"),
        ({"upsampling": "bilinear"}, "nvlabs-state", "up-samples by FIR alone, got bilinear"),
        ({"upsampling": "bilinear"}, "rosinality", "has upsampling 'fir' alone, got 'bilinear'"),
    ],
)
def test_what_a_layout_cannot_express(tmp_path, options, to, message):
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(g_ema=make(**options)))
    with pytest.raises(CagcError, match=message):
        convert(tmp_path / "a.safetensors", tmp_path / "a.pt", to=to)
    assert not (tmp_path / "a.pt").exists()
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="native")


def test_widths_that_nvlabs_code_does_not_have(tmp_path):
    """Two widths in a block; and one width a block, but no base and maximum for them."""
    names = list(GeneratorConfig.uniform(16).channels)
    for widths, message in (
        ((6, 6, 6, 6, 4, 3), "has one width a resolution, got 4 and 3 channels at 16 px"),
        ((5, 5, 6, 6, 4, 4), "alone, got 5 at 4 px, 6 at 8 px, 4 at 16 px"),
    ):
        pruned = Generator(GeneratorConfig(16, dict(zip(names, widths, strict=True)), **OPTIONS))
        save_checkpoint(tmp_path / "a.safetensors", Checkpoint(g_ema=pruned))
        with pytest.raises(CagcError, match=message):
            convert(tmp_path / "a.safetensors", tmp_path / "a.pt", to="nvlabs-state")
        convert(tmp_path / "a.safetensors", tmp_path / "r.pt", to="rosinality")
        draws_the_same(load_generator(tmp_path / "r.pt", assume={"lr_mlp": 0.01}), _with_mean(pruned))


def _with_mean(generator: Generator) -> Generator:
    return generator.requires_grad_(False)


def test_the_command(tmp_path, document, capsys):
    torch.save(document, tmp_path / "a.pt")
    run("convert", tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert "assumed lr_mlp 0.01, which the file does not store" in capsys.readouterr().err
    run("convert", tmp_path / "a.pt", tmp_path / "c.safetensors", "--lr-mlp", 0.1)
    assert load_generator(tmp_path / "c.safetensors").config.lr_multiplier == 0.1
    run("convert", tmp_path / "b.safetensors", tmp_path / "d.pt", "--to", "nvlabs-state")
    assert "expected '.pt' for nvlabs-state" in refused(
        capsys, "convert", tmp_path / "b.safetensors", tmp_path / "e.safetensors", "--to", "nvlabs-state"
    )
    message = refused(capsys, "convert", tmp_path / "b.safetensors", tmp_path / "e.pt", "--to", "keras")
    assert message.startswith("error: to: got 'keras', expected one of native, rosinality, nvlabs-state")


@pytest.mark.parametrize("title", [layout.title for layout in LAYOUTS if layout.build is None])
def test_other_networks_are_told_by_name(tmp_path, title):
    layout = next(layout for layout in LAYOUTS if layout.title == title)
    names = [*layout.anchors[:2], f"{layout.told_by}weight" if layout.told_by else "other.weight"]
    torch.save({"state_dict": {name: torch.zeros(2, 2) for name in names}}, tmp_path / "a.pt")
    with pytest.raises(CagcError, match=re.escape(f"is {title}, which is not supported")):
        load_generator(tmp_path / "a.pt")


def test_a_layout_that_is_incomplete_names_the_tensor(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(g_ema=make(c_dim=3), d=_judge()))
    convert(tmp_path / "a.safetensors", tmp_path / "a.pt", to="nvlabs-state")
    document = torch.load(tmp_path / "a.pt", weights_only=True)
    for key, name in (("G_ema", "mapping.embed.bias"), ("G_ema", "synthesis.b8.conv0.bias"), ("D", "b4.out.bias")):
        torn = {k: v for k, v in document[key].items() if k != name}
        torch.save({key: torn}, tmp_path / "b.pt")
        checkpoint = load_checkpoint(tmp_path / "b.pt")
        with pytest.raises(CagcError, match=f"tensor '{name}' is missing; expected NVlabs' StyleGAN2 layout"):
            checkpoint.d if key == "D" else checkpoint.g_ema


def _judge() -> Discriminator:
    return Discriminator(DiscriminatorConfig.uniform(16, 64, 6, c_dim=3, mapping_layers=2))
