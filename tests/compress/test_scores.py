from __future__ import annotations

import copy
import math

import pytest
import torch

from cagc.common.errors import CagcError
from cagc.content import ContentCoverage, load
from cagc.generate import generate
from cagc.models.stylegan2 import Generator, GeneratorConfig
from cagc.pruning.budget import plan_channels
from cagc.pruning.scores import METRICS, ChannelScores, SampleBatch, score_channels
from cagc.pruning.scores.content_aware import ContentNoise, content_aware_scores, content_gradients, salt_and_pepper
from cagc.pruning.scores.samples import batch_sizes, draw_samples, stream


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(3)
    config = GeneratorConfig.uniform(16, channel_base=128, channel_max=12, style_dim=16, mapping_layers=2)
    g = Generator(config).double()
    for name, parameter in g.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.3)
    return g.requires_grad_(False)


def left_half(images: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros_like(images[:, :1])
    mask[..., : images.shape[-1] // 2] = 1
    return mask


def no_content(images: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(images[:, :1])


def score(generator: Generator, **options) -> ChannelScores:
    return score_channels(generator, parser=left_half, noise_probability=0.3, **{"samples": 7, **options})


def assert_same(a: ChannelScores, b: ChannelScores, rtol: float) -> None:
    for name, expected in b.scores.items():
        torch.testing.assert_close(a.scores[name], expected, rtol=rtol, atol=1e-12)


def test_every_metric_scores_every_channel_and_leaves_the_generator_alone(generator: Generator):
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    for metric in METRICS:
        scores = score_channels(generator, metric, parser="everything", samples=3).scores
        assert {name: len(s) for name, s in scores.items()} == generator.config.channels
        assert all(s.dtype == torch.float64 and s.isfinite().all() and (s >= 0).all() for s in scores.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in generator.parameters())


def test_per_sample_scores_do_not_depend_on_batches(generator: Generator):
    one = score(generator, batch_size=1)
    assert_same(score(generator, batch_size=3), one, rtol=1e-9)
    assert_same(score(generator, batch_size=50), one, rtol=1e-9)


def test_batch_sum_scores_do(generator: Generator):
    one = score(generator, batch_rule="batch-sum", batch_size=1)
    mean = ChannelScores("", {name: s / 7 for name, s in one.scores.items()}, "", {})
    assert_same(score(generator, batch_rule="per-sample"), mean, rtol=1e-9)
    three = score(generator, batch_rule="batch-sum", batch_size=3)
    assert all((three.scores[name] < 0.99 * one.scores[name]).any() for name in one.scores)


def test_per_sample_scores_are_means_over_disjoint_seeds(generator: Generator):
    both = score(generator, samples=6, seed=20)
    # Salt and pepper depend on the score's own seed too, so the parts are taken from one stream of samples.
    disturb = ContentNoise(load(left_half), 0.3, seed=20)
    parts = [content_aware_scores(generator, draw_samples(generator, range(a, a + 3), [3]), disturb) for a in (20, 23)]
    for name, expected in both.scores.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, expected, rtol=1e-9, atol=1e-12)


def test_seed_decides(generator: Generator):
    a, b, c = score(generator, seed=1), score(generator, seed=1), score(generator, seed=2)
    assert all(torch.equal(a.scores[name], b.scores[name]) for name in a.scores)
    assert not any(torch.equal(a.scores[name], c.scores[name]) for name in a.scores)


def test_global_random_state_is_left_alone(generator: Generator):
    state = torch.random.get_rng_state()
    for metric in METRICS:
        score_channels(generator, metric, parser="everything", samples=2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pixels_that_are_not_replaced_give_exactly_zero(generator: Generator):
    batch = next(draw_samples(generator, range(2), [2]))
    modules = ["synthesis.b8.conv0", "synthesis.b16.to_rgb"]
    gradients = content_gradients(generator, batch, lambda images, seeds: torch.zeros_like(images[:, :1]), modules)
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients.values())


def test_a_channel_that_cannot_reach_the_content_scores_lowest(generator: Generator):
    g = Generator(generator.config)
    g.load_state_dict(generator.state_dict())
    g.synthesis.b16.to_rgb.affine.weight.data[2] = 0
    g.synthesis.b16.to_rgb.affine.bias.data[2] = 0
    g.synthesis.b4.const.data[4] = 0
    scores = score(g).scores
    assert scores["b16.conv1"][2] == 0 and scores["b16.conv1"].argmin() == 2
    assert (scores["b16.conv1"] == 0).sum() == 1
    assert scores["b4.const"].argmin() == 4


def test_only_what_the_content_shows_counts(generator: Generator):
    """The last toRGB is linear, so its channels' scores have a closed form over the content alone."""
    batch = next(draw_samples(generator, range(3), [3]))
    features: dict[str, torch.Tensor] = {}
    image = generator.synthesis(batch.ws, batch.noise, features=features)
    layer = generator.synthesis.b16.to_rgb
    styles = layer.affine(batch.ws[:, -1]) * layer.weight_gain
    for columns in (slice(0, 8), slice(8, 16)):

        def disturb(images, seeds, columns=columns):
            values = torch.zeros_like(images[:, :1])
            values[..., columns] = 1
            return values

        score = content_aware_scores(generator, [batch], disturb)["b16.conv1"]
        signs, maps = (image - 1).sign()[..., columns], features["b16.conv1"][..., columns]
        expected = torch.einsum("nohw,nchw,nc->noc", signs, maps, styles).abs().mean(dim=(0, 1))
        torch.testing.assert_close(score, expected, rtol=1e-9, atol=1e-12)


def test_all_consumers_add_to_the_main_one(generator: Generator):
    for metric in ("content-aware", "l1-out", "l1-style"):
        main = score_channels(generator, metric, parser="everything", samples=3).scores
        both = score_channels(generator, metric, parser="everything", samples=3, consumers="all").scores
        for name in main:
            read_by_rgb = name.endswith("conv1") and name != "b16.conv1"
            assert (both[name] > main[name]).all() if read_by_rgb else torch.equal(both[name], main[name])


def test_salt_and_pepper_is_fair_and_stays_inside_the_mask():
    mask = torch.zeros(4, 1, 128, 128)
    mask[:, :, 32:] = 1
    values = salt_and_pepper(mask, 0.05, [stream("test", i) for i in range(4)])
    assert values.shape == mask.shape and set(values.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert not values[mask == 0].any()
    inside = values[mask == 1]
    assert abs((inside != 0).double().mean().item() - 0.05) < 0.004
    assert abs(inside[inside != 0].mean().item()) < 0.06
    assert not torch.equal(values[0], values[1])
    assert (salt_and_pepper(mask, 1.0, [stream("test", i) for i in range(4)])[mask == 1] != 0).all()


def test_batches_split_as_the_paper_does():
    assert batch_sizes(400, 10) == [10] * 40
    assert batch_sizes(25, 10) == [10, 15]
    assert batch_sizes(3, 10) == [3]


def test_a_parser_with_seeds_gets_images_of_those_seeds(generator: Generator):
    class Known:
        name, seeds = "known", [40, 41, 50]

        def __init__(self) -> None:
            self.asked: list[int] = []
            self.images: list[torch.Tensor] = []

        def __call__(self, images, seeds=None):
            self.asked += seeds
            self.images += list(images)
            return torch.ones_like(images[:, :1])

    parser = Known()
    scores = score_channels(generator, parser=parser, samples=400)
    assert parser.asked == parser.seeds and scores.settings["samples"] == 3
    again = next(draw_samples(generator, parser.seeds, [3]))
    images = generator.synthesis(again.ws, again.noise)
    torch.testing.assert_close(torch.stack(parser.images), images, rtol=1e-9, atol=1e-9)


def test_progress_reaches_the_end(generator: Generator):
    calls: list[tuple[int, int]] = []
    score(generator, samples=5, batch_size=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 5) for i in range(1, 6)]


def test_document_round_trip(generator: Generator, tmp_path):
    scores = score(generator)
    scores.save(tmp_path / "scores.json")
    loaded = ChannelScores.load(tmp_path / "scores.json")
    assert loaded.settings == scores.settings and loaded.teacher == scores.teacher and loaded.metric == scores.metric
    assert all(torch.equal(loaded.scores[name], s) for name, s in scores.scores.items())
    loaded.check(generator)
    assert scores.settings["content"] == "callable:left_half" and scores.settings["batch_rule"] == "per-sample"


NOT_FINITE = '{"format": "cagc-scores-1", "metric": "x", "teacher": "y", "settings": {}, "scores": {"a": [NaN]}}'


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": "cagc-scores-1"}', '{"format": "cagc-plan-1"}', NOT_FINITE]
)
def test_damaged_document(tmp_path, text: str):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(CagcError, match="scores.json"):
        ChannelScores.load(tmp_path / "scores.json")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"metric": "l2-out"}, ValueError, "l1-out"),
        ({"samples": 0}, ValueError, "samples"),
        ({"samples": 2.5}, TypeError, "samples"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_rule": "mean"}, ValueError, "per-sample"),
        ({"consumers": "some"}, ValueError, "main"),
        ({"noise": "white"}, ValueError, "const"),
        ({"noise_probability": 0.0}, ValueError, "noise_probability"),
        ({"parser": None}, CagcError, "content parser"),
        ({"parser": lambda images: images}, CagcError, "mask"),
        ({"parser": lambda images: torch.full_like(images[:, :1], 0.5)}, CagcError, "mask"),
        ({"parser": no_content}, CagcError, "no content"),
    ],
)
def test_bad_arguments(generator: Generator, options: dict, error: type, words: str):
    with pytest.raises(error, match=words):
        score_channels(generator, **{"parser": left_half, "samples": 2, **options})


