"""Calls of usual arguments by one call of the compiled module: the same bits, and None for all other arguments."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

import cagc_kernels
from cagc_kernels import backend, bias_act, setup_filter, sparse_channel_conv2d, upfirdn2d
from cagc_kernels.ops.dispatch import usual
from cagc_kernels.reference.bias_act import ACTIVATIONS
from cagc_kernels.tolerances import TOLERANCES, assert_close

REASON = backend.unavailable("native")
pytestmark = pytest.mark.skipif(REASON is not None or backend.preferred() is not None, reason=str(REASON))

MODULES = [import_module(f"cagc_kernels.native.{op}") for op in ("bias_act", "upfirdn2d", "sparse_channel_conv2d")]
X = torch.zeros(1)
INPUTS, OUTPUTS = torch.tensor([1, 3, 4]), torch.tensor([0, 5])


@pytest.fixture
def taken(monkeypatch):
    """Return a list that records for each call of the compiled module whether it took the arguments."""
    found = []
    for module in MODULES:

        def record(direct=module._direct, **arguments):
            y = direct(**arguments)
            found.append(y is not None)
            return y

        monkeypatch.setattr(module, "_direct", record)
    return found


def images(order: str, dtype: torch.dtype = torch.float32, channels: int = 3) -> torch.Tensor:
    x = torch.randn(2, channels, 6, 5, dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if order == "channels_last" else x


@pytest.mark.parametrize("order", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_the_same_bits(monkeypatch, taken, dtype, order):
    x, wide = images(order, dtype), torch.float64 if dtype == torch.float64 else torch.float32
    b, f, weight, styles = torch.randn(3).to(dtype), setup_filter([1, 3, 3, 1]).to(wide), torch.randn(6, 5, 3, 3), None
    calls = [
        lambda **options: bias_act(x, b, act="lrelu", gain=2, clamp=0.75, **options),
        lambda **options: bias_act(x, b, dim=-3, act="swish", alpha=1.5, **options),
        lambda **options: bias_act(x, **options),
        lambda **options: upfirdn2d(x, f, up=2, padding=[2, 1], gain=4, **options),
        lambda **options: upfirdn2d(x, f[0], down=(1, 2), padding=(2, -1, 1, 3), flip_filter=True, **options),
        lambda **options: upfirdn2d(x, None, up=[1, 3], **options),
        lambda **options: cagc_kernels.upsample2d(x, f, **options),
        lambda **options: sparse_channel_conv2d(x, weight.to(dtype), INPUTS, OUTPUTS, styles, padding=0, **options),
    ]
    for styles in (None, torch.randn(2, 3).to(wide)):
        calls[-1](backend="native")  # so that the indices are known
        for call in calls:
            with monkeypatch.context() as planted:
                for module in MODULES:
                    planted.setattr(module, "_direct", lambda **_: None)
                want = call(backend="native")
            for options in ({}, {"backend": "native"}):
                taken.clear()
                got = call(**options)
                assert taken == [True]
                assert torch.equal(got, want) and got.stride() == want.stride()


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_defaults_of_activations(taken, act):
    x, b = images("contiguous"), torch.randn(3)
    got = bias_act(x, b, act=act)
    assert taken == [True]
    assert_close(got, bias_act(x, b, act=act, backend="reference"), x.dtype)


def test_arguments_that_are_not_taken():
    x, b, f = images("contiguous"), torch.randn(3), setup_filter([1, 3, 3, 1])
    activate, resample = usual("bias_act", None, X), usual("upfirdn2d", None, X)
    plain = dict(dim=1, act="lrelu", alpha=None, gain=None, clamp=None)
    for other in (
        dict(dim=True), dict(dim=4), dict(dim=0), dict(act="gelu"), dict(act=["lrelu"]), dict(alpha=-1.0), dict(gain=0),
        dict(gain=True), dict(gain="2"), dict(gain=10**400), dict(gain=float("nan")), dict(clamp=-1), dict(x=[1.0]),
        dict(x=x[:, :, :, ::2]), dict(x=x.half()), dict(x=x.int()), dict(x=x.to("meta")), dict(x=x[:0]),
        dict(x=x.to_sparse()), dict(x=x.clone().requires_grad_()), dict(x=torch._neg_view(x)), dict(b=b[:2]),
        dict(x=torch._efficientzerotensor(x.shape)), dict(b=b.double()), dict(b=b[None]),
        dict(b=torch.randn(1).expand(3)), dict(b=1.0),
    ):  # fmt: skip
        assert activate(**{"x": x, "b": b, **plain, **other}) is None, other
    plain = dict(up=1, down=1, padding=0, flip_filter=False, gain=1)
    for other in (
        dict(up=0), dict(up=2.0), dict(up=[1, 2, 3]), dict(down=(0, 1)), dict(down="2"), dict(padding=[1, 2, 3]),
        dict(padding=2**40), dict(padding=-2), dict(up=2**30, padding=2**30), dict(flip_filter=1), dict(gain=None),
        dict(f=f.half()), dict(f=f.t()[:, :0]), dict(f=f[None]), dict(f=f[:, ::2]), dict(f=f.clone().requires_grad_()),
        dict(x=x[0]), dict(x=x[:, :, :, ::2]), dict(x=x[:, :, :0]),
    ):  # fmt: skip
        assert resample(**{"x": x, "f": f, **plain, **other}) is None, other


def test_where_it_may_not_be_used():
    assert usual("bias_act", "reference", X) is None and usual("bias_act", ["native"], X) is None
    with backend.use_backend("reference"):
        assert usual("bias_act", None, X) is None
    with torch.autocast("cpu"):
        assert usual("bias_act", None, X) is None
    with cagc_kernels.use_backend("native"):
        assert usual("bias_act", None, X) is not None
    assert torch.func.vmap(lambda x: torch.zeros(()) if usual("bias_act", None, X) is None else x)(torch.ones(1)) == 0


def test_a_write_to_the_indices_is_seen():
    x, weight, index = images("contiguous"), torch.randn(5, 5, 3, 3), INPUTS.clone()
    for _ in range(2):
        before = sparse_channel_conv2d(x, weight, index, index)
    index.data[0] = 0
    for _ in range(2):
        got = sparse_channel_conv2d(x, weight, index, index)
        assert torch.equal(got, sparse_channel_conv2d(x, weight, index.clone(), index.clone()))
    assert not torch.equal(got, before)
    index.data[0] = 7
    with pytest.raises(ValueError, match="expected ascending"):
        sparse_channel_conv2d(x, weight, index, index)
