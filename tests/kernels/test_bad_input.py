"""Every error names the argument, its value and what was expected, before any work is done."""

from __future__ import annotations

import pytest
import torch

from cagc_kernels import (
    bias_act,
    modulated_conv2d,
    setup_filter,
    sparse_channel_conv2d,
    styled_conv2d,
    upfirdn2d,
    upsample2d,
)
from cagc_kernels.compat.rosinality import FusedLeakyReLU

X = torch.zeros(2, 4, 8, 8)
W = torch.zeros(5, 4, 3, 3)
S = torch.zeros(2, 4)
B = torch.zeros(5)
F = setup_filter([1, 3, 3, 1])


def sparse(ins, outs, x=X, styles=None, **options):
    """A convolution over chosen channels with six inputs and five outputs."""
    index = [torch.tensor(i) if isinstance(i, list) else i for i in (ins, outs)]
    return sparse_channel_conv2d(x, torch.zeros(5, 6, 3, 3), *index, styles, **options)


SPARSE = {
    "index out of range": (lambda: sparse([0, 1, 2, 6], [0]), ValueError, "in_channels: got 6, expected 0 to 5"),
    "negative index": (lambda: sparse([0, 1, 2, 3], [-1, 2]), ValueError, "out_channels: got -1, expected 0 to 4"),
    "index twice": (lambda: sparse([0, 1, 1, 3], [0]), ValueError, "in_channels: got 1 twice, expected ascending"),
    "indices unsorted": (lambda: sparse([0, 1, 2, 3], [2, 1]), ValueError, "out_channels: got 1 after 2, expected"),
    "no index": (
        lambda: sparse([0, 1, 2, 3], torch.zeros(0, dtype=torch.int64)),
        ValueError,
        "out_channels: got no index, expected at least 1",
    ),
    "indices are a tuple": (lambda: sparse((0, 1, 2, 3), [0]), TypeError, "in_channels: got tuple, expected an int64"),
    "indices are int32": (
        lambda: sparse(torch.arange(4).int(), [0]),
        TypeError,
        "in_channels: got dtype torch.int32, expected torch.int64",
    ),
    "indices are a mask": (lambda: sparse([True] * 6, [0]), TypeError, "in_channels: got dtype torch.bool"),
    "indices are a matrix": (lambda: sparse([[0, 1, 2, 3]], [0]), ValueError, r"in_channels: got shape \[1, 4\]"),
    "widths disagree": (lambda: sparse([0, 1, 2], [0]), ValueError, "x: got 4 channels, expected 3 as in_channels"),
    "styles of the wrong batch": (
        lambda: sparse([0, 1, 2, 3], [0], styles=S[:1]),
        ValueError,
        r"styles: got shape \[1, 4\], expected \[2, 4\]",
    ),
    "sparse kernel too large": (
        lambda: sparse([0, 1, 2, 3], [0], X[..., :2], padding=0),
        ValueError,
        "padding: leaves 8 x 2 pixels",
    ),
    "negative padding": (
        lambda: sparse([0, 1, 2, 3], [0], padding=-1),
        ValueError,
        "padding: got -1, expected at least",
    ),
    "up is not whole": (lambda: sparse([0, 1, 2, 3], [0], up=2.0), TypeError, "up: got 2.0, expected an integer"),
}

