from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory) -> Iterator[None]:
    """What the tests keep between calls is theirs alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAGC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
