"""Students inside NVlabs' own scripts, whose loading of a network is replaced by one line. Needs ``--peers DIR``.

What the scripts download (feature detectors) is stood in for, and their device is the CPU.
"""

from __future__ import annotations

import importlib
import io
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import cagc
from cagc.models import Generator, GeneratorConfig

from .test_layouts import checkout  # noqa: F401  a fixture


@pytest.fixture(scope="module", params=[0, 3], ids=["plain", "labels"])
def student(request) -> Generator:
    torch.manual_seed(0)
    teacher = Generator(GeneratorConfig.uniform(16, 128, 10, style_dim=8, mapping_layers=2, c_dim=request.param))
    teacher.requires_grad_(False).estimate_w_avg(100)
    plan = cagc.plan_channels(teacher, cagc.score_channels(teacher, "l1-out", samples=4), keep=0.6, round_to=1)
    return cagc.prune(teacher, plan).eval().requires_grad_(False)


def script(path: Path) -> ModuleType:
    """A script of theirs, with the line that loads the network replaced, and "cuda" by "cpu"."""
    source = path.read_text().replace("torch.device('cuda')", "torch.device('cpu')")
    loading = (
        r"with dnnlib\.util\.open_url\(network_pkl\) as f(?:p)?:\n\s+G = legacy\.load_network_pkl\(f(?:p)?\)\['G_ema'\]"
    )
    source, count = re.subn(loading, "G = cagc.load(network_pkl)", source)
    module = ModuleType(path.stem)
    exec(compile(source, str(path), "exec"), vars(module))
    assert count == 1 or path.stem not in ("gen_images", "projector")
    return module


class _Features(torch.nn.Module):
    def forward(self, images: torch.Tensor, **options) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images.float() / 255, 4).flatten(1)


@contextmanager
def _download(*args, **kwargs):
    yield io.BytesIO(b"")


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_image_generation(checkout, student, compiled, tmp_path, monkeypatch):  # noqa: F811
    folder = checkout("stylegan3", ".")
    pytest.importorskip("click")
    module = script(folder / "gen_images.py")
    network = cagc.runtime.compile(student, weights="float32") if compiled else student
    module.cagc = type("loader", (), {"load": staticmethod(lambda path: network)})
    label = ["--class", "1"] if student.c_dim else []
    arguments = ["--outdir", str(tmp_path), "--trunc", "0.7", "--seeds", "0,3", "--network", "student", *label]
    module.generate_images(arguments, standalone_mode=False)
    c = torch.eye(3)[1:2] if student.c_dim else None
    for seed in (0, 3):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, student.z_dim)).float()
        expected = student(z, c, truncation_psi=0.7, noise_mode="const")[0].permute(1, 2, 0) * 127.5 + 128
        found = np.asarray(Image.open(tmp_path / f"seed{seed:04d}.png")).astype(float)
        assert np.abs(found - expected.clamp(0, 255).numpy()).max() <= 1.01


def test_projection(checkout, student, monkeypatch):  # noqa: F811
    folder = checkout("stylegan2-ada-pytorch", ".")
    pytest.importorskip("click")
    monkeypatch.setitem(sys.modules, "imageio", ModuleType("imageio"))
    if student.c_dim:
        pytest.skip("their projector passes no labels")
    module = script(folder / "projector.py")
    monkeypatch.setattr(module.dnnlib.util, "open_url", _download)
    monkeypatch.setattr(torch.jit, "load", lambda file: _Features())
    target = (student(torch.randn(1, 8), noise_mode="const")[0].clamp(-1, 1) + 1) * 127.5
    found = module.project(student, target, num_steps=6, w_avg_samples=50, device=torch.device("cpu"))
    assert found.shape == (6, student.num_ws, 8) and not torch.equal(found[0], found[-1])
    compiled = cagc.runtime.compile(student)
    with pytest.raises(ValueError, match="ws: requires a gradient, which a compiled generator does not compute"):
        module.project(compiled, target, num_steps=2, w_avg_samples=50, device=torch.device("cpu"))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_metrics(checkout, student, compiled, monkeypatch):  # noqa: F811
    checkout("stylegan3", ".")
    metric_utils = importlib.import_module("metrics.metric_utils")
    monkeypatch.setattr(metric_utils, "get_feature_detector", lambda **options: _Features())
    network = cagc.runtime.compile(student, weights="float32") if compiled else student
    labels = iter(lambda: torch.eye(3)[[0, 1]] if student.c_dim else torch.zeros(2, 0), None)
    monkeypatch.setattr(metric_utils, "iterate_random_labels", lambda **options: labels)
    options = metric_utils.MetricOptions(G=network, device=torch.device("cpu"))
    stats = metric_utils.compute_feature_stats_for_generator(
        opts=options, detector_url="", detector_kwargs={}, batch_size=4, batch_gen=2, capture_mean_cov=True, max_items=8
    )
    mean, _ = stats.get_mean_cov()
    assert mean.shape == (48,) and np.isfinite(mean).all()
