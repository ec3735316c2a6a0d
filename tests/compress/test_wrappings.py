"""Checkpoints in the wild: wrapped state dicts, with missing tensors and other entries beside them."""

from __future__ import annotations

import argparse
import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from cagc.checkpoints import (
    Checkpoint,
    convert,
    load_checkpoint,
    load_discriminator,
    load_generator,
    save_checkpoint,
    to_rosinality,
)
from cagc.checkpoints.layouts import LAYOUTS
from cagc.cli import main
from cagc.common.errors import CagcError
from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig.uniform(16, 64, 6, style_dim=8, mapping_layers=2))
    generator.w_avg.normal_()
    return generator.requires_grad_(False)


@pytest.fixture(scope="module")
def document(generator) -> dict:
    return to_rosinality(Checkpoint(g_ema=generator))


def image(generator: Generator) -> torch.Tensor:
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(1))
    return generator(z, truncation_psi=0.5, noise_mode="const")


def basicsr(name: str) -> str:
    for ours, theirs in (("input.input", "constant_input.weight"), ("noises.noise_", "noises.noise")):
        name = name.replace(ours, theirs)
    name = f"style_{name}" if name.startswith("conv") else name.replace("style.", "style_mlp.", 1)
    return name.replace(".noise.weight", ".weight").replace(".conv.", ".modulated_conv.")


def wrapped(document: dict, kind: str) -> dict:
    state, mean = document["g_ema"], document["latent_avg"]
    encoder = {"encoder.input_layer.0.weight": torch.zeros(1)}
    return {
        "training": document | {
            "args": argparse.Namespace(out=Path("a"), lr=0.1), "iter": np.int64(3), "best": np.float32(1.5),
            "latent_avg": mean.numpy(), "g_optim": {"state": {0: {"step": 1}}}, "names": {"a", "b"},
        },
        "mean_in_a_graph": document | {"latent_avg": (mean.clone().requires_grad_() * 1)[None]},
        "psp": {
            "state_dict": encoder | {f"decoder.{k}": v for k, v in state.items()}, "latent_avg": mean.repeat(5, 1),
            "opts": {"device": "cuda:0", "path": Path("a"), "size": np.int32(16)},
        },
        "stacked": {"model": {f"module._orig_mod.generator.{k}": v for k, v in state.items()}, "latent_avg": mean},
        "basicsr": {
            "params": {basicsr(k): v for k, v in state.items() if not k.endswith("kernel")}, "latent_avg": mean,
        },
    }[kind]  # fmt: skip


@pytest.mark.filterwarnings("ignore:checkpoint")
@pytest.mark.parametrize("kind", ("training", "mean_in_a_graph", "psp", "stacked", "basicsr"))
def test_wrapped_generators_draw_the_same(tmp_path, generator, document, kind):
    torch.save(wrapped(document, kind), tmp_path / "a.bin")
    loaded = load_generator(tmp_path / "a.bin")
    torch.testing.assert_close(image(loaded), image(generator), rtol=0, atol=1e-5)
    copy.deepcopy(loaded)
    assert not loaded.w_avg.requires_grad and loaded.w_avg.grad_fn is None


def test_what_was_taken_is_told(tmp_path, document):
    torch.save(wrapped(document, "stacked"), tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=r"a\.pt: took rosinality's .* under 'model/module._orig_mod.generator.'"):
        load_generator(tmp_path / "a.pt")


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
@pytest.mark.parametrize("legacy", (False, True))
def test_every_pickle_protocol_and_both_formats(tmp_path, generator, document, protocol, legacy):
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": not legacy}
    torch.save(wrapped(document, "training"), tmp_path / "a.pkl", **options)
    torch.testing.assert_close(image(load_generator(tmp_path / "a.pkl")), image(generator), rtol=0, atol=1e-5)


