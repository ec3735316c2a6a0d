"""MACs and bytes of rows: by layer from shapes, and counted while PyTorch runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks import bench_scores, generators
from benchmarks.counting import counted
from cagc.latency.work import layer_work
from cagc.metrics.macs import count_macs, total_macs
from cagc.models import GeneratorConfig, SNGANConfig, SNGANGenerator
from cagc.pruning.scores import score_channels


@pytest.fixture(scope="module")
def small():
    config = GeneratorConfig.uniform(16, channel_base=128, channel_max=8, style_dim=16, mapping_layers=2)
    return generators.random_generator(config, "cpu")


def test_operands_and_results_are_moved_once():
    x, weight, rows = torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3, requires_grad=True), torch.ones(4, 6)
    assert counted(lambda: rows @ rows.t()) == (4 * 6 * 4, 4 * (2 * 24 + 16))
    forward = 2 * 5 * 3 * 9 * 36, 4 * (2 * 3 * 64 + 5 * 3 * 9 + 2 * 5 * 36)
    assert counted(lambda: F.conv2d(x, weight)) == forward
    # Backward: the gradient and x give the weight's gradient; nobody asks for that of x.
    macs, moved = counted(lambda: F.conv2d(x, weight).sum().backward())
    assert macs == 2 * forward[0] and moved == 2 * forward[1] + 4 * 5 * 3 * 9


@pytest.mark.parametrize("mode", (torch.no_grad, torch.inference_mode))
def test_a_forward_pass_has_the_macs_of_its_layers(small, mode):
    widths = list(small.config.channels.values())
    demodulation = sum(a * b for a, b in zip(widths, widths[1:]))
    with mode():
        macs, moved = counted(lambda: small(torch.ones(3, 16), noise="const"))
    assert macs == 3 * (total_macs(small) + demodulation)
    assert moved == pytest.approx(generators.work(small, 3)[1], rel=0.2)


def test_filters_do_not_count_backward_either(small):
    z = torch.ones(2, 16, requires_grad=True)
    forward = counted(lambda: small(z, noise="const"))[0]
    first = 2 * total_macs(small) // small.config.resolution  # gradients of the constant input and of z: no more
    assert 2 * forward - first < counted(lambda: small(z, noise="const").sum().backward())[0] <= 2 * forward


def test_scores_cost_as_much_for_each_batch(small):
    score = lambda samples: score_channels(small, "asv", None, samples)  # noqa: E731
    assert bench_scores.work(score, 30) == counted(lambda: score(30))


def test_sngan_layers_read_their_input_before_it_is_up_sampled():
    config = SNGANConfig(8, {"b4": 3, "b8.conv0": 5, "b8.conv1": 7}, z_dim=2)
    work = layer_work(SNGANGenerator(config), 2)
    assert {name: macs for name, (macs, _) in work.items()} == {n: 2 * m for n, m in count_macs(config).items()}
    moved = {name: size // 4 for name, (_, size) in work.items()}
    assert moved == {
        "fc": 2 * (2 + 16 * 3) + 16 * 3 * 3 + 2 * 3,
        "b8.conv0": 2 * (16 * 3 + 64 * 5) + 9 * 3 * 5 + 5 + 2 * 5,
        "b8.conv1": 2 * (64 * 5 + 16 * 7 + 64 * 7) + 9 * 5 * 7 + 7 + 2 * 7,
        "b8.skip": 2 * 16 * (3 + 7) + 3 * 7 + 7,
        "to_rgb": 2 * 64 * (7 + 3) + 9 * 7 * 3 + 3,
    }
