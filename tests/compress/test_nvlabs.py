"""NVlabs' snapshots: written here by classes that pickle themselves as theirs do, from our own weights."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from cagc.checkpoints import load_checkpoint, load_generator
from cagc.common.errors import CagcError
from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

RESOLUTION = 16


def _reconstruct_persistent_obj(meta):
    raise AssertionError("their code must not run")


class EasyDict(dict):
    pass


class Module:
    """Pickles as a persistent class of theirs: class name, source code, and the attributes of a torch module."""

    def __init__(self, name: str, **attributes: Any) -> None:
        self.name = name
        self.attributes = {"_parameters": {}, "_buffers": {}, "_modules": {}, "_init_kwargs": EasyDict(), **attributes}

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": self.name}
        return _reconstruct_persistent_obj, (meta | {"state": self.attributes},), None

    def put(self, name: str, value: Any) -> None:
        head, _, rest = name.partition(".")
        if rest:
            self.attributes["_modules"].setdefault(head, Module("Layer", weight_gain=np.float64(0.5))).put(rest, value)
        elif isinstance(value, torch.nn.Parameter):
            self.attributes["_parameters"][head] = value
        elif isinstance(value, torch.Tensor):
            self.attributes["_buffers"][head] = value
        else:
            self.attributes[head] = value


@pytest.fixture(autouse=True)
def _their_modules(monkeypatch):
    """The modules that their pickles name, which must exist while a pickle is written."""
    for name, member in (("torch_utils.persistence", _reconstruct_persistent_obj), ("dnnlib.util", EasyDict)):
        package, _, _ = name.partition(".")
        for part in (package, name):
            monkeypatch.setitem(sys.modules, part, ModuleType(part))
        setattr(sys.modules[name], member.__name__, member)
        monkeypatch.setattr(member, "__module__", name)


@pytest.fixture
def generator() -> Generator:
    config = GeneratorConfig.uniform(
        RESOLUTION, channel_base=96, channel_max=9, style_dim=8, mapping_layers=2, lr_multiplier=0.02, conv_clamp=3.0
    )
    torch.manual_seed(0)
    generator = Generator(config).requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith(("bias", "noise_strength")):
            parameter.normal_()
    generator.w_avg.normal_()
    return generator


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(1)
    return Discriminator(DiscriminatorConfig(RESOLUTION, {16: 3, 8: 5, 4: 6}, mbstd_group_size=2, conv_clamp=7.0))


def _theirs(generator: Generator) -> Module:
    config = generator.config
    theirs = Module("Generator", z_dim=config.style_dim, c_dim=0, img_resolution=config.resolution, img_channels=3)
    for name, tensor in (*generator.named_parameters(), *generator.named_buffers()):
        theirs.put(name.replace("to_rgb", "torgb"), tensor)
    for layer in list(config.channels)[1:]:
        theirs.put(f"synthesis.{layer}.activation", "lrelu")
        theirs.put(f"synthesis.{layer}.conv_clamp", config.conv_clamp)
    for r in generator.synthesis.resolutions:
        theirs.put(f"synthesis.b{r}.architecture", "skip")
        theirs.put(f"synthesis.b{r}.resample_filter", generator.synthesis.resample_filter)
    for i in range(config.mapping_layers):
        theirs.put(f"mapping.fc{i}.activation", "lrelu")
        theirs.put(f"mapping.fc{i}.bias_gain", config.lr_multiplier)
    return theirs


def _their_discriminator(discriminator: Discriminator) -> Module:
    config = discriminator.config
    theirs = Module("Discriminator", c_dim=0, img_resolution=config.resolution, img_channels=3)
    for name, parameter in discriminator.named_parameters():
        if name.startswith("from_rgb"):
            name = f"b{config.resolution}.fromrgb{name.removeprefix('from_rgb')}"
        elif not name.startswith("b"):
            name = f"b4.{name}"
        theirs.put(name, parameter)
    for r in list(config.channels)[:-1]:
        theirs.put(f"b{r}.architecture", "resnet")
    theirs.put(f"b{config.resolution}.fromrgb.conv_clamp", config.conv_clamp)
    theirs.put("b4.mbstd.group_size", config.mbstd_group_size)
    return theirs


def test_snapshot(tmp_path, generator, discriminator):
    document = {
        "training_set_kwargs": EasyDict(path=None),
        "G": _theirs(generator),
        "D": _their_discriminator(discriminator),
        "G_ema": _theirs(generator),
        "augment_pipe": Module("AugmentPipe", p=torch.zeros([])),
    }
    (tmp_path / "snapshot.pkl").write_bytes(pickle.dumps(document))
    checkpoint = load_checkpoint(tmp_path / "snapshot.pkl")
    z = torch.randn(5, 8)
    for back in (checkpoint.g_ema, checkpoint.g):
        assert back.config == generator.config
        for truncation in (1, 0.5):
            options = {"noise": "const", "truncation_psi": truncation}
            assert torch.equal(back(z, **options), generator(z, **options))
    images = torch.randn(4, 3, RESOLUTION, RESOLUTION)
    assert checkpoint.d.config == discriminator.config
    assert torch.equal(checkpoint.d(images), discriminator(images))


def test_discriminator_with_one_group_a_batch(tmp_path, discriminator):
    theirs = _their_discriminator(discriminator)
    theirs.put("b4.mbstd.group_size", None)
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"D": theirs}))
    assert load_checkpoint(tmp_path / "d.pkl").d.config.group_size(6) == 6


@pytest.mark.parametrize(
    "name,value,message",
    (
        ("c_dim", 10, r"\[G_ema\]: c_dim is 10, but 'mapping.embed.weight' is missing"),
        ("img_resolution", 17, "img_resolution: got 17, expected a power of two"),
        ("synthesis.b8.architecture", "resnet", "b8.architecture is 'resnet', but its tensors are those of 'skip'"),
        (
            "synthesis.b8.conv1.activation",
            "relu",
            "b8.conv1.activation is 'relu', but synthesis.b4.conv1.activation is 'lrelu'",
        ),
        ("synthesis.b8.conv1.bias", torch.zeros(1), "synthesis.b8.conv1.bias has shape"),
        ("synthesis.b8.conv1.weight", None, "'synthesis.b8.conv1.weight' is missing; expected NVlabs'"),
    ),
)
def test_networks_that_differ(tmp_path, generator, name, value, message):
    theirs = _theirs(generator)
    theirs.put(name, value)
    if value is None or isinstance(value, torch.Tensor):
        _remove_parameter(theirs, name)
    (tmp_path / "g.pkl").write_bytes(pickle.dumps({"G_ema": theirs}))
    with pytest.raises(CagcError, match=message):
        load_generator(tmp_path / "g.pkl")


def _remove_parameter(module: Module, name: str) -> None:
    *path, last = name.split(".")
    for part in path:
        module = module.attributes["_modules"][part]
    del module.attributes["_parameters"][last]


class _Call:
    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_else_is_built(tmp_path, generator, capsys):
    whole = pickle.dumps({"G_ema": _theirs(generator)})
    inner = torch.nn.Linear(1, 1)  # a pickle inside the bytes of a storage
    torch.save(inner, tmp_path / "inner.pt", _use_new_zipfile_serialization=False)
    cases = {
        "call": (pickle.dumps(_Call(print, "executed")), "builtins.print, which is refused"),
        "nested": (pickle.dumps({"G_ema": _Call(exec, "print('executed')")}), "builtins.exec, which is refused"),
        "storage": (
            pickle.dumps(_Call(torch.storage._load_from_bytes, (tmp_path / "inner.pt").read_bytes())),
            "one of its storages is an object of torch.nn.modules.linear.Linear, refused",
        ),
        "tensorflow": (b"\x80\x03cdnnlib.tflib.network\nNetwork\n.", "a TensorFlow snapshot; legacy.py"),
        "list": (pickle.dumps([1]), "got list, expected 'g_ema'"),
        "keys": (pickle.dumps({"state": {}}), r"got keys \['state'\], expected 'g_ema'"),
        "other": (pickle.dumps({"G_ema": {"weight": 1}}), "got keys .'G_ema'.; 'G_ema' is no state dict"),
        "class": (pickle.dumps({"G_ema": Module("Synthesis")}), "'G_ema' is of another class, Synthesis"),
        "half": (whole[: len(whole) // 2], "truncated, damaged or of another format"),
        "text": (b"hello", "the file is text; expected safetensors, a torch file or a pickle"),
        "empty": (b"", "the file is empty"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / f"{name}.pkl").write_bytes(content)
        with pytest.raises(CagcError, match=message) as caught:
            load_generator(tmp_path / f"{name}.pkl")
        assert "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out