def test_one_empty_mask_is_no_error(generator: Generator):
    def first_only(images, seeds):
        return torch.ones_like(images[:, :1]) * torch.tensor([s == 0 for s in seeds]).reshape(-1, 1, 1, 1)

    scores = score_channels(generator, parser=first_only, samples=2, noise_probability=1.0)
    alone = score_channels(generator, parser=first_only, samples=1, noise_probability=1.0)
    assert scores.settings["content_area"] == 0.5
    assert_same(ChannelScores("", {k: 2 * v for k, v in scores.scores.items()}, "", {}), alone, rtol=1e-9)


def test_scores_of_injected_batches_need_no_seeds(generator: Generator):
    batch = SampleBatch(generator.ws(torch.randn(3, 16).double()), generator.make_noise(1))
    disturb = ContentNoise(load(left_half), 0.5)
    scores = content_aware_scores(generator, [batch], disturb)
    assert isinstance(disturb.coverage, ContentCoverage) and disturb.coverage.samples == 3
    assert all((s > 0).any() for s in scores.values())


def test_a_function_of_ones_own_scores(generator):
    def brightness(scored, samples):
        total = sum(scored.synthesis(batch.ws, noise=batch.noise).mean().item() for batch in samples)
        return {group.name: [total] * (group.width - 1) + [9] for group in scored.channel_groups()}

    scores = score_channels(generator, brightness, samples=5, batch_size=2, seed=3)
    assert scores.metric == "brightness" and scores.settings["samples"] == 5
    plan = plan_channels(generator, scores, keep=0.5)
    assert all(kept[-1] == plan.full[name] - 1 for name, kept in plan.kept.items())


