from __future__ import annotations

import importlib
import os
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import cagc_kernels.compat
from cagc_kernels import backend as backends
from cagc_kernels import layout


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill outputs with NaN, so that elements a kernel does not write are detected."""
    images = layout.empty_images
    monkeypatch.setattr(layout, "allocate", lambda like: torch.full_like(like, float("nan")))
    monkeypatch.setattr(layout, "allocate_images", lambda *size, **more: images(*size, **more).fill_(float("nan")))


@pytest.fixture(autouse=True)
def _exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def _targets(op: str) -> list:
    """Return the (backend, device) pairs of this process whose backend has kernels of ``op``.

    Triton runs on the CPU only in its interpreter, in a process of its own.
    """
    interpreter = os.environ.get("TRITON_INTERPRET") == "1"
    pairs = [("triton", "cpu")] if interpreter else [("native", "cpu")]
    if torch.cuda.is_available() and not interpreter:
        pairs += [("native", "cuda"), ("triton", "cuda")]
    params = []
    for name, device in ((name, device) for name, device in pairs if backends.implements(name, op)):
        marks = [pytest.mark.gpu] if device == "cuda" else []
        if reason := backends.refusal(name, op, device):
            marks.append(pytest.mark.skip(reason=reason))
        params.append(pytest.param((name, device), id=f"{name}-{device}", marks=marks))
    return params


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", _targets(getattr(metafunc.module, "OP", "bias_act")))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write {file: text} to a folder on the path; afterwards its modules are dropped and nothing is installed."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def files(texts):
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return tmp_path

    yield files
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(
            getattr(sys.modules[name], "__file__", "") or getattr(sys.modules[name], "__path__", "")
        ):
            del sys.modules[name]
    with pytest.raises(RuntimeError, match="uninstall without install"):
        cagc_kernels.compat.uninstall()
