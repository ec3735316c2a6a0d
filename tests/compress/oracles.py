"""Libraries with which results are compared."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest


def oracle(name: str) -> ModuleType:
    """The module ``name``; the test is skipped where it cannot be imported.

    torchmetrics imports torchvision and torch-fidelity where they are installed, and fails with RuntimeError where
    torchvision was built for another PyTorch.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name}: {error}")
