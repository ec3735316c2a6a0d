"""The check at the first use of an op on a device, with planted faults; the CPU stands in for a GPU."""

from __future__ import annotations

import json
import os
import warnings
from importlib import import_module

import pytest
import torch

from cagc_kernels import backend, explain, native, setup_filter, upfirdn2d, use_backend
from cagc_kernels.native import upfirdn2d as kernels
from cagc_kernels.ops import dispatch
from cagc_kernels.verification import first_use

pytestmark = pytest.mark.skipif(native.REASON is not None, reason=str(native.REASON))
X, F = torch.randn(1, 2, 6, 6), setup_filter([1, 3, 3, 1])


@pytest.fixture(autouse=True)
def device(monkeypatch, tmp_path):
    monkeypatch.setattr(dispatch, "CHECKED_DEVICES", ("cpu",))
    monkeypatch.setattr(first_use, "DTYPES", ("float32",))
    monkeypatch.setenv("CAGC_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("CAGC_VERIFY", raising=False)
    new_process(monkeypatch)
    yield
    backend.select.cache_clear()


def new_process(monkeypatch) -> None:
    """Forget the verdicts of this process."""
    monkeypatch.setattr(dispatch, "_settled", set())
    monkeypatch.setattr(backend, "_faults", {})
    backend.select.cache_clear()


def used() -> str:
    """Return the backend that runs a call without ``backend``."""
    upfirdn2d(X, F, up=2)
    return backend.select("upfirdn2d", None, None, "cpu")


def count_checks(monkeypatch) -> list:
    checks = []
    verify = first_use.verify
    monkeypatch.setattr(first_use, "verify", lambda *given: checks.append(given[2]) or verify(*given))
    return checks


def wrong(kernel):
    return lambda *given: kernel(*given) + 0.01


def does_not_compile(kernel):
    def run(*given):
        raise RuntimeError("no kernel image for this device")

    return run


@pytest.mark.parametrize("fault, says", ((wrong, "an element is off by"), (does_not_compile, "no kernel image")))
def test_a_fault_is_passed_over_and_remembered(monkeypatch, fault, says):
    checks = count_checks(monkeypatch)
    with monkeypatch.context() as planted:
        planted.setattr(kernels, "at_once", lambda *_: None)
        planted.setattr(kernels, "upfirdn2d", fault(kernels.upfirdn2d))
        with pytest.warns(UserWarning, match="upfirdn2d: the native kernels are passed over on .* and reference runs"):
            assert used() == "reference"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert used() == "reference"  # one warning
        assert says in explain("upfirdn2d")
    new_process(monkeypatch)
    with pytest.warns(UserWarning, match="passed over"):
        assert used() == "reference"
    assert checks == [["upfirdn2d"]]
    assert upfirdn2d(X, F, backend="native").shape == (1, 2, 3, 3)  # who names a backend gets it


def test_verdicts_are_kept(monkeypatch, tmp_path):
    checks = count_checks(monkeypatch)
    with torch.inference_mode(), torch.autocast("cpu"):  # which the check must not see
        assert used() == "native"
    new_process(monkeypatch)
    assert used() == "native" and len(checks) == 1
    (file,) = tmp_path.iterdir()
    document = json.loads(file.read_text())
    for damaged in ("{", "[" * 5000, json.dumps({**document, "environment": {"device": "another"}}), "[]"):
        file.write_text(damaged)
        new_process(monkeypatch)
        before = len(checks)
        assert used() == "native" and len(checks) == before + 1
        assert json.loads(file.read_text()) == document


def test_the_variable(monkeypatch):
    checks = count_checks(monkeypatch)
    for value, expected in (("0", 0), ("always", 1), ("always", 2), ("1", 2)):
        monkeypatch.setenv("CAGC_VERIFY", value)
        new_process(monkeypatch)
        used()
        assert len(checks) == expected
    monkeypatch.setenv("CAGC_VERIFY", "yes")
    new_process(monkeypatch)
    for _ in range(2):
        with pytest.raises(ValueError, match="CAGC_VERIFY: got 'yes', expected one of 0, 1, always"):
            used()


def test_what_cannot_be_checked_or_kept_is_used(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CAGC_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert used() == "native"
    new_process(monkeypatch)

    def out_of_memory(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(first_use, "verify", out_of_memory)
    with pytest.warns(UserWarning, match="upfirdn2d: the native kernels are used unchecked: OutOfMemoryError"):
        assert used() == "native"


def test_random_numbers_stay_as_they_are(monkeypatch):
    torch.manual_seed(0)
    want = torch.randn(3)
    torch.manual_seed(0)
    used()
    assert torch.equal(torch.randn(3), want)


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="tests/kernels/test_triton_interpreter.py runs it"
)
def test_triton_in_its_interpreter(monkeypatch):
    with use_backend("triton"):
        upfirdn2d(X, F, up=2)
        assert backend.select("upfirdn2d", None, "triton", "cpu") == "triton"
        new_process(monkeypatch)
        monkeypatch.setenv("CAGC_VERIFY", "always")
        triton = import_module("cagc_kernels.triton.upfirdn2d")
        monkeypatch.setattr(triton, "upfirdn2d", does_not_compile(triton.upfirdn2d))
        with pytest.warns(
            UserWarning, match="the triton kernels are passed over on .* and native runs: .* no kernel image"
        ):
            upfirdn2d(X, F, up=2)
