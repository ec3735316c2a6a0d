"""filtered_lrelu.cu on the host emulator of tests/csrc, under several orders of threads."""

from __future__ import annotations

import pytest
import torch

from cagc_kernels import backend, filtered_lrelu

from ..csrc import emulated as emulator
from ..csrc.emulated import emulated
from . import test_filtered_lrelu as tests

SKIP = emulator.missing() or backend.refusal("native", "filtered_lrelu")
pytestmark = pytest.mark.skipif(SKIP is not None, reason=str(SKIP))
TARGET = ("native", "cpu")


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("case", tests.CASES)
def test_values(case, dtype):
    with emulated("filtered_lrelu", seed=1) as module:
        tests.test_definition(TARGET, case, dtype)
    assert module.launches == 2


@pytest.mark.parametrize("case", ("config T", "config R", "3 and 2"))
def test_gradients(case):
    with emulated("filtered_lrelu", seed=2) as module:
        tests.test_first_and_second_gradient(TARGET, case)
    assert module.launches >= 3


@pytest.mark.parametrize("layout", tests.LAYOUTS)
def test_layouts(layout):
    with emulated("filtered_lrelu", seed=3):
        tests.test_layouts_and_odd_widths(TARGET, layout, 5)


def test_empty_and_nan():
    with emulated("filtered_lrelu"):
        tests.test_empty(TARGET, (0, 3, 4, 4))
        tests.test_infinity_and_nan_stay_where_they_reach(TARGET)


def test_filters_that_do_not_fit():
    x, f = torch.zeros(1, 1, 4, 4), torch.ones(200, 200)
    with emulated("filtered_lrelu"), pytest.raises(RuntimeError, match="more shared memory than a block has"):
        filtered_lrelu(x, f, f, padding=300, backend="native")
