"""The CUDA sources on the host emulator of tests/csrc against the reference, under several orders of threads."""

from __future__ import annotations

import subprocess

import pytest
import torch

import cagc_kernels
from cagc_kernels import backend, bias_act, upfirdn2d
from cagc_kernels.reference import bias_act as reference
from cagc_kernels.reference.bias_act import ACTIVATIONS
from cagc_kernels.tolerances import TOLERANCES, assert_close

from ..csrc import emulated as emulator
from ..csrc.emulated import emulated
from ..peers import test_modulated_conv2d as peers_modulated_conv2d
from ..peers import test_rosinality_ops
from ..peers.test_bias_act import TOLERANCE, check_case
from ..peers.vectors import cases
from . import test_epilogue
from .test_bias_act import gradients, oracle, tensors, test_last_gradients

SEEDS = (0, 1, 2)
SKIP = emulator.missing() or backend.unavailable("native")
pytestmark = pytest.mark.skipif(SKIP is not None, reason=str(SKIP))


def test_ctest():
    """The C++ programs: planted missing barriers and faults are caught, each kernel agrees with its formula."""
    run = subprocess.run(
        [emulator.tool("ctest"), "--test-dir", str(emulator.build()), "--parallel", "2", "--output-on-failure"],
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


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    "shape,last,seed",
    [((2, 8, 4, 4), False, 1), ((2, 37, 7, 5), False, 2), ((1, 1, 190, 191), False, 3), ((9, 24), False, 0)]
    + [((2, 8, 4, 4), True, 1), ((2, 37, 33, 35), True, 2), ((1, 160, 9, 8), True, 3)],
)
def test_bias_gradient_in_one_pass(shape, last, seed, dtype, monkeypatch):
    with emulated("bias_act", seed) as module:
        test_last_gradients(("native", "cpu"), dtype, shape, last, monkeypatch)
    assert module.launches == 4


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


upfirdn2d_runs = pytest.mark.skipif(
    backend.refusal("native", "upfirdn2d") is not None, reason=str(backend.refusal("native", "upfirdn2d"))
)
# up, down, padding, taps: the specialised forms, then whatever is left over.
RESAMPLING = {
    "same": (1, 1, [2, 1, 2, 1], (4, 4)),
    "up2": (2, 1, [2, 1, 2, 1], (4, 4)),
    "down2": (1, 2, [1, 1, 1, 1], (4, 4)),
    "up2-odd": (2, 1, [1, 2, 3, 0], (4, 4)),
    "separable-up2": (2, 1, [2, 1, 2, 1], (4,)),
    "separable-down2": (1, 2, [1, 1, 1, 1], (4,)),
    "separable-12": (2, 2, [6, 5, 5, 6], (12,)),
    "any": ((2, 3), (3, 1), [-1, 4, 5, -2], (3, 5)),
    "identity": (1, 1, [0, 0, 0, 0], None),
}


def resample_oracle(x, f, *options):
    return upfirdn2d(x.double(), None if f is None else f.double(), *options, backend="reference")


@upfirdn2d_runs
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "slice"))
@pytest.mark.parametrize("form", RESAMPLING)
def test_upfirdn2d(form, layout, dtype):
    up, down, padding, taps = RESAMPLING[form]
    f = None if taps is None else torch.randn(taps)
    options = (up, down, padding, True, 1.7)
    for shape, seed in (((2, 3, 9, 11), 0), ((1, 40, 17, 6), 1), ((1, 2, 35, 67), 2)):
        n, c, h, w = shape
        x = torch.randn(n, c, h + 2, w + 3).to(dtype)[..., 1 : h + 1, 2 : w + 2] if layout == "slice" else None
        x = torch.randn(shape).to(dtype) if x is None else x
        if layout == "channels_last":
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        with emulated("upfirdn2d", seed) as module:
            y = upfirdn2d(x, f, *options, backend="native")
            g = torch.randn_like(y)
            (dx,) = torch.autograd.grad(y, x, g)
        assert module.launches == 2
        wide = x.detach().double().requires_grad_()
        want = resample_oracle(wide, f, *options)
        assert_close(y, want, dtype, factor=4)
        assert_close(dx, torch.autograd.grad(want, wide, g.double())[0], dtype, factor=4)


@upfirdn2d_runs
@pytest.mark.parametrize("form", RESAMPLING)
def test_upfirdn2d_second_gradients(form):
    up, down, padding, taps = RESAMPLING[form]
    f = None if taps is None else torch.randn(taps)
    x = torch.randn(1, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    with emulated("upfirdn2d", seed=1):
        assert torch.autograd.gradgradcheck(lambda x: upfirdn2d(x, f, up, down, padding, backend="native"), (x,))


@upfirdn2d_runs
@pytest.mark.parametrize("shape", ((0, 3, 8, 8), (2, 0, 8, 8), (1, 1, 0, 8)))
def test_upfirdn2d_empty(shape):
    x, f = torch.zeros(shape), torch.ones(4, 4)
    with emulated("upfirdn2d"):
        got = upfirdn2d(x, f, padding=2, backend="native")
    assert got.shape == (*shape[:2], shape[2] + 1, shape[3] + 1) and not got.any()


@upfirdn2d_runs
@pytest.mark.parametrize("dtype", test_rosinality_ops.TOLERANCE, ids=str)
@cases("2", "upfirdn2d", "filter2d", "upsample2d", "downsample2d")
def test_peers_upfirdn2d(case, dtype):
    options = {key: value for key, value in case.options.items() if key not in ("filter_spec", "shape")}
    x = case["x"].to(dtype).requires_grad_()
    with emulated("upfirdn2d", seed=4):
        y = getattr(cagc_kernels, case.op)(x, case["f"] if "f" in case else None, **options, backend="native")
        (dx,) = torch.autograd.grad(y, x, case["dy"].to(dtype))
    for got, want in ((y, case.f64("y")), (dx, case.f64("dx"))):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


@upfirdn2d_runs
@pytest.mark.parametrize("dtype", test_rosinality_ops.TOLERANCE, ids=str)
@cases("3")
def test_peers_rosinality(case, dtype):
    with emulated("upfirdn2d", seed=5), emulated("bias_act", seed=5):
        test_rosinality_ops.test_rosinality(case, dtype)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("filtered", (False, True), ids=("plain", "filtered"))
def test_modulated_conv2d(filtered, dtype, seed):
    with emulated("epilogue", seed) as module:
        test_epilogue.test_value_and_gradients(("native", "cpu"), filtered, "lrelu", 1.5, dtype)
    assert module.launches >= (1 if dtype in (torch.float16, torch.bfloat16) else 3)


@pytest.mark.parametrize("width", (1, 8, 37))
@pytest.mark.parametrize("layout", test_epilogue.LAYOUTS)
def test_modulated_conv2d_layouts_and_widths(layout, width):
    for filtered in (False, True):
        with emulated("epilogue", seed=1):
            test_epilogue.test_layouts_and_odd_widths(("native", "cpu"), filtered, layout, width)


@cases("4", "modulated_conv2d")
def test_peers_modulated_conv2d(case):
    with emulated("epilogue", seed=6), emulated("upfirdn2d", seed=6):
        peers_modulated_conv2d.check_case(case, "native", torch.float32)