def test_a_whole_module_pickled(tmp_path, generator, document):
    """As ``torch.save(generator)`` of their code: read from its parameters, with its own learning rate multiplier."""

    class Module(torch.nn.Module):
        pass

    root = Module()
    for name, tensor in document["g_ema"].items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, Module())
            module = module._modules[part]
        module.register_buffer(last, tensor)
    root._modules["style"]._modules["1"].lr_mul = 0.01
    Module.__qualname__ = "Generator"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.compress.test_wrappings.Generator", Module)
        torch.save({"g_ema": root, "latent_avg": document["latent_avg"]}, tmp_path / "a.pt")
    torch.testing.assert_close(image(load_generator(tmp_path / "a.pt")), image(generator), rtol=0, atol=1e-5)


def test_missing_noise_maps_are_a_function_of_the_file(tmp_path, document):
    state = {name: t for name, t in document["g_ema"].items() if not name.startswith("noises.")}
    torch.save({"g_ema": state}, tmp_path / "old.pt")
    with pytest.warns(UserWarning, match="holds no maps for constant noise"):
        first, second = (load_generator(tmp_path / "old.pt") for _ in range(2))
    assert torch.equal(image(first), image(second))
    with pytest.warns(UserWarning):
        convert(tmp_path / "old.pt", tmp_path / "new.safetensors")
    assert torch.equal(image(load_generator(tmp_path / "new.safetensors")), image(first))


@pytest.mark.parametrize(
    "mean,message",
    (
        (torch.randn(5, 8), "5 different rows"),
        (torch.zeros(7), r"has shape \[7\], expected 8 numbers"),
        (torch.full([8], float("nan")), "NaN or infinity"),
        ([1.0], "latent_avg is list, expected a tensor"),
    ),
)
def test_a_mean_that_is_none_is_told(tmp_path, document, mean, message):
    torch.save(document | {"latent_avg": mean}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=f"{message}.*; the mean w is estimated instead"):
        load_generator(tmp_path / "a.pt")


def test_filters_are_read_not_assumed(tmp_path, document):
    other = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])) / 4
    kernels = {name for name in document["g_ema"] if name.endswith("kernel")}
    torch.save({"g_ema": {n: other if n in kernels else t for n, t in document["g_ema"].items()}}, tmp_path / "all.pt")
    assert load_generator(tmp_path / "all.pt").config.resample_filter == (0.25, 0.5, 0.25)
    some = {n: other if "convs.0.conv.blur" in n else t for n, t in document["g_ema"].items()}
    torch.save({"g_ema": some}, tmp_path / "some.pt")
    with pytest.raises(CagcError, match=r"filter convs.2.conv.blur.kernel differs from convs.0.conv.blur.kernel"):
        load_generator(tmp_path / "some.pt")


def test_ambiguous_files_list_what_they_hold(tmp_path, generator, document):
    other = document["g_ema"] | {"input.input": document["g_ema"]["input.input"] + 1}
    torch.save({"first": document["g_ema"], "second": other}, tmp_path / "a.pt")
    with pytest.raises(CagcError, match="2 networks that could be 'g_ema': 'first', 'second'; choose by convert --key"):
        load_generator(tmp_path / "a.pt")
    chosen = load_generator(tmp_path / "a.pt", key="first")
    assert torch.equal(chosen.synthesis.b4.const, generator.synthesis.b4.const)
    main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"), "--key", "second"])
    second = load_generator(tmp_path / "b.safetensors")
    torch.testing.assert_close(second.synthesis.b4.const, generator.synthesis.b4.const + 1)
    with pytest.raises(CagcError, match="key 'third' names 0 networks, expected one of 'first', 'second'"):
        load_generator(tmp_path / "a.pt", key="third")


