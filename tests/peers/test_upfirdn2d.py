"""The upfirdn2d family against NVlabs' and rosinality's reference implementations, on every backend that runs here."""

from __future__ import annotations

import os

import pytest
import torch

import cagc_kernels
from cagc_kernels import backend, setup_filter, upfirdn2d

from .vectors import cases

# The peer rounds f * gain to float32 before use: about 1e-6 of the largest value, in float64 too.
TOLERANCE = {torch.float64: 2e-6, torch.float32: 1e-5}
# In Triton's interpreter, a process of its own, the others have nothing new to show.
BACKENDS = ("triton",) if os.environ.get("TRITON_INTERPRET") == "1" else ("reference", "native")


def close(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> None:
    scale = want.abs().max().item()
    torch.testing.assert_close(got.double(), want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale)


def check(case, dtype: torch.dtype, function) -> None:
    """Value and gradient are the peer's; the op being linear, the gradient's gradient is the op again."""
    x, dy = case["x"].to(dtype).requires_grad_(), case["dy"].to(dtype).requires_grad_()
    y = function(x)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    close(y, case.f64("y"), dtype)
    close(dx, case.f64("dx"), dtype)
    (d2dy,) = torch.autograd.grad(dx, dy, x.detach())
    close(d2dy, case.f64("y"), dtype)


def skip_unless(name: str) -> None:
    if reason := backend.refusal(name, "upfirdn2d"):
        pytest.skip(reason)


@cases("2", "setup_filter")
def test_setup_filter(case):
    torch.testing.assert_close(setup_filter(**case.options), case["y"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", BACKENDS)
@cases("2", "upfirdn2d", "filter2d", "upsample2d", "downsample2d")
def test_resampling(case, name, dtype):
    skip_unless(name)
    options = {key: value for key, value in case.options.items() if key not in ("filter_spec", "shape")}
    f, op = case["f"] if "f" in case else None, getattr(cagc_kernels, case.op)
    check(case, dtype, lambda x: op(x, f, **options, backend=name))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", BACKENDS)
@cases("3", "upfirdn2d_native")
def test_rosinality(case, name, dtype):
    skip_unless(name)
    o = case.options
    up, down = [o["up_x"], o["up_y"]], [o["down_x"], o["down_y"]]
    padding = [o[f"pad_{side}"] for side in ("x0", "x1", "y0", "y1")]
    check(case, dtype, lambda x: upfirdn2d(x, case["kernel"].float(), up, down, padding, backend=name))
