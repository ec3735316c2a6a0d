"""A call like one before skips the checks: it must be like it in all that the checks and the choice look at."""

from __future__ import annotations

import pytest
import torch

from cagc_kernels import backend, bias_act, setup_filter, sparse_channel_conv2d, upfirdn2d, use_backend
from cagc_kernels.ops import recall

NATIVE = backend.unavailable("native")
pytestmark = pytest.mark.skipif(NATIVE is not None, reason=str(NATIVE))
X, B, F = torch.randn(2, 4, 6, 6), torch.randn(4), setup_filter([1, 3, 3, 1])
# Of a full weight, the inputs and outputs kept; of its styles, those of the inputs.
W, INS, OUTS, S = torch.randn(5, 7, 3, 3), torch.tensor([0, 2, 3, 6]), torch.tensor([1, 4]), torch.randn(2, 4)


@pytest.fixture(autouse=True)
def found(monkeypatch) -> list[bool]:
    """Whether each call was recalled; the first of its kind in a test is not."""
    calls = []

    class Watched(recall.Recall):
        def find(self, key):
            launch = super().find(key)
            calls.append(launch is not None)
            return launch

    for op in (bias_act, upfirdn2d, sparse_channel_conv2d):
        monkeypatch.setitem(op.__globals__, "_recall", Watched())
    return calls


@pytest.mark.parametrize(
    "call",
    (
        lambda x: bias_act(x, B, act="lrelu", gain=2, clamp=1),
        lambda x: bias_act(x, act="swish"),
        lambda x: upfirdn2d(x, F, up=2, padding=[2, 1, 2, 1], gain=4),
        lambda x: upfirdn2d(x, None, down=(2, 1), padding=-1),
        lambda x: sparse_channel_conv2d(x, W, INS, OUTS, S[: len(x)], scatter=True),
        lambda x: sparse_channel_conv2d(x, W, INS, OUTS, padding=2, flip_weight=False),
    ),
)
def test_same_results(call, found):
    for x in (X, X.contiguous(memory_format=torch.channels_last), X[:1], X[:, :, 1:], X[:0]):
        first = call(x)
        again = call(x)
        assert torch.equal(first, again) and first.stride() == again.stride() and first.dtype == again.dtype
        with use_backend("reference"):
            torch.testing.assert_close(again, call(x))
    assert found.count(True) >= 3


@pytest.mark.parametrize(
    "call",
    (
        lambda: bias_act(X, B, dim=True),
        lambda: bias_act(X, B, gain=True),
        lambda: bias_act(X, torch.randn(5)),
        lambda: bias_act(X, B.double()),
        lambda: bias_act(X, B, act=["linear"]),
        lambda: bias_act(X.to_sparse()),
        lambda: bias_act(X, torch.nested.nested_tensor([B, B])),
        lambda: upfirdn2d(X, F, padding=True),
        lambda: upfirdn2d(X, F, padding=[1, True]),
        lambda: upfirdn2d(X, F, padding=(1.0, 1)),
        lambda: upfirdn2d(X, F, padding=[[1], 1]),
        lambda: upfirdn2d(X, F, padding=1, flip_filter=0),
        lambda: upfirdn2d(X, torch.ones(7, 7), padding=0),
        lambda: upfirdn2d(X[0], F, padding=1),
        lambda: sparse_channel_conv2d(X, W, INS + 1, OUTS),
        lambda: sparse_channel_conv2d(X, W, INS, OUTS.flip(0)),
        lambda: sparse_channel_conv2d(X, W, INS, OUTS.int()),
        lambda: sparse_channel_conv2d(X, W, INS, OUTS, S[:1]),
        lambda: sparse_channel_conv2d(X, W, INS, OUTS, scatter=1),
        lambda: sparse_channel_conv2d(X, W, INS, OUTS, resample_filter=F[:0]),
    ),
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_checks_are_not_skipped(call):
    for _ in range(2):
        sparse_channel_conv2d(X, W, INS, OUTS), sparse_channel_conv2d(X, W, INS, OUTS, scatter=True)
        bias_act(X, B, gain=1), upfirdn2d(X, F, padding=1), upfirdn2d(X, F, padding=[1, 1])
        bias_act(X, B, dim=1), upfirdn2d(X, F, padding=[1, 1], flip_filter=False)
    with pytest.raises((TypeError, ValueError)):
        call()


def test_gradients_modes_and_backends_are_not_skipped(found):
    for _ in range(2):
        want = bias_act(X, B), upfirdn2d(X, F, padding=1)
    assert found == [False, False, True, True]
    leaf, bias, taps = X.clone().requires_grad_(), B.clone().requires_grad_(), F.clone().requires_grad_()
    assert bias_act(leaf, B).requires_grad and bias_act(X, bias).requires_grad
    assert upfirdn2d(leaf, F, padding=1).requires_grad and upfirdn2d(X, taps, padding=1).requires_grad
    with torch.no_grad():
        assert torch.equal(bias_act(leaf, bias), want[0])
    batched = torch.func.vmap(lambda x: bias_act(x[None], B)[0])(X)
    torch.testing.assert_close(batched, want[0])
    negative = torch.randn(2, 4, 6, 6, dtype=torch.complex64).conj().imag
    assert negative.is_neg()
    for x in (negative.clone(), negative):
        torch.testing.assert_close(bias_act(x, B), x + B[:, None, None])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bias_act(X, B.double())
    del found[:]
    with use_backend("reference"):
        bias_act(X, B)
    with pytest.raises(ValueError, match="triton"):
        bias_act(X, B, backend="triton")
    assert found == [False, False]


def test_indices_that_changed_are_checked_and_used():
    outs = OUTS.clone()
    for values in ([1, 4], [0, 2]):
        outs.copy_(torch.tensor(values))
        for _ in range(2):
            got = sparse_channel_conv2d(X, W, INS, outs)
        torch.testing.assert_close(got, torch.conv2d(X, W[values][:, INS], padding=1), rtol=1e-5, atol=1e-5)
    outs[1] = 5
    with pytest.raises(ValueError, match="out_channels: got 5"):
        sparse_channel_conv2d(X, W, INS, outs)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(recall, "_MOST", 3)
    for n in range(1, 9):
        bias_act(torch.ones(n), act="relu")
    assert len(bias_act.__globals__["_recall"]._launches) <= 3
