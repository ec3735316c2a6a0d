from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


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
