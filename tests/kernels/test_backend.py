"""Choice of backends: names, preference, refusals with a reason, a missing compiled module."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from cagc_kernels import backend, bias_act, explain, modulated_conv2d, use_backend

native = pytest.mark.skipif(backend.unavailable("native") is not None, reason=str(backend.unavailable("native")))


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_unknown_name_lists_the_valid_ones():
    for call in (
        lambda: bias_act(torch.zeros(1, 2), backend="cuda"),
        lambda: use_backend("cuda").__enter__(),
    ):
        with pytest.raises(ValueError, match="'cuda'.*reference, native, triton"):
            call()


@pytest.fixture
def no_native_convolution(monkeypatch):
    monkeypatch.setitem(backend.IMPLEMENTS, "native", ("bias_act", "upfirdn2d"))
    monkeypatch.setitem(backend.IMPLEMENTS, "triton", ("bias_act", "upfirdn2d"))
    backend.select.cache_clear()
    yield torch.ones(1, 2, 4, 4), torch.ones(3, 2, 1, 1), torch.ones(1, 2)
    backend.select.cache_clear()


def test_a_named_backend_binds(no_native_convolution):
    with pytest.raises(ValueError, match="'native' does not take modulated_conv2d .*no modulated_conv2d kernel"):
        modulated_conv2d(*no_native_convolution, backend="native")


def test_a_preferred_backend_is_passed_over_and_said_to_be(no_native_convolution):
    with use_backend("native"):
        assert modulated_conv2d(*no_native_convolution, demodulate=False).eq(2).all()
        text = explain("modulated_conv2d")
    assert "preferred: native" in text and "native     skipped: no modulated_conv2d kernel" in text


def test_preference_nests_and_ends():
    before = backend.preferred()
    with use_backend("reference"):
        with use_backend(None):
            assert backend.preferred() is None
        assert backend.preferred() == "reference"
        assert "reference  taken" in explain("bias_act")
    assert backend.preferred() == before


@native
def test_explain_names_the_taken_and_the_reasons():
    text = explain("bias_act", dtype=torch.float16)
    assert "native     taken" in text and "needs a CUDA tensor" in text and "native comes first" in text
    with pytest.raises(ValueError, match="dtype: got float8_e4m3fn, expected one of float32"):
        explain("bias_act", dtype=torch.float8_e4m3fn)


@native
def test_explain_tells_what_the_reference_computes():
    assert "gain <= 0 and lrelu with alpha < 0 use the reference" in explain("bias_act")
    assert "a filter that requires a gradient uses the reference" in explain("upfirdn2d")
    assert "native runs PyTorch's convolution (on the CPU in float32, Winograd's" in explain("modulated_conv2d")


@native
@pytest.mark.parametrize(
    "call,expected",
    (
        ({"up": 2, "resample_filter": torch.ones(4, 4)}, "fused"),
        ({"up": 2, "resample_filter": torch.ones(4)}, "fused"),
        ({"up": 2, "resample_filter": torch.ones(3, 3)}, "composed: a filter that is not of 4 taps"),
        ({"up": 2, "resample_filter": torch.ones(4, 4), "padding": -1}, "composed: padding [-1, -1, -1, -1] crops"),
        ({"down": 2, "resample_filter": torch.ones(4, 4)}, "composed: up=1, down=2"),
        ({"noise": torch.ones(1, 7, 8, 8)}, "composed: noise per channel"),
        ({"act": "swish"}, "composed: swish is not fused"),
    ),
)
def test_explain_tells_why_a_call_is_composed(call, expected):
    x, weight = torch.empty(1, 5, 8, 8, device="meta"), torch.empty(7, 5, 3, 3, device="meta")
    assert f"this call: {expected}" in explain("modulated_conv2d", x=x, weight=weight, **call)


def test_explain_takes_calls_of_modulated_conv2d_alone():
    with pytest.raises(TypeError, match="call: got up, .* not bias_act"):
        explain("bias_act", up=2)
    with pytest.raises(TypeError, match="call: got gain, expected some of x, weight, noise, up"):
        explain("modulated_conv2d", x=torch.ones(1, 1, 4, 4), weight=torch.ones(1, 1, 3, 3), gain=2)
    for call in ({"x": torch.ones(1, 1, 4, 4)}, {"x": 1, "weight": torch.ones(1, 1, 3, 3)}):
        with pytest.raises(TypeError, match="call: expected tensors x and weight of 4 dimensions"):
            explain("modulated_conv2d", **call)


def test_explain_takes_a_device_as_pytorch_does():
    text = explain("bias_act", "cpu")
    assert explain("bias_act", torch.device("cpu")) == explain("bias_act", "cpu:0") == text
    assert explain("bias_act", "cuda:1") == explain("bias_act", "cuda")
    with pytest.raises(ValueError, match="device: got 'gpu', expected"):
        explain("bias_act", "gpu")


def test_explain_knows_its_ops():
    with pytest.raises(ValueError, match="'conv'.*bias_act, upfirdn2d, epilogue, modulated_conv2d"):
        explain("conv")


def test_environment_variable():
    code = "import cagc_kernels as k; print(k.explain('bias_act'))"
    assert "reference  taken" in python(code, CAGC_BACKEND="reference").stdout
    run = python(code, CAGC_BACKEND="nonsense")
    assert run.returncode == 1 and "CAGC_BACKEND: got 'nonsense', expected one of reference" in run.stderr


@native
def test_null_pointers_are_refused():
    from cagc_kernels.native import _C

    for dead in ("x", "out"):
        x, out = (0, 64) if dead == "x" else (64, 0)
        with pytest.raises(ValueError, match=f"{dead} is null"):
            _C.bias_act_cpu(_C.BiasAct(x=x, out=out, numel=4), 1)
    with pytest.raises(TypeError, match="BiasAct has no field nonsense"):
        _C.BiasAct(nonsense=1)


def test_doctor_without_torch():
    code = """
import sys; sys.modules["torch"] = None; sys.modules["triton"] = None
from cagc_kernels import doctor
sys.exit(doctor.main([]))
"""
    run = python(code)
    assert run.returncode == 0, run.stderr
    assert "pip install torch" in run.stdout and "Traceback" not in run.stdout + run.stderr
