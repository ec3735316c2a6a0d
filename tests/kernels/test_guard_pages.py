"""No CPU kernel touches memory outside of its buffers, on random shapes; see :mod:`tests.kernels.guarded`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cagc_kernels import native

CALLS = os.environ.get("CAGC_GUARDED_CALLS", "150")


@pytest.mark.skipif(native.REASON is not None, reason=str(native.REASON))
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect as on Linux")
def test_random_shapes_between_guard_pages():
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.guarded", CALLS, "0"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-500:] + run.stderr[-3000:]
