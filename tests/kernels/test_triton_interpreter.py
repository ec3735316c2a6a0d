"""The Triton kernels in Triton's interpreter: the tests of the ops once more, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# Each is the smallest set that reaches every branch of the kernel: the interpreter takes milliseconds per block.
TESTS = {
    "kernels/test_bias_act.py": (
        "test_value_and_gradients",
        "test_gradcheck",
        "test_empty",
        "test_bias_along_any_axis",
        "test_nan_and_infinity_as_the_reference",
        "test_unusual_scalars",
        "test_last_gradients and (shape0 or float32)",
    ),
    "kernels/test_upfirdn2d.py": (
        "test_definition and (float32 or (float16 and None))",
        "test_layouts_and_odd_widths and 37",
        "test_first_and_second_gradient and up5",
        "test_gradient_of_a_sum",
        "test_empty",
    ),
    "peers/test_bias_act.py": ("triton and float64",),
    "peers/test_rosinality_ops.py": ("float64 and not Modulated and not Styled and not ToRGB",),
    "peers/test_upfirdn2d.py": ("triton and float32",),
    # One process for what takes all tests of its files.
    "kernels/test_triton_modulated_conv2d.py kernels/test_triton_synthesis.py "
    "kernels/test_triton_sparse_channel_conv2d.py": ("test_",),
    "peers/test_modulated_conv2d.py": ("triton and float32",),
}


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this is the process of the interpreter")
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.split()[0])
def test_kernels_in_the_interpreter(file):
    if "conv2d" in file and version("triton") < "3.7" and version("numpy") >= "2.4":
        pytest.skip("Triton 3.6 interprets loops whose length it does not know only with NumPy < 2.4")
    files = [str(HERE.parent / name) for name in file.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    run = subprocess.run(
        # The interpreter truncates float32 to bfloat16 where the GPU rounds.
        [*command, "-k", f"({' or '.join(f'({t})' for t in TESTS[file])}) and not bfloat16"],
        env={**os.environ, "TRITON_INTERPRET": "1", "CAGC_BACKEND": "triton"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    if "no peer vectors" in run.stdout:
        pytest.skip("no peer vectors (set CAGC_PEER_VECTORS)")
    assert " passed" in run.stdout and "skipped" not in run.stdout, run.stdout[-2000:]