CASES = SPARSE | {
    "x is a list": (lambda: bias_act([1.0]), TypeError, "x: got list, expected a torch.Tensor"),
    "x is integer": (lambda: bias_act(X.int()), TypeError, "x: got dtype torch.int32"),
    "unknown act": (
        lambda: bias_act(X, act="gelu"),
        ValueError,
        "act: got 'gelu', expected one of linear, relu, lrelu",
    ),
    "unknown dtype": (lambda: bias_act(X.to(torch.float8_e4m3fn)), TypeError, "x: got dtype torch.float8_e4m3fn"),
    "x is sparse": (lambda: upfirdn2d(X.to_sparse(), F), TypeError, "x: got a sparse_coo tensor, expected a dense one"),
    "x is nested": (
        lambda: upfirdn2d(torch.nested.nested_tensor([X[0]], layout=torch.jagged), F),
        TypeError,
        "x: got a nested tensor",
    ),
    "x is on another device": (
        lambda: modulated_conv2d(X.to("meta"), W, S),
        ValueError,
        "weight: is on cpu, expected meta",
    ),
    "act is a list": (lambda: bias_act(X, act=["relu"]), TypeError, "act: got list, expected one of linear, relu"),
    "backend is a list": (lambda: bias_act(X, backend=["native"]), TypeError, "backend: got list, expected one of"),
    "gain is not finite": (
        lambda: bias_act(X, gain=float("inf")),
        ValueError,
        "gain: got inf, expected a finite number",
    ),
    "gain is no float": (lambda: bias_act(X, gain=10**400), ValueError, "gain: got an integer of 401 digits"),
    "gain is None": (lambda: upfirdn2d(X, F, gain=None), TypeError, "gain: got NoneType, expected a number"),
    "dim of no bias": (lambda: bias_act(X, dim="1"), TypeError, "dim: got str, expected an integer"),
    "flag is a tensor": (
        lambda: upfirdn2d(X, F, flip_filter=X),
        TypeError,
        "flip_filter: got Tensor, expected True or",
    ),
    "demodulate is a word": (lambda: modulated_conv2d(X, W, S, demodulate="no"), TypeError, "demodulate: got str"),
    "up is huge": (lambda: upfirdn2d(X, F, up=2**70), ValueError, "up: got .*, expected at most 2147483647"),
    "output has no addresses": (
        lambda: upfirdn2d(X, F, up=2**30, padding=4),
        ValueError,
        "up, padding: got an array of",
    ),
    "kernel without taps": (lambda: modulated_conv2d(X, W[..., :0], S), ValueError, "weight: got a 3 x 0 kernel"),
    "taps of words": (lambda: setup_filter([1, "a"]), TypeError, "f: got list, expected a number"),
    "taps without a number": (lambda: setup_filter([1, float("nan")]), ValueError, "f: the taps sum to nan"),
    "unknown device": (lambda: setup_filter(F, device="moon"), ValueError, "device: got 'moon', expected a device"),
    "channels of a module": (lambda: FusedLeakyReLU(-1), ValueError, "channel: got -1, expected at least 0"),
    "b of another width": (lambda: bias_act(X, B), ValueError, r"b: got shape \[5\], expected \[4\]"),
    "b is a matrix": (lambda: bias_act(X, S), ValueError, r"b: got shape \[2, 4\], expected 1 dimensions \[C\]"),
    "b of another dtype": (
        lambda: bias_act(X, B.double()[:4]),
        TypeError,
        "b: got dtype torch.float64, expected torch.f",
    ),
    "dim out of range": (lambda: bias_act(X, B, dim=4), ValueError, "dim: got 4, expected an axis of x, which has 4"),
    "dim is a float": (lambda: bias_act(X, B, dim=1.0), TypeError, "dim: got float, expected an integer"),
    "negative clamp": (lambda: bias_act(X, clamp=-1), ValueError, "clamp: got -1, expected at least 0"),
    "clamp not a number": (lambda: bias_act(X, clamp=float("nan")), ValueError, "clamp: got nan"),
    "gain is a string": (lambda: bias_act(X, gain="2"), TypeError, "gain: got str, expected a number"),
    "image without batch": (lambda: upfirdn2d(X[0], F), ValueError, r"x: got shape \[4, 8, 8\], expected 4 dimensions"),
    "up is zero": (lambda: upfirdn2d(X, F, up=0), ValueError, "up: got 0, expected at least 1"),
    "up is a float": (lambda: upsample2d(X, F, up=2.0), TypeError, "up: got 2.0, expected an integer"),
    "three factors": (lambda: upfirdn2d(X, F, down=[1, 2, 3]), ValueError, "down: got 3 integers, expected 2"),
    "three paddings": (
        lambda: upfirdn2d(X, F, padding=[1, 2, 3]),
        ValueError,
        "padding: got 3 integers, expected 2 or 4",
    ),
    "cropped to nothing": (lambda: upfirdn2d(X, F, padding=-3), ValueError, "padding: leaves 2 x 2 pixels"),
    "integer taps": (lambda: upfirdn2d(X, F.int()), TypeError, "f: got dtype torch.int32, expected a floating-point"),
    "taps of rank 3": (lambda: upfirdn2d(X, F[None]), ValueError, r"f: got shape \[1, 4, 4\]"),
    "no taps": (lambda: setup_filter([]), ValueError, r"f: got shape \[0\]"),
    "taps sum to zero": (lambda: setup_filter([1, -1]), ValueError, "f: the taps sum to 0"),
    "separable matrix": (lambda: setup_filter([[1, 2]], separable=True), ValueError, "f: got shape"),
    "weight of other inputs": (
        lambda: modulated_conv2d(X, W[:, :3], S),
        ValueError,
        "weight: got 3 input channels, exp",
    ),
    "styles of another batch": (
        lambda: modulated_conv2d(X, W, S[:1]),
        ValueError,
        r"styles: got shape \[1, 4\], expected",
    ),
    "styles of another dtype": (lambda: modulated_conv2d(X, W, S.half()), TypeError, "styles: got dtype torch.float16"),
    "up and down": (lambda: modulated_conv2d(X, W, S, up=2, down=2), ValueError, "up, down: got 2 and 2"),
    "kernel larger than x": (lambda: modulated_conv2d(X[..., :2], W, S), ValueError, "padding: leaves 8 x 2 pixels"),
    "even kernel": (lambda: styled_conv2d(X, W[..., :2, :2], S, B), ValueError, "weight: got a 2 x 2 kernel"),
    "bias of another width": (
        lambda: styled_conv2d(X, W, S, B[:4]),
        ValueError,
        r"bias: got shape \[4\], expected \[5\]",
    ),
    "next styles": (lambda: styled_conv2d(X, W, S, B, next_styles=S), ValueError, r"next_styles: got shape \[2, 4\]"),
    "noise that does not fit": (lambda: styled_conv2d(X, W, S, B, X[:, :1, :4]), ValueError, "noise: got shape"),
    "unknown backend": (
        lambda: styled_conv2d(X, W, S, B, backend="gpu"),
        ValueError,
        "backend: got 'gpu', expected one",
    ),
}


@pytest.mark.parametrize("call,error,message", CASES.values(), ids=CASES)
def test_refusal(call, error, message):
    with pytest.raises(error, match=message):
        call()
