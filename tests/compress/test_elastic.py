"""Views of a generator at a plan's widths against the pruned student, and plans nested in one another."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch

import cagc
from cagc import runtime
from cagc.checkpoints import save_generator
from cagc.common.errors import CagcError
from cagc.metrics.macs import total_macs
from cagc.models.stylegan2 import Generator, GeneratorConfig
from cagc.pruning.budget import plan_channels
from cagc.pruning.elastic import nested_plans
from cagc.pruning.prune import prune
from cagc.pruning.scores import score_channels


@pytest.fixture(scope="module")
def scores(generator: Generator):
    return score_channels(generator, "random", samples=1)


@pytest.fixture
def z() -> torch.Tensor:
    return torch.randn(3, 16, dtype=torch.float64)


@pytest.mark.parametrize("rescale", ("keep", "none"))
@pytest.mark.parametrize("options", [{"keep": 0.3}, {"keep": 0.8}, {"keep": 1.0}, {"macs": 0.2, "min_width": 2}])
def test_equal_to_the_pruned_student(generator, scores, z, options: dict, rescale: str):
    plan = plan_channels(generator, scores, round_to=1, **options)
    view, student = cagc.at(generator, plan, rescale=rescale), prune(generator, plan, rescale=rescale)
    assert view.config == student.config and total_macs(view) == plan.cost["macs"][1]
    noise = generator.make_noise(3, seed=1)
    for arguments in ({"noise": noise}, {"noise": "const", "truncation_psi": 0.7}):
        ours, theirs = (g(z, return_rgbs=True, **arguments) for g in (view, student))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    ws, features, expected = view.ws(z), {}, {}
    view.synthesis(ws, "none", features=features)
    student.synthesis(ws, "none", features=expected)
    for name, styles in student.synthesis.styles(ws).items():
        torch.testing.assert_close(view.synthesis.styles(ws)[name], styles)
    assert {n: f.shape for n, f in features.items()} == {n: f.shape for n, f in expected.items()}


def test_float32_within_its_rounding(generator, scores, z):
    single = copy.deepcopy(generator).float()
    plan = plan_channels(single, score_channels(single, "random", samples=1), keep=0.3, round_to=1)
    want = prune(generator, plan_channels(generator, scores, keep=0.3, round_to=1))(z, noise="const")
    got = cagc.at(single, plan)(z.float(), noise="const")
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


def test_a_view_shares_every_weight(generator, scores, z):
    g = copy.deepcopy(generator)
    view = cagc.at(g, plan_channels(g, scores, keep=0.5, round_to=1))
    assert {p.data_ptr() for p in view.parameters()} == {p.data_ptr() for p in g.parameters()}
    before = view(z, noise="const")
    with torch.no_grad():
        g.synthesis.b16.to_rgb.bias += 1
    torch.testing.assert_close(view(z, noise="const"), before + 1)
    g.float()
    assert view(z.float(), noise="const", truncation_psi=0.5).dtype == torch.float32


@pytest.mark.parametrize("part", ("", "synthesis"))
def test_moving_a_view_moves_all_of_the_generator(generator, scores, part):
    g = copy.deepcopy(generator)
    cagc.at(g, plan_channels(g, scores, keep=0.5)).get_submodule(part).to("meta")
    moved = g.get_submodule(part)
    assert {t.device.type for t in (*moved.parameters(), *moved.buffers())} == {"meta"}


def test_gradients_are_the_students_at_kept_channels_and_zero_elsewhere(generator, scores, z):
    g = copy.deepcopy(generator)
    plan = plan_channels(g, scores, keep=0.5, round_to=1)
    student = prune(g, plan)
    cagc.at(g, plan)(z, noise="const").square().mean().backward()
    student(z, noise="const").square().mean().backward()
    ours, theirs = g.synthesis.b8.conv0.weight.grad, student.synthesis.b8.conv0.weight.grad
    rows, columns = (torch.tensor(plan.kept[name]) for name in ("b8.conv0", "b4.conv1"))
    # Stored weights are unscaled, and the student's run-time scale is that of its own width: the same as the view's.
    torch.testing.assert_close(ours[rows][:, columns], theirs)
    assert ours.count_nonzero() == theirs.count_nonzero()
    for name in ("mapping.fc0.weight", "synthesis.b8.conv1.noise_strength"):
        torch.testing.assert_close(g.get_parameter(name).grad, student.get_parameter(name).grad)


def test_a_view_freezes_into_the_student(generator, scores, z):
    trained = copy.deepcopy(generator)
    plan = plan_channels(trained, scores, keep=0.5, round_to=1)
    with torch.no_grad():
        trained.synthesis.b16.conv0.weight.mul_(1.5).add_(0.1)
    view = cagc.at(trained, plan, check=False)
    student, want = view.pruned(), view(z, noise="const")
    assert student.config == view.config
    torch.testing.assert_close(student(z, noise="const"), want)
    compiled = runtime.compile(cagc.at(trained.float(), plan, check=False), weights="float32")
    torch.testing.assert_close(compiled(z.float()), want.float(), rtol=1e-3, atol=1e-3 * want.abs().max().item())


def test_path_length_step_runs_through_a_view(generator, scores, z):
    view = cagc.at(generator, plan_channels(generator, scores, keep=0.5, round_to=1))
    ws = view.ws(z).detach().requires_grad_()
    image = view.synthesis(ws, "const")
    (g,) = torch.autograd.grad((image * torch.randn_like(image)).sum(), ws, create_graph=True)
    (second,) = torch.autograd.grad(g.square().sum(), generator.synthesis.b16.conv0.weight)
    assert second.isfinite().all() and second.any()


def test_another_generators_plan(generator, scores):
    plan = plan_channels(generator, scores, keep=0.5)
    trained = copy.deepcopy(generator)
    with torch.no_grad():
        trained.synthesis.b8.conv0.weight[0, 0, 0, 0] += 1
    with pytest.raises(CagcError, match="plan: made for generator"):
        cagc.at(trained, plan)
    assert cagc.at(trained, plan, check=False).config.channels == plan.channels()
    other = Generator(GeneratorConfig.uniform(32, channel_base=256, channel_max=24, style_dim=16, mapping_layers=2))
    with pytest.raises(CagcError, match="b32"):
        cagc.at(other, plan, check=False)
    with pytest.raises(ValueError, match="rescale: got 'svs', expected one of keep, none"):
        cagc.at(generator, plan, rescale="svs")
    with pytest.raises(CagcError, match="view"):
        cagc.at(cagc.at(generator, plan), plan)
    damaged = copy.deepcopy(plan)
    damaged.kept["b8.conv0"] = [2, 1]
    with pytest.raises(CagcError, match="b8.conv0"):
        cagc.at(generator, damaged)


def test_a_view_has_nothing_to_save_or_slice(generator, scores, tmp_path):
    view = cagc.at(generator, plan_channels(generator, scores, keep=0.5))
    with pytest.raises(CagcError, match="pruned"):
        save_generator(view, tmp_path / "view.safetensors")
    with pytest.raises(CagcError, match="full generator"):
        prune(view, view.plan)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("round_to", (1, 8))
@pytest.mark.parametrize("allocation", ("global", "uniform"))
def test_plans_of_growing_budgets_are_nested(generator, scores, allocation, round_to):
    budgets = [0.7, 0.25, 0.3, 1.0, 0.35, 0.9, 0.4, 0.5]
    options = {"allocation": allocation, "round_to": round_to, "min_width": 2}
    plans = nested_plans(generator, scores, budgets, **options)
    alone = [plan_channels(generator, scores, macs=budget, **options) for budget in budgets]
    full = total_macs(generator)
    for budget, plan, free in zip(budgets, plans, alone, strict=True):
        assert plan.cost["macs"][1] <= budget * full
        assert all(set(plan.kept[name]) <= set(free.kept[name]) for name in plan.kept)
    ordered = [plan for _, plan in sorted(zip(budgets, plans), key=lambda pair: pair[0])]
    for small, large in pairwise(ordered):
        assert all(set(small.kept[name]) <= set(large.kept[name]) for name in small.kept)
    with pytest.raises(ValueError, match="macs: got no budget"):
        nested_plans(generator, scores, [])


def test_equal_shares_of_one_ranking_are_nested(generator, scores):
    plans = [plan_channels(generator, scores, keep=k / 10, round_to=1) for k in range(1, 11)]
    for small, large in pairwise(plans):
        assert all(set(small.kept[name]) <= set(large.kept[name]) for name in small.kept)
