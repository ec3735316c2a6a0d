"""ONNX export: the graph draws what PyTorch draws."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from cagc import export
from cagc.cli import main
from cagc.common.errors import CagcError
from cagc.common.seeds import z_batch
from cagc.export import export_onnx
from cagc.models import Generator, GeneratorConfig

MISSING = [name for name in (*export.PACKAGES, "onnxruntime") if find_spec(name) is None]


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig.uniform(16, 128, 12, style_dim=16, mapping_layers=2))
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.normal_(parameter)
    generator.estimate_w_avg(64)
    return generator


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_the_graph_draws_the_same_images(generator, tmp_path):
    import onnxruntime

    export_onnx(generator, tmp_path / "g.onnx", batch=2, truncation=0.7)
    assert generator.training and [p.name for p in tmp_path.iterdir()] == ["g.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"), providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("z", [2, 16])]
    z = z_batch((1, 2), 16)
    with torch.no_grad():
        expected = generator(z, truncation_psi=0.7, noise="const")
    (image,) = session.run(["image"], {"z": z.numpy()})
    torch.testing.assert_close(torch.from_numpy(image), expected, rtol=1e-4, atol=1e-4)


def test_bad_input_is_refused(generator, tmp_path, monkeypatch):
    with pytest.raises(CagcError, match="suffix '.pt'"):
        export_onnx(generator, tmp_path / "g.pt")
    with pytest.raises(ValueError, match="batch: got 0"):
        export_onnx(generator, tmp_path / "g.onnx", batch=0)
    with pytest.raises(ValueError, match="noise: got 'random'"):
        export_onnx(generator, tmp_path / "g.onnx", noise="random")
    monkeypatch.setattr(export, "PACKAGES", ("no_such_package",))
    with pytest.raises(CagcError, match="no_such_package"):
        export_onnx(generator, tmp_path / "g.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_to_replace(tmp_path, capsys):
    (tmp_path / "g.onnx").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["export", "--out", str(tmp_path / "g.onnx")])
    assert stop.value.code == 2 and "add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "g.onnx").read_text() == "mine"
