"""The Triton kernels in Triton's interpreter: the tests of the ops once more, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS_FOLDER = Path(__file__).resolve().parents[1]
# Each is the smallest set that reaches every branch of the kernel: the interpreter takes milliseconds per block.
TESTS = {
    "kernels": {
        "test_bias_act.py": (
            "test_value_and_gradients",
            "test_gradcheck and (lrelu or swish)",  # one derivative from the output, one from the input
            "test_empty",
            "test_bias_along_any_axis",
            "test_nan_and_infinity_as_the_reference",
            "test_unusual_scalars",
            "test_last_gradients and (shape0 or float32)",
        ),
        "test_upfirdn2d.py": (
            "test_definition and (float32 or (float16 and None))",
            "test_layouts_and_odd_widths and 37",
            "test_first_and_second_gradient and up5",
            "test_gradient_of_a_sum",
            "test_empty",
        ),
        "test_filtered_lrelu.py": (
            "test_definition and float32",
            "test_layouts_and_odd_widths and 5 and not slice",
            "test_first_and_second_gradient and 3",
            "test_infinity",
            "test_empty",
        ),
        "test_first_use.py": ("test_triton_in_its_interpreter",),
    },
    "peers": {
        "test_bias_act.py": ("triton and float64",),
        "test_rosinality_ops.py": ("float64 and not Modulated and not Styled and not ToRGB",),
        "test_upfirdn2d.py": ("triton and float32",),
    },
    "kernels of convolutions": {
        "test_triton_modulated_conv2d.py": ("test_",),
        "test_triton_synthesis.py": ("test_",),
        "test_triton_sparse_channel_conv2d.py": ("test_",),
    },
    "peers of convolutions": {"test_modulated_conv2d.py": ("triton and float32",)},
}


def interpret(folder: str, files: dict[str, tuple[str, ...]]) -> subprocess.CompletedProcess[str]:
    chosen = " or ".join(f"({file} and ({test}))" for file, tests in files.items() for test in tests)
    paths = [str(TESTS_FOLDER / folder / file) for file in files]
    return subprocess.run(
        # The interpreter truncates float32 to bfloat16 where the GPU rounds.
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths, "-k", f"({chosen}) and not bfloat16"],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        | {"TRITON_INTERPRET": "1", "CAGC_BACKEND": "triton", "OMP_NUM_THREADS": "1"},
        cwd=TESTS_FOLDER.parent,
        capture_output=True,
        text=True,
    )


def broken(name: str) -> bool:
    triton, numpy = (tuple(map(int, version(package).split(".")[:2])) for package in ("triton", "numpy"))
    return "convolutions" in name and triton < (3, 7) and numpy >= (2, 4)


@pytest.fixture(scope="module")
def runs(request) -> dict[str, Future]:
    """Start the groups that will be tested, two processes of one thread at a time."""
    names = {item.callspec.params["name"] for item in request.session.items if item.module is request.module}
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(interpret, name.split()[0], TESTS[name])
            for name in TESTS
            if name in names and not broken(name)
        }


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this is the process of the interpreter")
@pytest.mark.parametrize("name", TESTS)
def test_kernels_in_the_interpreter(name, runs):
    if broken(name):
        pytest.skip("Triton 3.6 interprets loops whose length it does not know only with NumPy < 2.4")
    run = runs[name].result()
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    if "no peer vectors" in run.stdout:
        pytest.skip("no peer vectors (set CAGC_PEER_VECTORS)")
    assert " passed" in run.stdout and "skipped" not in run.stdout, run.stdout[-2000:]
