"""The planner's search compared with all possible plans, for small generators."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from cagc.models import AnyConfig, GeneratorConfig, SNGANConfig
from cagc.pruning import budget as planner

TINY = GeneratorConfig.uniform(16, channel_base=512, channel_max=32, style_dim=16, mapping_layers=2)


class Problem:
    """All choices of widths for ``config`` with their costs; the scores are drawn by seed."""

    def __init__(self, config: AnyConfig, unit: str) -> None:
        self.config, self.unit, self.full = config, unit, dict(config.channels)
        grid = itertools.product(*(range(8, width + 1, 8) for width in self.full.values()))
        self.all = [dict(zip(self.full, widths, strict=True)) for widths in grid]
        self.cost = [self.budget(1.0).cost(widths) for widths in self.all]

    def budget(self, share: float) -> planner._Budget:
        return planner._Budget(SimpleNamespace(config=self.config), self.unit, share)

    def search(self, seed: int, share: float) -> tuple[float, float, float]:
        """Return the logarithm of the share of score kept: by the greedy search, by the planner, and the maximum."""
        generator = torch.Generator().manual_seed(seed)
        scores = {name: torch.randn(width, generator=generator).exp() for name, width in self.full.items()}
        worth = {name: planner._log_shares(score) for name, score in scores.items()}
        budget, steps = self.budget(share), planner._Steps(self.full, dict.fromkeys(self.full, 8), 8)

        def kept(widths: planner.Widths) -> float:
            return sum(worth[name][width] for name, width in widths.items())

        planned = planner._global_widths(scores, steps, budget)
        assert budget.cost(planned) <= budget.limit
        most = max(kept(widths) for widths, cost in zip(self.all, self.cost) if cost <= budget.limit)
        return kept(planner._narrowed(worth, steps, budget, budget.strides)), kept(planned), most


@pytest.mark.parametrize(
    ("config", "unit"), [(TINY, "MACs"), (TINY, "bytes"), (SNGANConfig.uniform(16, width=32), "MACs")]
)
def test_the_plan_is_the_best_there_is_or_next_to_it(config, unit: str):
    problem = Problem(config, unit)
    least = min(problem.cost) / max(problem.cost)
    found = [problem.search(seed, least + (1 - least) * share) for seed in range(6) for share in (0.1, 0.3, 0.6)]
    assert all(greedy <= planned <= most + 1e-9 for greedy, planned, most in found)
    assert all(planned > most - 0.05 for _, planned, most in found)
    assert sum(planned > most - 1e-9 for _, planned, most in found) >= 16 > sum(g > m - 1e-9 for g, _, m in found)
