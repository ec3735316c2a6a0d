"""modulated_conv2d against NVlabs' own: values, first and second gradients."""

from __future__ import annotations

import os

import pytest
import torch

from cagc_kernels import backend, modulated_conv2d

from .vectors import cases

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5}  # gradients in float32: 2e-5 of the tensor's largest value
# In Triton's interpreter, a process of its own, the others have nothing new to show.
BACKENDS = ("triton",) if os.environ.get("TRITON_INTERPRET") == "1" else ("reference", "native")
OPTIONS = ("up", "down", "padding", "demodulate", "flip_weight")


def close(name, got, want, tolerance):
    scale = max(want.abs().max().item(), 1e-6)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=tolerance * scale, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", BACKENDS)
@cases("4", "modulated_conv2d")
def test_modulated_conv2d(case, name, dtype):
    if reason := backend.refusal(name, "modulated_conv2d"):
        pytest.skip(reason)
    check_case(case, name, dtype)


def check_case(case, name, dtype):
    """Backend ``name`` agrees with the peer in ``dtype``: the value, first and second gradients."""
    leaves = {key: case[key].to(dtype).requires_grad_() for key in ("x", "w", "styles", "noise", "dy") if key in case}
    f = case["f"] if "f" in case else None
    y = modulated_conv2d(
        leaves["x"], leaves["w"], leaves["styles"], leaves.get("noise"),
        resample_filter=f, **{key: case.options[key] for key in OPTIONS}, backend=name,
    )  # fmt: skip
    close("y", y, case.f64("y"), TOLERANCE[dtype])

    wrt = [key for key in leaves if key != "dy"]
    first = torch.autograd.grad(y, [leaves[key] for key in wrt], leaves["dy"], create_graph=True)
    first = dict(zip(wrt, first, strict=True))
    for key, gradient in first.items():
        close(f"d{key}", gradient, case.f64(f"d{key}"), TOLERANCE[dtype])

    for a in wrt:
        if f"v{a}" not in case:
            continue
        v = case[f"v{a}"].to(dtype)
        second = torch.autograd.grad(
            first[a], list(leaves.values()), v, allow_unused=True, materialize_grads=True, retain_graph=True
        )
        for key, gradient in zip(leaves, second, strict=True):
            if f"d2_{a}_{key}" in case:
                # The stored second derivatives are float32.
                close(f"d2_{a}_{key}", gradient, case.f64(f"d2_{a}_{key}"), max(TOLERANCE[dtype], 1e-6))
