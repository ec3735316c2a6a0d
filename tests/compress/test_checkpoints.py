from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cagc.checkpoints import (
    Checkpoint,
    convert,
    generator_hash,
    load_checkpoint,
    load_discriminator,
    load_generator,
    save_checkpoint,
    save_generator,
    to_rosinality,
)
from cagc.cli import main
from cagc.common.errors import CagcError
from cagc.editing.directions import mapping_hash
from cagc.metrics.macs import total_macs
from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from cagc.models.stylegan2_config import layer_names


@pytest.fixture
def networks() -> Checkpoint:
    # Enough convolutions for "convs.10" to sort before "convs.2"; odd widths, as pruning makes them.
    widths = {name: w for name, w in zip(layer_names(256), [7, 3, 5, 1, 4, 9, 2, 6, 3, 8, 5, 4, 3, 2])}
    g = Generator(GeneratorConfig(256, widths, style_dim=10, mapping_layers=3))
    g.estimate_w_avg(100)
    d = Discriminator(DiscriminatorConfig(256, {256: 2, 128: 3, 64: 4, 32: 5, 16: 3, 8: 2, 4: 6}))
    return Checkpoint(g_ema=g, g=Generator(g.config), d=d, metadata={"steps": 12})


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    assert a.config == b.config
    state = b.state_dict()
    for name, tensor in a.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0, msg=name)


def test_native_round_trip(tmp_path, networks):
    path = tmp_path / "all.safetensors"
    save_checkpoint(path, networks)
    loaded = load_checkpoint(path)
    for name in ("g_ema", "g", "d"):
        assert_same(getattr(networks, name), getattr(loaded, name))
    assert loaded.metadata == {"steps": 12}
    assert [p.name for p in tmp_path.iterdir()] == ["all.safetensors"]


def test_rosinality_layout_of_another_lr_multiplier(tmp_path):
    config = GeneratorConfig.uniform(8, 64, 8, style_dim=8, mapping_layers=2, lr_multiplier=0.02)
    generator = Generator(config)
    for i in range(2):
        getattr(generator.mapping, f"fc{i}").bias.data.normal_()
    torch.save({"g_ema": to_rosinality(Checkpoint(g_ema=generator))["g_ema"]}, tmp_path / "g.pt")
    z = torch.randn(4, 8)
    torch.testing.assert_close(load_generator(tmp_path / "g.pt")(z, noise="const"), generator(z, noise="const"))


def test_half_precision_on_disk_is_single_in_memory(tmp_path, networks):
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, networks, dtype=torch.float16)
    generator = load_generator(path)
    assert {p.dtype for p in generator.parameters()} == {torch.float32}
    torch.testing.assert_close(generator.w_avg, networks.g_ema.w_avg, rtol=1e-3, atol=1e-4)


def test_rosinality_layout_round_trip_with_shuffled_keys(tmp_path, networks):
    document = to_rosinality(networks)
    for name in ("g_ema", "g", "d"):
        items = list(document[name].items())
        random.Random(0).shuffle(items)
        document[name] = dict(items)
    torch.save(document, tmp_path / "r.pt")
    loaded = load_checkpoint(tmp_path / "r.pt")
    for name in ("g_ema", "d"):
        assert_same(getattr(networks, name), getattr(loaded, name))


def test_convert_there_and_back(tmp_path, networks):
    save_checkpoint(tmp_path / "a.safetensors", networks)
    convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
    convert(tmp_path / "b.pt", tmp_path / "c.safetensors")
    assert_same(networks.g_ema, load_generator(tmp_path / "c.safetensors"))
    assert_same(networks.d, load_discriminator(tmp_path / "c.safetensors"))


def test_bare_state_dict_of_a_generator(tmp_path, networks):
    torch.save(to_rosinality(networks)["g_ema"], tmp_path / "bare.pt")
    assert load_generator(tmp_path / "bare.pt").config == networks.g_ema.config


