from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    with suppress(ValueError):  # the benchmarks have it too
        parser.addoption("--peers", type=Path, default=None, metavar="DIR", help="folder with the peers' checkouts")


@pytest.fixture(scope="session")
def peers(request: pytest.FixtureRequest) -> Path:
    """The folder with the peers' checkouts; the test is skipped without one."""
    folder = request.config.getoption("--peers")
    if folder is None:
        pytest.skip("needs --peers DIR with their public code")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory) -> Iterator[None]:
    """What the tests keep between calls is theirs alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAGC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _few_blocks() -> Iterator[None]:
    """Triton's interpreter takes milliseconds per block, however large the block is."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("TRITON_INTERPRET") == "1":
            patch.setattr("cagc_kernels.triton.upfirdn2d.BLOCK", 4096)
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
