"""rosinality's ops as its own code would call them, through the compatibility layer: values and gradients."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from cagc_kernels.compat import rosinality

from .test_rosinality_ops import TOLERANCE, close
from .vectors import Case, cases


@pytest.fixture(autouse=True)
def _installed():
    with rosinality.install():
        yield


def check(case: Case, y: torch.Tensor, leaves: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    close("y", y, case.f64("y"), dtype)
    gradients = torch.autograd.grad(y, list(leaves.values()), case["dy"].to(dtype))
    for name, got in zip(leaves, gradients, strict=True):
        close(f"d{name}", got, case.f64(f"d{name}"), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@cases("3", "upfirdn2d_native")
def test_upfirdn2d(case: Case, dtype: torch.dtype):
    x = case["x"].to(dtype).requires_grad_()
    y = import_module("op.upfirdn2d").upfirdn2d_native(x, case["kernel"].to(dtype), **case.options)
    check(case, y, {"x": x}, dtype)
    o = case.options
    factors = {"up": (o["up_x"], o["up_y"]), "down": (o["down_x"], o["down_y"])}
    pad = [o[f"pad_{side}"] for side in ("x0", "x1", "y0", "y1")]
    if pad[:2] == pad[2:]:
        pad = pad[:2]
    assert import_module("op").upfirdn2d(x, case["kernel"].to(dtype), **factors, pad=pad).equal(y)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@cases("3", "fused_leaky_relu")
def test_fused_leaky_relu(case: Case, dtype: torch.dtype):
    leaves = {name: case[name].to(dtype).requires_grad_() for name in ("x", "b") if name in case}
    slope, scale = case.options["negative_slope"], case.options["scale"]
    op = import_module("op")
    check(case, op.fused_leaky_relu(leaves["x"], leaves.get("b"), slope, scale), leaves, dtype)
    module = op.FusedLeakyReLU(leaves["x"].shape[1], bias="b" in leaves, negative_slope=slope, scale=scale).to(dtype)
    module.load_state_dict({"bias": leaves["b"].detach()} if "b" in leaves else {})
    close("y of the module", module(leaves["x"]), case.f64("y"), dtype)
