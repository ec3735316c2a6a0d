"""The doctor on incomplete machines: it names the missing part and the command that installs it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import cagc_kernels
from cagc_kernels import backend, doctor

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def section(text: str, name: str) -> str:
    """The lines about one backend."""
    return next(part for part in text.split("\n\n") if part.startswith(name))


@pytest.fixture
def facts():
    """A machine on which everything is there."""
    names = ("torch", "numpy", "triton", "gpu", "driver", "nvcc", "compiler", "cmake")
    return dict.fromkeys(names, "present") | {"capability": "9.0"}


@pytest.fixture
def module(monkeypatch):
    """A compiled module with CUDA kernels, as far as the doctor looks."""
    fake = types.SimpleNamespace(REASON=None, CUDA_ARCHS="80,90a-real")
    monkeypatch.setattr(doctor, "import_module", lambda name: fake)
    return fake


def test_as_it_is():
    report = json.loads(run("-m", "cagc_kernels.doctor", "--json").stdout)
    assert report["cagc_kernels"] == cagc_kernels.__version__
    assert set(report["backends"]) == set(backend.BACKENDS)
    for name, found in report["backends"].items():
        assert tuple(found["ops"]) == backend.IMPLEMENTS[name]
        assert found["works"] or (found["missing"] and found["fix"])
    assert report["backends"]["reference"]["works"]
    assert report["backends"]["native"]["works"] == (backend.unavailable("native") is None)


def test_without_any_package():
    # -S leaves site-packages out: neither PyTorch nor anything else can be imported.
    text = run("-S", "-m", "cagc_kernels.doctor").stdout
    for name in backend.BACKENDS:
        part = section(text, name)
        assert "does not work" in part and "missing: PyTorch" in part and "fix:     pip install torch" in part


def test_without_the_compiled_module():
    code = """
import sys; sys.modules["cagc_kernels.native._C"] = None
import torch, cagc_kernels
from cagc_kernels import doctor
print(cagc_kernels.bias_act(torch.ones(1, 2), act="lrelu").sum())
print(cagc_kernels.explain("bias_act"), end="\\n\\n")
doctor.main([])
"""
    text = run("-c", code).stdout
    assert "the compiled module is missing" in section(text, "tensor(2.8284)") and "reference  taken" in text
    part = section(text, "native")
    assert "does not work" in part and "the compiled module is missing" in part and "pip install ." in part
    assert "works: plain PyTorch" in section(text, "reference")


def test_without_a_compiler_either(facts, module):
    module.REASON = "the compiled module is missing"
    found = doctor._native({**facts, "compiler": None})
    assert found["fix"].startswith("install a C++17 compiler with OpenMP, then pip install .")


def test_compiled_without_cuda(facts, module):
    module.CUDA_ARCHS = None
    found = doctor._native(facts)
    assert found["works"] and "compiled without nvcc" in found["missing"]
    assert found["fix"].startswith("CAGC_CUDA=ON pip install .")
    assert doctor._native({**facts, "nvcc": None})["fix"].startswith("install the CUDA toolkit, then CAGC_CUDA=ON")


def test_without_triton(facts, monkeypatch):
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", version)
    assert doctor.machine()["triton"] is None
    found = doctor._triton({**facts, "triton": None})
    assert not found["works"] and found["missing"] == "triton" and found["fix"] == "pip install 'cagc[triton]'"


def test_with_a_triton_that_does_not_import(facts, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    found = doctor._triton(facts)
    assert not found["works"] and "a triton that imports" in found["missing"] and "pip install" in found["fix"]


def test_the_interpreter_counts(facts, module, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert doctor._triton({**facts, "gpu": None})["works"]
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not doctor._triton({**facts, "gpu": None})["works"]


@pytest.mark.parametrize(
    "architectures,capability,runs",
    (
        ("80,90a-real", "8.0", True),
        ("80,90a-real", "8.6", True),
        ("80,90a-real", "9.0", True),
        ("80,90a-real", "12.0", True),  # by the PTX of sm_80
        ("80,90a-real", "7.5", False),
        ("80-real,90a-real", "8.9", True),
        ("80-real,90a-real", "12.0", False),
        ("90a-real", "8.0", False),
        ("90a", "10.0", False),
        ("86-real", "8.0", False),
        ("90-virtual", "10.0", True),
        ("90-virtual", "8.9", False),
        ("100a", "10.3", False),
        ("100f", "10.3", True),
        ("100f", "12.0", False),
        ("100-real", "10.0", True),
        ("all-major", "7.5", True),
    ),
)
def test_architectures_against_the_gpu(facts, module, architectures, capability, runs):
    assert doctor.covers(architectures, capability) == runs
    module.CUDA_ARCHS = architectures
    found = doctor._native({**facts, "capability": capability})
    assert found["works"] and (found["missing"] is None) == runs
    if not runs:
        number = capability.replace(".", "")
        assert f"sm_{number}" in found["missing"] and architectures in found["missing"]
        assert f"CAGC_CUDA_ARCHS={number} pip install ." in found["fix"]


def test_a_gpu_that_torch_cannot_use(facts, module):
    module.version = types.SimpleNamespace(cuda=None)
    assert doctor._native({**facts, "gpu": None})["fix"] == "pip install torch (a CUDA build)"
    module.version.cuda = "13.0"
    assert "NVIDIA GPU" in doctor._native({**facts, "gpu": None})["fix"]


def test_a_probe_that_breaks_is_reported(monkeypatch):
    def explode(facts):
        raise OSError("no")

    monkeypatch.setattr(doctor, "_native", explode)
    found = doctor.diagnose()["backends"]["native"]
    assert not found["works"] and "probe" in found["detail"] and found["fix"]
