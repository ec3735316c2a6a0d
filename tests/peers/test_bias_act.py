"""bias_act against NVlabs' reference implementation: values, first and second gradients, every backend of the CPU."""

from __future__ import annotations

import os

import pytest
import torch

from cagc_kernels import backend, bias_act

from .vectors import cases

# Of the float64 values; a float32 kernel is within an ulp or two of them.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
# In Triton's interpreter, a process of its own, the others have nothing new to show.
BACKENDS = ("triton",) if os.environ.get("TRITON_INTERPRET") == "1" else ("reference", "native")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", BACKENDS)
@cases("1", "bias_act")
def test_bias_act(case, name, dtype):
    if reason := backend.refusal(name, "bias_act"):
        pytest.skip(reason)
    check_case(case, name, dtype)


def check_case(case, name: str, dtype: torch.dtype) -> None:
    """Backend ``name`` agrees with the peer in ``dtype``."""
    leaves = {key: case[key].to(dtype).requires_grad_() for key in ("x", "b", "dy") if key in case}
    x, b, dy = leaves["x"], leaves.get("b"), leaves["dy"]
    options = {key: case.options[key] for key in ("dim", "act", "alpha", "gain", "clamp")}
    y = bias_act(x, b, **options, backend=name)

    wrt = [t for t in (x, b) if t is not None]
    first = torch.autograd.grad(y, wrt, dy, create_graph=True)
    got = {"y": y, **dict(zip(("dx", "db"), first, strict=False))}
    second = torch.autograd.grad(first[0], [*wrt, dy], case["v"].to(dtype), allow_unused=True, materialize_grads=True)
    names = ("d2x", "d2b", "d2dy") if b is not None else ("d2x", "d2dy")
    got |= dict(zip(names, second, strict=True))

    for key in ("y", "dx", "db", "d2x", "d2b", "d2dy"):
        if key in case:
            want, tolerance = case.f64(key), TOLERANCE[dtype]
            scale = want.abs().max().clamp_min(1.0).item()
            error = (got[key].double() - want).abs()
            assert (error <= tolerance * (want.abs() + scale)).all(), f"{key}: {error.max():.3g}"
