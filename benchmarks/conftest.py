"""Options of ``pytest benchmarks/``, and the session fixture of every benchmark."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch

from .harness import default_device, keep_memory, pin_threads
from .results import RESULTS, device_folder
from .session import CLOCK, Session


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cagc benchmarks")
    group.addoption("--quick", action="store_true", help="small cases and few rounds, to check that all run")
    with suppress(ValueError):  # the tests have it too
        group.addoption("--peers", type=Path, default=None, metavar="DIR", help="folder with the peers' checkouts")
    local, about = RESULTS / "local", "folder for JSON Lines, one per benchmark"
    group.addoption("--results", type=Path, default=local, metavar="DIR", help=about)
    group.addoption("--rounds", type=int, default=None, help="timed rounds of each case (default: the case's own)")
    group.addoption("--threads", type=int, default=None, help="threads of the CPU kernels (default: all usable cores)")
    group.addoption("--only", default="", help="implementations to run, with commas (default: all)")
    group.addoption("--fresh", action="store_true", help="leave the allocator unchanged")


def pytest_configure(config: pytest.Config) -> None:
    peers = config.getoption("--peers", None)
    if peers is not None and not peers.is_dir():
        raise pytest.UsageError(f"--peers: got {peers}, expected a folder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=CLOCK))


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Session:
    option = request.config.getoption
    pin_threads(option("--threads"))
    if not option("--fresh"):
        keep_memory()
    torch.manual_seed(0)
    only = tuple(name.strip() for name in option("--only").split(",") if name.strip())
    device = default_device()
    return Session(option("--quick"), option("--peers"), option("--results"), option("--rounds"), only, device)


def pytest_report_header(config: pytest.Config) -> str:
    return f"results: {config.getoption('--results')} (committed ones: results/{device_folder(default_device())})"
