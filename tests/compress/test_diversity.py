from __future__ import annotations

import pytest
import torch

from cagc.models import Generator, GeneratorConfig
from cagc.pruning.scores import PrincipalAxes, diversity_scores, principal_axes, score_channels
from cagc.pruning.scores.consumers import consumer_names
from cagc.pruning.scores.diversity import move_gradients
from cagc.pruning.scores.samples import draw_samples, stream


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(3)
    config = GeneratorConfig.uniform(8, channel_base=64, channel_max=8, style_dim=10, mapping_layers=2)
    g = Generator(config).double()
    for name, parameter in g.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.3)
    return g.requires_grad_(False)


def test_axes_are_the_principal_ones():
    rng = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64))[0]
    scale = torch.tensor([3.0, 2.0, 1.0, 0.1], dtype=torch.float64)
    w = torch.randn(50_000, 4, generator=rng, dtype=torch.float64) * scale @ rotation + 5
    axes = PrincipalAxes.of(w)
    torch.testing.assert_close((axes.axes * rotation).sum(dim=1).abs(), torch.ones(4).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(axes.shares, scale.square() / scale.square().sum(), rtol=0, atol=5e-3)
    torch.testing.assert_close(axes.mean, torch.full((4,), 5.0).double(), rtol=0, atol=0.05)
    drawn = axes.draw(4000, rng)
    for axis, share in zip(axes.axes, axes.shares):
        assert (drawn @ axis > 0.99).double().mean().item() == pytest.approx(share.item(), abs=0.03)


def test_gradients_are_those_of_both_images(generator: Generator):
    batch = next(draw_samples(generator, range(2), [2]))
    offsets = principal_axes(generator, 500).draw(3, stream("test", 0))
    modules = consumer_names(generator.channel_groups(), "main")
    for offset, found in zip(offsets, move_gradients(generator, batch, offsets, modules)):
        g = Generator(generator.config).double()
        g.load_state_dict(generator.state_dict())
        difference = g.synthesis(batch.ws + offset, batch.noise) - g.synthesis(batch.ws, batch.noise)
        difference.abs().sum().backward()
        for module in modules:
            torch.testing.assert_close(found[module], g.get_submodule(module).weight.grad, rtol=1e-9, atol=1e-12)


def test_per_sample_scores_do_not_depend_on_batches_and_batch_sums_do(generator: Generator):
    def score(**options) -> dict[str, torch.Tensor]:
        return score_channels(generator, "diversity", samples=5, directions=3, **options).scores

    one, three = score(batch_size=1), score(batch_size=3)
    assert all((s >= 0).all() and s.isfinite().all() for s in one.values())
    for name, expected in one.items():
        torch.testing.assert_close(three[name], expected, rtol=1e-9, atol=1e-15)
    summed = [score(batch_size=size, batch_rule="batch-sum") for size in (1, 3)]
    assert not any(torch.allclose(summed[0][name], summed[1][name], rtol=1e-3) for name in one)
    for name, expected in one.items():
        torch.testing.assert_close(summed[0][name] / 5, expected, rtol=1e-9, atol=1e-15)


def test_equal_answers_to_all_moves_score_nothing(generator: Generator):
    batches = list(draw_samples(generator, range(2), [2]))
    same = principal_axes(generator, 500).axes[:1].expand(4, -1)
    for score in diversity_scores(generator, batches, lambda batch: same).values():
        assert score.max().item() < 1e-20


def test_the_document_says_how_and_the_seed_decides(generator: Generator):
    scores = score_channels(generator, "diversity", samples=2, directions=2, strength=3.0, seed=4, truncation=0.7)
    assert scores.settings == {
        "samples": 2, "seed": 4, "batch_rule": "per-sample", "consumers": "main", "directions": 2, "strength": 3.0,
        "noise": "random", "truncation": 0.7,
    }  # fmt: skip
    again = score_channels(generator, "diversity", samples=2, directions=2, strength=3.0, seed=4, truncation=0.7)
    other = score_channels(generator, "diversity", samples=2, directions=2, strength=3.0, seed=5, truncation=0.7)
    assert all(torch.equal(scores.scores[n], again.scores[n]) for n in scores.scores)
    assert not any(torch.equal(scores.scores[n], other.scores[n]) for n in scores.scores)


@pytest.mark.parametrize("setting, value", [("directions", 0), ("strength", 0.0), ("strength", float("nan"))])
def test_settings_out_of_range_are_named(generator: Generator, setting, value):
    with pytest.raises(ValueError, match=f"{setting}: got"):
        score_channels(generator, "diversity", samples=1, **{setting: value})