def test_what_cannot_be_read_hides_nothing(tmp_path, generator, document):
    torch.save(
        document | {"d": {"stem.weight": torch.zeros(4)}, "g": {"stem.weight": torch.zeros(4)}}, tmp_path / "a.pt"
    )
    torch.testing.assert_close(image(load_generator(tmp_path / "a.pt")), image(generator), rtol=0, atol=1e-5)
    with pytest.raises(CagcError, match="holds no discriminator .*'g' is of no known layout .it has stem.weight"):
        load_discriminator(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "content,message",
    (
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"", "the file is empty"),
        (b"\x1f\x8b" + bytes(20), "compressed by gzip"),
        (b"\x89PNG\r\n", "a PNG image"),
        (bytes(600), "the file is zeros"),
    ),
)
def test_files_that_are_something_else(tmp_path, content, message):
    for name in ("a.pt", "a.pkl", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CagcError, match=f"{name}: the file is .*{message.removeprefix('the file is ')}"):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "name,tensor,message",
    (
        ("style.1.weight", torch.eye(8).to_sparse(), "style.1.weight is a sparse tensor"),
        ("style.1.weight", torch.empty(8, 8, device="meta"), "style.1.weight is a meta tensor"),
        ("style.1000000000.weight", torch.zeros(8, 8), "style.3.weight is missing"),
        ("conv1.conv.weight", torch.zeros([]), r"conv1.conv.weight has shape \[\], expected 5 dimensions"),
        ("convs.0.conv.weight", torch.zeros(1, 6, 6, 3, 3, dtype=torch.complex64), "holds complex numbers"),
        ("input.input", torch.zeros(1).expand(1, 60_000, 4, 4), r"input.input|expected \["),
        ("input.input", torch.zeros(1).expand(1, 30_000, 30_000, 4), "claims 3600000000 elements"),
    ),
)
def test_tensors_that_cannot_be_used(tmp_path, document, name, tensor, message):
    torch.save({"g_ema": document["g_ema"] | {name: tensor}}, tmp_path / "a.pt")
    with pytest.raises(CagcError, match=message) as caught:
        load_generator(tmp_path / "a.pt")
    assert "a.pt" in str(caught.value)


def test_networks_that_share_tensors_are_saved(tmp_path, generator):
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(g_ema=generator, g=generator))
    assert torch.equal(load_checkpoint(tmp_path / "a.safetensors").g.w_avg, generator.w_avg)


def test_claims_of_a_native_header_are_held_against_its_tensors(tmp_path, generator):
    import json

    from safetensors.torch import load_file, save_file

    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(g_ema=generator))
    tensors = load_file(tmp_path / "a.safetensors")
    config = json.loads(json.dumps(generator.config.to_dict()))
    for change, message in (
        ({"mapping_layers": 10**7}, "mapping_layers: got 10000000, of"),
        ({"resolution": 2**40}, "resolution: got 1099511627776, expected at most 4096"),
        ({"resample_filter": [1.0] * 10**5}, "resample_filter: expected a list of at most 64"),
        ({"lr_multiplier": 0}, "lr_multiplier: got 0, expected"),
        ({"channels": config["channels"] | {"b8.conv0": 60_000}}, "b8.conv0.weight has shape"),
    ):
        header = {"format": "cagc-1", "configs": json.dumps({"g_ema": config | change})}
        save_file(tensors, tmp_path / "b.safetensors", header)
        with pytest.raises(CagcError, match=message):
            load_generator(tmp_path / "b.safetensors")


def test_the_table_of_layouts_is_the_registry():
    page = (Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md").read_text()
    for layout in LAYOUTS:
        assert (f"| {layout.title} | {layout.found_in} |" if layout.build else f"- {layout.title}") in page, (
            layout.title
        )


def test_a_discriminator_alone(tmp_path):
    d = Discriminator(DiscriminatorConfig(16, {16: 3, 8: 4, 4: 5}))
    (tmp_path / "a.pt").write_bytes(pickle.dumps(1))
    with pytest.raises(CagcError, match="got int, expected 'g_ema'"):
        load_generator(tmp_path / "a.pt")
    torch.save({"d": to_rosinality(Checkpoint(d=d))["d"]}, tmp_path / "d.pt")
    assert load_discriminator(tmp_path / "d.pt").config == d.config
    with pytest.raises(CagcError, match="holds no generator"):
        load_generator(tmp_path / "d.pt")
