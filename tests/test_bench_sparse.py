"""The candidates of benchmarks/bench_sparse.py give equal results, which it checks before timing."""

from __future__ import annotations

import pytest
import torch

from benchmarks import bench_sparse
from cagc_kernels.backend import refusal

REASON = refusal("native", "sparse_channel_conv2d")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.mark.parametrize("up", (1, 2))
def test_candidates_agree(up):
    with torch.no_grad():
        calls, macs = bench_sparse.candidates(bench_sparse.Layer(20, 16, 5, up), kept=0.3)
        shapes = {name: call().shape for name, call in calls.items() if name != "masked"}
    assert macs == 9 * 6 * 5 * 25  # 20 - int(14.0) and 16 - int(11.2) channels
    assert len(set(shapes.values())) == 1 and len(calls) == (5 if up == 1 else 4)
