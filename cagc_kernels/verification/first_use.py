"""Verifies kernels at the first use of an op on a GPU, caches the verdicts, and excludes wrong kernels.

``CAGC_VERIFY``: 1, the default, checks kernels without a cached verdict for this device, driver and versions;
``always`` checks once in every process; 0 never checks.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch

from .. import backend as _backend
from ..environment import cache_folder
from . import environment, verify
from .measure import one_line

MODES = ("0", "1", "always")
# Without float64, which only tests of gradients use and most GPUs compute slowly.
DTYPES = ("float32", "float16", "bfloat16")
MOST_BYTES = 2**20


def mode() -> str:
    """Return ``CAGC_VERIFY``; raises ValueError unless it is 0, 1 or always."""
    found = os.environ.get("CAGC_VERIFY") or "1"
    if found not in MODES:
        raise ValueError(f"CAGC_VERIFY: got {found!r}, expected one of {', '.join(MODES)}")
    return found


def settle(op: str, preferred: str | None, device: torch.device, kept: bool) -> str:
    """Return the first backend for ``op`` whose kernels are correct on ``device``; "reference" if there is none.

    Kernels that are wrong, raise or do not compile are excluded from then on, with one warning, and
    :func:`cagc_kernels.explain` reports it. ``kept``: use the cached verdicts of earlier processes.
    """
    name = _backend.select(op, None, preferred, device.type)
    verdicts = Verdicts(device)
    while name != "reference":
        try:
            fault = verdicts.of(name, op) if kept and verdicts.has(name, op) else _checked(name, op, device)
        except Exception as error:  # for example out of memory, which is no verdict on the kernels
            warnings.warn(f"{op}: the {name} kernels are used unchecked: {one_line(error)}", stacklevel=2)
            return name
        verdicts.keep(name, op, fault)
        if fault is None:
            return name
        _backend.distrust(name, op, device.type, fault)
        name, wrong = _backend.select(op, None, preferred, device.type), name
        warnings.warn(
            f"{op}: the {wrong} kernels are passed over on {verdicts.environment['device']} and {name} runs: {fault}. "
            "Please report it with the output of: python -m cagc_kernels.verify --json",
            stacklevel=2,
        )
    return name


def _checked(name: str, op: str, device: torch.device) -> str | None:
    """Return what is wrong with the kernels of backend ``name``, or None.

    The check runs in a thread of its own, without the caller's modes: autocast, inference, fake tensors, torch.func.
    """

    def check() -> str | None:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        wrong = verify(True, device, [op], [name], DTYPES).wrong
        return None if not wrong else f"{wrong[0].case}, {wrong[0].dtype}, {wrong[0].order}: {wrong[0].wrong}"

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(check).result()


class Verdicts:
    """The verdicts for one device, driver, torch, triton and cagc, in a file in the cache folder.

    A file that is damaged or of another environment is ignored and replaced; if it cannot be written, the next process
    checks again.
    """

    def __init__(self, device: torch.device) -> None:
        self.environment = environment(device)
        digest = hashlib.sha256(json.dumps(self.environment, sort_keys=True).encode()).hexdigest()[:16]
        self.path = cache_folder() / f"verdicts-{digest}.json"
        self._faults = self._read()

    def _read(self) -> dict[str, str | None]:
        try:
            with self.path.open(encoding="utf-8") as file:
                document = json.loads(file.read(MOST_BYTES))
            faults = document["faults"]
            fits = document["environment"] == self.environment and isinstance(faults, dict)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}
        return {key: fault for key, fault in faults.items() if fault is None or isinstance(fault, str)} if fits else {}

    def has(self, name: str, op: str) -> bool:
        """Whether the kernels of backend ``name`` for ``op`` have a verdict."""
        return f"{name} {op}" in self._faults

    def of(self, name: str, op: str) -> str | None:
        """Return the fault of these kernels, or None if they are correct."""
        return self._faults[f"{name} {op}"]

    def keep(self, name: str, op: str, fault: str | None) -> None:
        """Write a verdict, unless the file has one."""
        if self.has(name, op) and self.of(name, op) == fault:
            return
        self._faults[f"{name} {op}"] = fault
        document = {"environment": self.environment, "faults": self._faults}
        scratch = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(document, indent=2), encoding="utf-8")
            scratch.replace(self.path)
        except OSError:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
