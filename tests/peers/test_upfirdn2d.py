"""The upfirdn2d family against NVlabs' reference implementation."""

from __future__ import annotations

import pytest
import torch

import cagc_kernels
from cagc_kernels import setup_filter

from .vectors import cases

# The peer rounds f * gain to float32 before use: about 1e-6 of the largest value, in float64 too.
TOLERANCE = {torch.float64: 2e-6, torch.float32: 1e-5}


@cases("2", "setup_filter")
def test_setup_filter(case):
    torch.testing.assert_close(setup_filter(**case.options), case["y"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@cases("2", "upfirdn2d", "filter2d", "upsample2d", "downsample2d")
def test_resampling(case, dtype):
    options = {key: value for key, value in case.options.items() if key not in ("filter_spec", "shape")}
    x = case["x"].to(dtype).requires_grad_()
    f = case["f"] if "f" in case else None
    y = getattr(cagc_kernels, case.op)(x, f, **options)
    (dx,) = torch.autograd.grad(y, x, case["dy"].to(dtype))
    for got, want in ((y, case.f64("y")), (dx, case.f64("dx"))):
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance * want.abs().max().item())
