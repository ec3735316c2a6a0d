"""The CUDA sources on the host emulator of tests/csrc against the reference, under several orders of threads."""

from __future__ import annotations

import subprocess

import pytest
import torch

from cagc_kernels import backend, bias_act
from cagc_kernels.reference import bias_act as reference
from cagc_kernels.reference.bias_act import ACTIVATIONS

from ..csrc import emulated as emulator
from ..csrc.emulated import emulated
from ..peers.test_bias_act import TOLERANCE, check_case
from ..peers.vectors import cases
from .test_bias_act import gradients, oracle, tensors
from .tolerances import TOLERANCES, assert_close

SEEDS = (0, 1, 2)
SKIP = emulator.missing() or backend.unavailable("native")
pytestmark = pytest.mark.skipif(SKIP is not None, reason=str(SKIP))


def test_ctest():
    """The C++ programs: planted missing barriers and faults are caught, each kernel agrees with its formula."""
    run = subprocess.run(
        [emulator.tool("ctest"), "--test-dir", str(emulator.build()), "--output-on-failure"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "100% tests passed" in run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize("removed", (0, 1, 2), ids=("none", "before-reading", "before-overwriting"))
def test_a_missing_barrier_shows(removed):
    x = torch.arange(1.0, 5 * 64 + 1)
    want = (x.reshape(5, 64) + x.reshape(5, 64).flip(1)).flatten()
    results = []
    for seed in range(6):
        emulator.library().emulator_set(seed, 2)
        out = torch.full_like(x, -1)
        assert emulator.library().planted(removed, x.data_ptr(), out.data_ptr(), 5) is None
        results.append(out.nan_to_num(nan=-7))
    right = [torch.equal(out, want) for out in results]
    assert all(right) if removed == 0 else not any(right)
    assert removed == 0 or len({tuple(out.tolist()) for out in results}) > 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_value_and_gradients(act, dtype, seed):
    x, b = tensors((2, 5, 6, 7), 5, dtype)
    g, v = torch.randn_like(x), torch.randn_like(x)
    options = {"act": act, "gain": 1.3}
    with emulated("bias_act", seed) as module:
        clamped = bias_act(x, b, clamp=0.75, backend="native", **options)
        value = bias_act(x, b, backend="native", **options)
        got = gradients(lambda x, b: bias_act(x, b, backend="native", **options), x, b, g, v)
    assert module.launches >= (2 if act == "linear" else 4)
    assert_close(clamped, oracle(x, b, clamp=0.75, **options), dtype)
    assert_close(value, oracle(x, b, **options), dtype)
    want = gradients(lambda x, b: oracle(x, b, **options), *(t.double() for t in (x, b, g, v)))
    for a, e in zip(got, want, strict=True):
        assert_close(a, e, dtype, factor=4)


@pytest.mark.parametrize("width", (1, 3, 8, 37, 77, 160))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "slice", "unaligned", "2d"))
def test_bias_act_layouts_and_widths(layout, width):
    x, b = tensors((9, width) if layout == "2d" else (2, width, 5, 3), width)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "slice":
        x = torch.randn(3, width + 5, 7, 4)[1:, 2 : 2 + width, 1:6, :3]
    elif layout == "unaligned":
        x = torch.randn(2 * width * 15 + 1)[1:].reshape(2, width, 5, 3)
    for seed in SEEDS:
        with emulated("bias_act", seed, multiprocessors=1):
            assert_close(bias_act(x, b, act="lrelu", backend="native"), oracle(x, b, act="lrelu"), x.dtype)


def test_more_elements_than_the_grid_has_threads():
    x, b = tensors((2, 3, 70, 50), 3)
    with emulated("bias_act", seed=1, multiprocessors=1):
        got = bias_act(x, b, act="lrelu", backend="native")
    assert_close(got, oracle(x, b, act="lrelu"), x.dtype)


@pytest.mark.parametrize("shape", ((0, 4, 5, 5), (2, 0, 5, 5), (2, 4, 0, 5)))
def test_empty(shape):
    with emulated("bias_act"):
        y = bias_act(torch.empty(shape), torch.zeros(shape[1]), act="lrelu", backend="native")
    assert y.shape == shape


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_nan_and_infinity(act):
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e30, -1e30, 100.0, -100.0]])
    with emulated("bias_act", seed=1):
        got = bias_act(x, act=act, backend="native")
    torch.testing.assert_close(got, reference.bias_act(x, act=act), rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@cases("1", "bias_act")
def test_peers_bias_act(case, dtype):
    with emulated("bias_act", seed=3):
        check_case(case, "native", dtype)
