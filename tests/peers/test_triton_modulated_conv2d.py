"""The fused convolution of Triton against NVlabs' modulated_conv2d: values. test_triton_interpreter.py runs it."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

from .vectors import cases

if find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

from cagc_kernels.triton.modulated_conv2d import modulated_conv2d  # noqa: E402

OPTIONS = ("up", "down", "padding", "demodulate", "flip_weight")


@cases("4", "modulated_conv2d")
def test_modulated_conv2d(case):
    arrays = {key: case[key].float() for key in ("x", "w", "styles", "noise") if key in case}
    y = modulated_conv2d(
        arrays["x"], arrays["w"], arrays["styles"], arrays.get("noise"),
        resample_filter=case["f"] if "f" in case else None, **{key: case.options[key] for key in OPTIONS},
    )  # fmt: skip
    want = case.f64("y")
    torch.testing.assert_close(y.double(), want, rtol=0, atol=2e-5 * want.abs().max().item())
