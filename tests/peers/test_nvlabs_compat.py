"""NVlabs' ops as its own code would call them, through the compatibility layer: values and gradients."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from cagc_kernels.compat import nvlabs

from .vectors import Case, cases

# The peer rounds f * gain to float32 before use: about 1e-6 of the largest value, in float64 too.
TOLERANCE = {torch.float64: 2e-6, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def _installed():
    with nvlabs.install():
        yield


def check(case: Case, y: torch.Tensor, leaves: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    gradients = torch.autograd.grad(y, list(leaves.values()), case["dy"].to(dtype))
    for name, got in {"y": y, **{f"d{key}": g for key, g in zip(leaves, gradients, strict=True)}}.items():
        want = case.f64(name)
        error = (got.double() - want).abs()
        assert (error <= TOLERANCE[dtype] * (want.abs() + want.abs().max())).all(), f"{name}: {error.max():.3g}"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("impl", ("ref", "cuda"))
@cases("1", "bias_act")
def test_bias_act(case: Case, impl: str, dtype: torch.dtype):
    leaves = {name: case[name].to(dtype).requires_grad_() for name in ("x", "b") if name in case}
    options = {name: case.options[name] for name in ("dim", "act", "alpha", "gain", "clamp")}
    module = import_module("torch_utils.ops.bias_act")
    check(case, module.bias_act(leaves["x"], leaves.get("b"), **options, impl=impl), leaves, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("impl", ("ref", "cuda"))
@cases("2", "upfirdn2d", "filter2d", "upsample2d", "downsample2d")
def test_resampling(case: Case, impl: str, dtype: torch.dtype):
    options = {name: value for name, value in case.options.items() if name not in ("filter_spec", "shape")}
    x = case["x"].to(dtype).requires_grad_()
    function = getattr(import_module("torch_utils.ops.upfirdn2d"), case.op)
    check(case, function(x, case["f"] if "f" in case else None, **options, impl=impl), {"x": x}, dtype)
