from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from cagc.distill.memory import estimate
from cagc.distill.regularizers import r1_penalty

from .test_trainer import CONFIG, trainer


def kept_by_r1(run, count: int) -> int:
    """Count the saved tensors at the full batch size."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    images = torch.rand(count, 3, 16, 16, requires_grad=True)
    with saved_tensors_hooks(pack, lambda t: t):
        r1_penalty(run.d(images), images)
    own = {p.untyped_storage().data_ptr() for p in run.d.parameters()}
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in own)


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_estimate_is_what_a_graph_keeps(micro_batch):
    run = trainer(replace(CONFIG, batch_size=16, micro_batch=micro_batch))
    before = torch.get_rng_state()
    found = estimate(run)
    assert torch.equal(before, torch.get_rng_state())
    assert set(found.phases) == {"generator", "discriminator", "R1 penalty", "path length"}
    assert found.phases["R1 penalty"] == pytest.approx(kept_by_r1(run, micro_batch or 16), rel=0.05)
    trained = sum(p.numel() * 4 for n in (run.g, run.d) for p in n.parameters())
    assert found.optimisers == 3 * trained
    assert found.total == found.weights + found.optimisers + max(found.phases.values())


def test_passes_take_less_memory():
    whole, parts = (estimate(trainer(replace(CONFIG, batch_size=16, micro_batch=m))) for m in (None, 4))
    assert parts.weights == whole.weights and max(parts.phases.values()) < 0.4 * max(whole.phases.values())
    assert "MiB a process expected at least" in whole.describe()
