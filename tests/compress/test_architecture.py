"""Scoring, planning, pruning and timing work for an architecture that is defined only here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cagc
from cagc import models
from cagc.common.errors import CagcError
from cagc.latency.layers import profile_layers
from cagc.metrics.macs import count_macs, count_parameters
from cagc.models import LayerSpec
from cagc.models.base import BaseGenerator, BaseMapping, BaseSynthesis
from cagc_kernels.profiling import layer_range


@dataclass(frozen=True)
class PlainConfig:
    """A learned input, a convolution that w modulates, one that nothing modulates, and toRGB, all at 8 px."""

    channels: dict[str, int] = field(default_factory=lambda: {"start": 12, "middle": 10, "end": 8})
    architecture: str = "plain"
    z_dim, c_dim, w_dim, num_ws, img_resolution, img_channels = 5, 0, 5, 1, 8, 3

    def layers(self) -> tuple[LayerSpec, ...]:
        size, pixels, width = (8, 8), 64, self.channels
        return (
            LayerSpec("start", "const", "synthesis.start", 0, width["start"], size, writes="start"),
            LayerSpec("middle", "conv", "synthesis.middle", width["start"], width["middle"], size, kernel=3,
                      positions=pixels, reads="start", writes="middle", w=0, w_dim=5, row="middle"),
            LayerSpec("end", "conv", "synthesis.end", width["middle"], width["end"], size, kernel=3,
                      positions=pixels, reads="middle", writes="end", row="end"),
            LayerSpec("image", "to_rgb", "synthesis.image", width["end"], 3, size, positions=pixels, reads="end",
                      row="image"),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Modulated(nn.Conv2d):
    weight_gain = 1.0

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.affine = nn.Linear(5, inputs)


class Layer(nn.Conv2d):
    weight_gain = 1.0


class PlainSynthesis(BaseSynthesis):
    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.config, width = config, config.channels
        self.start = nn.Parameter(torch.randn(width["start"], 8, 8))
        self.middle = Modulated(width["start"], width["middle"])
        self.end = Layer(width["middle"], width["end"], 3, padding=1)
        self.image = Layer(width["end"], 3, 1)

    def styles(self, ws):
        return {"middle": self.middle.affine(ws[:, 0])}

    def forward(self, ws, noise_mode="random", noise=None, return_rgbs=False, features=None, **options):
        self.check_options(options)
        self.check_ws(ws)
        features = {} if features is None else features
        x = features["start"] = self.start.expand(len(ws), -1, -1, -1)
        with layer_range("synthesis.middle"):
            x = features["middle"] = F.relu(self.middle(x * self.styles(ws)["middle"][:, :, None, None]))
        with layer_range("synthesis.end"):
            x = features["end"] = F.relu(self.end(x))
        with layer_range("synthesis.image"):
            image = self.image(x)
        return [image] if return_rgbs else image


class Same(BaseMapping):
    def w(self, z, c=None):
        return z


class PlainGenerator(BaseGenerator):
    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.config, self.mapping, self.synthesis = config, Same(config), PlainSynthesis(config)


@pytest.fixture
def generator(monkeypatch) -> PlainGenerator:
    monkeypatch.setitem(models._GENERATORS, "plain", (PlainGenerator, PlainConfig))
    torch.manual_seed(0)
    return PlainGenerator(PlainConfig()).eval()


@pytest.mark.parametrize("metric", ("content-aware", "diversity", "l1-out", "l1-in", "l1-style", "asv"))
def test_scored_planned_and_pruned(generator, tmp_path, metric):
    scores = cagc.score_channels(
        generator, metric, lambda images: torch.ones_like(images[:, :1]), samples=2, noise_probability=1.0
    )
    plan = cagc.plan_channels(generator, scores, macs=0.5, round_to=1, min_width=2)
    assert 0.4 < plan.cost["macs"][1] / plan.cost["macs"][0] <= 0.5
    student = cagc.prune(generator, plan, rescale="none")
    assert sum(count_parameters(student).values()) == sum(p.numel() for p in student.parameters())
    kept = {name: torch.tensor(indices) for name, indices in plan.kept.items()}
    masked, ws, ours, theirs = generator, torch.randn(2, 1, 5), {}, {}
    with torch.no_grad():
        for name, layer in (("start", masked.synthesis.middle), ("middle", masked.synthesis.end)):
            gone = torch.ones(plan.full[name]).index_fill(0, kept[name], 0).bool()
            layer.weight[:, gone] = 0
    masked.synthesis(ws, features=theirs)
    student.synthesis(ws, features=ours)
    for name, feature in ours.items():
        torch.testing.assert_close(feature, theirs[name][:, kept[name]])
    cagc.save_generator(student, tmp_path / "g.safetensors")
    again = cagc.load_generator(tmp_path / "g.safetensors")
    torch.testing.assert_close(again(z := torch.randn(1, 5)), student(z))


def test_timed_and_compiled(generator):
    assert count_macs(generator)["middle"] == 9 * 12 * 10 * 64 and "middle.affine" in count_macs(generator)
    assert [row["name"] for row in profile_layers(generator, executor="eager", repeats=1)] == ["middle", "end", "image"]
    compiled = cagc.runtime.compile(generator)
    torch.testing.assert_close(compiled(z := torch.randn(2, 5)), generator(z))
    assert [row["layer"] for row in compiled.explain()] == ["middle", "end"]
    plan = cagc.plan_channels(generator, cagc.score_channels(generator, "random"), keep=0.5)
    with pytest.raises(CagcError, match="plan: a view runs generators of architecture stylegan2, got plain"):
        cagc.at(generator, plan)