def test_hash_tells_generators_apart(networks):
    before = generator_hash(networks.g_ema)
    assert before == generator_hash(networks.g_ema) != generator_hash(networks.g)
    networks.g_ema.synthesis.b4.const.data[0, 0, 0] += 1e-3
    assert generator_hash(networks.g_ema) != before


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_pickle_payload_is_refused(tmp_path, capsys):
    torch.save({"g_ema": _Payload()}, tmp_path / "evil.pt")
    with pytest.raises(CagcError, match=r"evil.pt: .*it asks to run builtins.print, which is refused"):
        load_checkpoint(tmp_path / "evil.pt")
    assert "executed" not in capsys.readouterr().out


def _truncate(path, fraction: float = 0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])


def test_unreadable_files_are_one_clear_line(tmp_path, networks):
    with pytest.raises(CagcError, match="no such file"):
        load_checkpoint(tmp_path / "absent.pt")
    save_checkpoint(tmp_path / "t.safetensors", networks)
    _truncate(tmp_path / "t.safetensors")
    convert_source = tmp_path / "u.pt"
    torch.save(to_rosinality(networks), convert_source)
    _truncate(convert_source)
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("hello")
    for name in ("t.safetensors", "u.pt", "empty.pt", "text.pt"):
        with pytest.raises(CagcError, match=name) as caught:
            load_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_tensors_that_are_no_stylegan2(tmp_path, networks):
    document = to_rosinality(networks)
    cases = {
        "other": ({"model": {}}, "expected 'g_ema', 'g' or 'd'"),
        "list": ([1, 2], "got list"),
        "lacks": ({"g_ema": {k: v for k, v in document["g_ema"].items() if k != "to_rgb1.bias"}}, "to_rgb1.bias"),
        "shape": ({"g_ema": {**document["g_ema"], "conv1.activate.bias": torch.zeros(99)}}, "conv1.activate.bias"),
        "odd": ({"g_ema": {k: v for k, v in document["g_ema"].items() if "convs.11." not in k}}, "two per resolution"),
        "nodisc": ({"d": {}}, r"got keys \['d'\]"),
        "mapping": (
            {"g_ema": {k: v for k, v in document["g_ema"].items() if "style." not in k}},
            "no mapping network .tensor 'style.1.weight' is missing",
        ),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(CagcError, match=message):
            load_generator(tmp_path / f"{name}.pt")


def test_nothing_is_no_checkpoint(tmp_path):
    with pytest.raises(CagcError, match="got no network"):
        save_generator(None, tmp_path / "none.safetensors")
    assert not list(tmp_path.iterdir())


def test_native_file_of_another_format_or_shape(tmp_path, networks):
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CagcError, match=r"got keys \['x'\], expected 'g_ema', 'g' or 'd'"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    save_generator(networks.g_ema, tmp_path / "g.safetensors")
    tensors = load_file(tmp_path / "g.safetensors")
    del tensors["g_ema.w_avg"]
    from safetensors import safe_open

    with safe_open(tmp_path / "g.safetensors", "pt") as file:
        save_file(tensors, tmp_path / "lacks.safetensors", file.metadata())
    with pytest.raises(CagcError, match="tensor 'w_avg' is missing"):
        load_generator(tmp_path / "lacks.safetensors")


def test_what_is_asked_for_must_be_there(tmp_path, networks):
    save_generator(networks.g_ema, tmp_path / "g.safetensors")
    with pytest.raises(CagcError, match="holds no discriminator"):
        load_discriminator(tmp_path / "g.safetensors")
    save_checkpoint(tmp_path / "d.safetensors", Checkpoint(d=networks.d))
    with pytest.raises(CagcError, match="holds no generator"):
        load_generator(tmp_path / "d.safetensors")
    with pytest.raises(CagcError, match="expected '.safetensors'"):
        save_generator(networks.g_ema, tmp_path / "g.bin")
    with pytest.raises(CagcError, match="does not exist"):
        save_generator(networks.g_ema, tmp_path / "no" / "g.safetensors")


def test_embedded_generators_go_by_name(tmp_path):
    teacher, student = load_generator("faces64"), load_generator(Path("faces64-student"))
    assert total_macs(student) < total_macs(teacher) / 11
    assert mapping_hash(student) == mapping_hash(teacher)
    main(["generate", "--generator", "faces64-student", "--seeds", "3", "--out", str(tmp_path / "images")])
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["00003.png"]
    with pytest.raises(CagcError, match="checkpoint faces65: no such file"):
        load_generator("faces65")
