"""ONNX export: both graphs draw what PyTorch draws, and the plain one holds what every converter knows."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from cagc.cli import main
from cagc.common.errors import CagcError
from cagc.common.seeds import z_batch
from cagc.export import PlainGenerator, export_onnx
from cagc.export import onnx as onnx_export
from cagc.models import Generator, GeneratorConfig, SNGANConfig, SNGANGenerator

MISSING = [name for name in (*onnx_export.PACKAGES, "onnxruntime") if find_spec(name) is None]

PLAIN = {"Add", "Conv", "ConvTranspose", "Gemm", "LeakyRelu", "Mul", "Reciprocal", "Reshape", "Sqrt"}


def make(**options) -> Generator:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig.uniform(16, 128, 12, style_dim=16, mapping_layers=2, **options))
    for name, parameter in generator.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            torch.nn.init.normal_(parameter)
    generator.estimate_w_avg(64)
    return generator


@pytest.fixture
def generator() -> Generator:
    return make()


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.parametrize("plain", [False, True])
def test_the_graph_draws_the_same_images(generator, plain, tmp_path):
    import onnx
    import onnxruntime

    export_onnx(generator, tmp_path / "g.onnx", batch=2, truncation=0.7, plain=plain)
    assert generator.training and [p.name for p in tmp_path.iterdir()] == ["g.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"), providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("z", [2, 16])]
    z = z_batch((1, 2), 16)
    with torch.no_grad():
        expected = generator(z, truncation_psi=0.7, noise="const")
    (image,) = session.run(["image"], {"z": z.numpy()})
    torch.testing.assert_close(torch.from_numpy(image), expected, rtol=1e-4, atol=1e-4)
    if plain:
        graph = onnx.load(tmp_path / "g.onnx").graph
        assert {node.op_type for node in graph.node} <= PLAIN
        assert max(len(value.type.tensor_type.shape.dim) for value in graph.value_info) == 4


# A filter whose taps all differ tells a convolution from a correlation.
@pytest.mark.parametrize("options", [{}, {"resample_filter": (1, 3, 5, 2), "conv_clamp": 0.5}])
@pytest.mark.parametrize("noise", ["const", "none"])
def test_plain_operators_draw_the_same_images(options, noise):
    generator, z = make(**options), z_batch((1, 2, 3), 16)
    with torch.no_grad():
        expected = generator(z, truncation_psi=0.7, noise_mode=noise)
    torch.testing.assert_close(PlainGenerator(generator, 0.7, noise)(z), expected, rtol=1e-4, atol=1e-4)


def test_bad_input_is_refused(generator, tmp_path, monkeypatch):
    with pytest.raises(CagcError, match="suffix '.pt'"):
        export_onnx(generator, tmp_path / "g.pt")
    with pytest.raises(ValueError, match="batch: got 0"):
        export_onnx(generator, tmp_path / "g.onnx", batch=0)
    with pytest.raises(ValueError, match="noise: got 'random'"):
        export_onnx(generator, tmp_path / "g.onnx", noise="random")
    with pytest.raises(CagcError, match="plain: got a generator of kind sngan, expected stylegan2"):
        export_onnx(SNGANGenerator(SNGANConfig.uniform(width=4)), tmp_path / "g.onnx", plain=True)
    monkeypatch.setattr(onnx_export, "PACKAGES", ("no_such_package",))
    with pytest.raises(CagcError, match="no_such_package"):
        export_onnx(generator, tmp_path / "g.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_to_replace(tmp_path, capsys):
    (tmp_path / "g.onnx").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["export", "--out", str(tmp_path / "g.onnx")])
    assert stop.value.code == 2 and "add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "g.onnx").read_text() == "mine"
