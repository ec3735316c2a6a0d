"""sparse_channel_conv2d.cu on the host emulator of tests/csrc, under several orders of threads."""

from __future__ import annotations

import pytest
import torch

from cagc_kernels import backend, sparse_channel_conv2d
from cagc_kernels.tolerances import TOLERANCES, assert_close

from ..csrc import emulated as emulator
from ..csrc.emulated import emulated
from .test_sparse_channel_conv2d import FILTER, OP, definition, tensors

SKIP = emulator.missing() or backend.refusal("native", OP)
pytestmark = pytest.mark.skipif(SKIP is not None, reason=str(SKIP))


@pytest.mark.parametrize("seed", (0, 1, 2))
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_definition(dtype, seed):
    for i, o, kept in ((1, 3, 0.3), (37, 77, 0.5), (3, 154, 0.3)):
        *arguments, styles = tensors(n=2, i=i, o=o, size=(5, 9), dtype=dtype, kept=kept)
        for given, demodulate in ((None, True), (styles, True)):
            with emulated(OP, seed) as module:
                got = sparse_channel_conv2d(*arguments, given, demodulate, backend="native")
            assert module.launches == 1
            assert_close(got, definition(*arguments, given, demodulate), dtype, factor=3)


@pytest.mark.parametrize(
    "up,flip,scatter,k", ((1, False, True, 3), (2, True, False, 3), (2, False, True, 1), (3, True, True, 5))
)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "slice"))
def test_forms_and_layouts(layout, up, flip, scatter, k):
    x, weight, ins, outs, styles = tensors(n=2, i=5, o=9, k=k, size=(6, 7))
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "slice":
        x, weight = (
            torch.randn(2, 9, 8, 14)[:, 1:6, 1:7, ::2],
            weight.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2),
        )
    options = {"flip_weight": flip, "scatter": scatter, "up": up, "resample_filter": FILTER if up > 1 else None}
    with emulated(OP, seed=3, multiprocessors=1):
        got = sparse_channel_conv2d(x, weight, ins, outs, styles, backend="native", **options)
    wide = (x.double(), weight.double(), ins, outs, styles.double())
    assert_close(got, sparse_channel_conv2d(*wide, backend="reference", **options), torch.float32, factor=3)


def test_float32_weights_beside_half_and_gradients():
    x, weight, ins, outs, styles = tensors(i=5, o=7)
    leaves = weight.clone().requires_grad_(), styles.clone().requires_grad_()
    with emulated(OP, seed=1):
        got = sparse_channel_conv2d(x.half(), leaves[0], ins, outs, leaves[1], backend="native")
    assert_close(got, definition(x.half(), weight, ins, outs, styles), torch.float16, factor=3)
    (gw, gs) = torch.autograd.grad(got.float().square().sum(), leaves)
    wide = [t.double().requires_grad_() for t in (weight, styles)]
    y = sparse_channel_conv2d(x.half().double(), wide[0], ins, outs, wide[1], backend="reference")
    for a, e in zip((gw, gs), torch.autograd.grad(y.square().sum(), wide), strict=True):
        torch.testing.assert_close(a.double(), e, rtol=2e-2, atol=2e-2 * e.abs().max().item())


def test_empty_batch():
    with emulated(OP):
        assert sparse_channel_conv2d(*tensors(n=0), backend="native").shape == (0, 5, 8, 8)