@pytest.mark.parametrize(
    "returned, message",
    [
        (lambda groups: None, "got scores of NoneType"),
        (lambda groups: {groups[0].name: [1.0]}, "expected a mapping with the groups b4.const, b4.conv1"),
        (lambda groups: {g.name: torch.ones(g.width + 1) for g in groups}, r"got shape \[\d+\] as scores of b4.const"),
        (lambda groups: {g.name: torch.full([g.width], float("nan")) for g in groups}, "got NaN or infinity"),
        (lambda groups: {g.name: "much" for g in groups}, "got no numbers as scores of b4.const"),
    ],
)
def test_scores_of_ones_own_are_checked(generator, returned, message):
    with pytest.raises(CagcError, match=message):
        score_channels(generator, lambda g, samples: returned(g.channel_groups()), samples=1)


def test_generator_that_draws_nan_is_neither_scored_nor_planned_nor_drawn(generator, tmp_path):
    scores = score_channels(generator, "random", samples=1)
    scores.scores["b8.conv1"][0] = math.inf
    with pytest.raises(CagcError, match="scores: layer 'b8.conv1' has a score that is NaN or infinite"):
        plan_channels(generator, scores, keep=0.5)
    broken = copy.deepcopy(generator)
    broken.synthesis.b8.conv1.weight.data[0] = math.nan
    with pytest.raises(CagcError, match="generator: synthesis.b8.conv1.weight holds NaN or infinity"):
        score_channels(broken, "l1-out", samples=1)
    with pytest.raises(CagcError, match="generator: got NaN or infinity in 1 of 1 images, the first of seed 3"):
        generate(broken, [3], tmp_path)
    assert not list(tmp_path.iterdir())
