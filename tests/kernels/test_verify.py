"""The verification on the user's device: right kernels pass, planted faults of every kind are reported."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch

import cagc_kernels
from cagc_kernels import native
from cagc_kernels.backend import OPS
from cagc_kernels.native import bias_act, synthesis, upfirdn2d
from cagc_kernels.verification import Report, command, measure, verify
from cagc_kernels.verification.cases import SIZES, cases

pytestmark = pytest.mark.skipif(native.REASON is not None, reason=str(native.REASON))


def check(op: str, dtype: str = "float32", **more) -> Report:
    return verify(device="cpu", ops=[op], backends=["native"], dtypes=[dtype], size="tiny", **more)


def main(*arguments: str) -> int:
    return command.main(["--device", "cpu", "--quick", "--backends", "native", "--dtypes", "float32", *arguments])


def test_every_op_has_cases_of_each_size():
    for size in SIZES:
        assert {case.op for case in cases(size)} == set(OPS)


def test_right_kernels_pass():
    seen = []
    report = verify(device="cpu", dtypes=["float32", "float16"], size="tiny", each=seen.append)
    assert report.ok and report.checks == seen
    assert {c.order for c in seen if c.op == "upfirdn2d" and c.backend == "native"} == set(measure.ORDERS)
    assert {c.op for c in seen if c.backend == "native"} == {*OPS, "synthesis"}
    assert all(c.error <= c.limit and c.milliseconds > 0 and c.share > 0 for c in seen)
    assert report.environment["torch"] == torch.__version__


def wrong_value(kernel):
    return lambda *arguments: kernel(*arguments) * 1.0001


def one_element_left_out(kernel):
    def run(x, *arguments):
        out = kernel(x, *arguments)
        out.view(-1)[-1] = float("nan")
        return out

    return run


def does_not_compile(kernel):
    def run(*arguments):
        raise RuntimeError("ptxas\n  fatal: no kernel image")

    return run


@pytest.mark.parametrize("fault, says", (
    (wrong_value, "an element is off by"), (one_element_left_out, "holds NaN"),
    (does_not_compile, "RuntimeError: ptxas fatal: no kernel image"),
))  # fmt: skip
def test_planted_faults_are_reported(monkeypatch, fault, says):
    monkeypatch.setattr(upfirdn2d, "at_once", lambda *_: None)
    monkeypatch.setattr(upfirdn2d, "upfirdn2d", fault(upfirdn2d.upfirdn2d))
    report = check("upfirdn2d")
    assert not report.ok and says in report.wrong[0].wrong
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["ok"] is False


def test_a_wrong_second_gradient_alone_is_found(monkeypatch):
    kernel = bias_act.second_gradient
    monkeypatch.setattr(bias_act, "second_gradient", lambda *given: kernel(*given) * 0)
    assert {c.order for c in check("bias_act").wrong} == {"second"}


def test_a_wrong_program_is_found(monkeypatch):
    map_z = synthesis.Program.map
    monkeypatch.setattr(synthesis.Program, "map", lambda self, z: map_z(self, z) + 1e-3)
    (found,) = check("synthesis").wrong
    assert found.wrong.startswith("result 0: an element is off by")


def test_the_command(monkeypatch, capsys):
    assert main("--ops", "upfirdn2d") == 0
    assert "of copy" in capsys.readouterr().out
    monkeypatch.setattr(upfirdn2d, "at_once", lambda *_: None)
    monkeypatch.setattr(upfirdn2d, "upfirdn2d", wrong_value(upfirdn2d.upfirdn2d))
    assert main("--ops", "upfirdn2d", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["checks"][0]["wrong"] and report["environment"]["cagc"] == cagc_kernels.__version__
    with pytest.raises(SystemExit) as stopped:
        main("--ops", "conv2d")
    assert stopped.value.code == 2 and "ops: got 'conv2d', expected some of bias_act" in capsys.readouterr().err


@pytest.mark.parametrize("options, message", (
    ({"device": "cuda:99"}, "device: got 'cuda:99'"), ({"dtypes": ["int8"]}, "dtypes: got 'int8'"),
    ({"size": "huge"}, "size: got 'huge'"), ({"backends": ["triton"]}, "backends: 'triton' does not run on cpu"),
))  # fmt: skip
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        verify(**{"device": "cpu"} | options)


def test_an_import_leaves_the_function():
    import cagc_kernels.verify  # noqa: F401

    assert cagc_kernels.verify is verify
    assert find_spec("cagc_kernels.verify").name == "cagc_kernels.verify"
