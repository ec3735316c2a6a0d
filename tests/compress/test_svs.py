from __future__ import annotations

import numpy as np
import pytest
import torch

from cagc.checkpoints import Checkpoint, to_rosinality
from cagc.models import Generator
from cagc.pruning.budget import plan_channels
from cagc.pruning.prune import prune
from cagc.pruning.scores import score_channels
from cagc.pruning.svs import singular_value_scaling

from .test_trainer import generator


@pytest.fixture(scope="module")
def source() -> Generator:
    g = generator(12, seed=7)
    for name, parameter in g.named_parameters():
        if name.endswith("bias"):
            parameter.data += 0.3 * torch.randn_like(parameter)
    return g


def direct(weight: np.ndarray, outputs: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(weight.reshape(outputs, -1).astype(np.float64), full_matrices=False)
    return (u @ np.diag(np.sqrt(s)) @ vt).reshape(weight.shape)


def test_stored_weights_of_the_peers_layout_get_the_published_formula(source: Generator):
    """On rosinality's state dict, whose weights are stored before their run-time scale, as in the published code."""
    before = to_rosinality(Checkpoint(g_ema=source))["g_ema"]
    after = to_rosinality(Checkpoint(g_ema=singular_value_scaling(source)))["g_ema"]
    scaled = 0
    for name, tensor in before.items():
        array, found = tensor.numpy(), after[name].numpy()
        if name.startswith("style.") or not name.endswith((".weight", ".bias")) or ".noise." in name:
            np.testing.assert_array_equal(found, array, err_msg=name)
            continue
        if name.endswith(".bias"):
            expected = array / np.sqrt(np.linalg.norm(array) + 1e-8)
        else:
            expected = direct(array, array.shape[1 if array.ndim == 5 else 0])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=name)
        scaled += 1
    assert scaled == 4 * 8  # 5 convolutions and 3 toRGB, each with an affine layer, each with weight and bias


def test_singular_vectors_stay_and_values_become_their_roots(source: Generator):
    for name, parameter in singular_value_scaling(source).synthesis.named_parameters():
        if name.endswith(".weight"):
            a = dict(source.synthesis.named_parameters())[name].flatten(1)
            b = parameter.flatten(1)
            values = torch.linalg.svdvals(a)
            torch.testing.assert_close(torch.linalg.svdvals(b), values.sqrt(), rtol=1e-4, atol=1e-5)
            u, s, vt = torch.linalg.svd(a, full_matrices=False)
            torch.testing.assert_close(u.t() @ b @ vt.t(), torch.diag(s.sqrt()), rtol=1e-4, atol=1e-4)


def test_source_is_left_alone_and_silent_biases_stay_silent(source: Generator):
    before = {name: p.clone() for name, p in source.state_dict().items()}
    quiet = generator(6, seed=3)
    scaled = singular_value_scaling(quiet)
    assert torch.equal(scaled.synthesis.b16.conv1.bias, quiet.synthesis.b16.conv1.bias)
    singular_value_scaling(source)
    assert all(torch.equal(p, before[name]) for name, p in source.state_dict().items())
    assert all(p.isfinite().all() for p in scaled.parameters())


def test_pruning_with_svs_scales_what_plain_slicing_leaves(source: Generator):
    plan = plan_channels(source, score_channels(source, "random", samples=1), keep=0.5, round_to=1)
    expected = singular_value_scaling(prune(source, plan, rescale="none")).state_dict()
    found = prune(source, plan, rescale="svs")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
    assert torch.equal(found.mapping.fc0.weight, source.mapping.fc0.weight)
    with pytest.raises(ValueError, match="rescale: got 'SVS', expected one of keep, none, svs"):
        prune(source, plan, rescale="SVS")
