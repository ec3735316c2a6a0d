"""Writes and reads rows of benchmarks as JSON Lines, one at a time, so that an interrupted run keeps its results.

A row holds what was timed ("benchmark", "implementation", "case", "dtype", "cache"), its work ("shape" of the result,
"bytes" of its operands and results, moved once each, and "macs"), its time ("ms": median, 10th and 90th percentile,
rounds), "ratios" to other implementations of the same rounds, further "figures", and what it depends on ("roofs",
"device", "versions", "allocator", "commit", "command").
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import cagc_kernels
from cagc.latency.measure import machine_info
from cagc_kernels.names import slug

from .harness import allocator, milliseconds, ratios, roofs, spread

SCHEMA = 1
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Row = dict[str, Any]
Times = Mapping[str, list[float]]


def _command(*words: str) -> str | None:
    try:
        run = subprocess.run(words, capture_output=True, text=True, timeout=20, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None if run.returncode == 0 else None


@cache
def commit() -> str | None:
    """Return the short hash of the checkout, with "+" if tracked files other than results and pages were changed.

    None outside a checkout.
    """
    name = _command("git", "rev-parse", "--short=12", "HEAD")
    written = (":!benchmarks/results", ":!docs", ":!*.md")
    changed = name and _command("git", "status", "--porcelain", "--untracked-files=no", "--", ".", *written)
    return f"{name}+" if changed else name


def command() -> str:
    """Return the command line of this process."""
    return shlex.join(["python", *sys.orig_argv[1:]])


@cache
def versions() -> dict[str, str]:
    """Return the versions of packages that affect times; packages that are not installed are left out."""
    found = {"cagc": cagc_kernels.__version__, "python": sys.version.split()[0]}
    for name in ("torch", "triton", "onnxruntime", "openvino"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


def machine(device: str) -> dict[str, Any]:
    """Describe the device for a row: cpu, cores, threads, gpu, driver, system."""
    info = machine_info(device)
    driver = None
    if device == "cuda":
        driver = _command("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {name: info[name] for name in ("cpu", "cores", "threads", "gpu", "system")} | {"driver": driver}


def device_folder(device: str) -> str:
    """Return the folder name of this device's results, such as "cpu-amd-epyc-2-cores" or "nvidia-h100-80gb-hbm3"."""
    info = machine_info(device)
    return slug(info["gpu"] or f"cpu {info['cpu']} {info['cores']} cores")


def make_row(
    benchmark: str, implementation: str, case: Mapping[str, Any], times: Times, device: str, *,
    of: str | None = None, dtype: torch.dtype = torch.float32, shape: Iterable[int], bytes: int, macs: int,
    cache: str = "warm", figures: Mapping[str, Any] | None = None,
) -> Row:  # fmt: skip
    """Build the row of ``times[of or implementation]`` with ratios to the other entries (above 1: faster)."""
    own = of or implementation
    median, p10, p90 = milliseconds(times[own])
    others = {name: spread(ratios(times, name, own)) for name in times if name != own}
    return {
        "schema": SCHEMA,
        "benchmark": benchmark,
        "implementation": implementation,
        "case": dict(case),
        "dtype": str(dtype).removeprefix("torch."),
        "cache": cache,
        "shape": list(shape),
        "bytes": bytes,
        "macs": macs,
        "ms": {"median": median, "p10": p10, "p90": p90, "rounds": len(times[own])},
        "ratios": {name: {"median": m, "p10": low, "p90": high} for name, (m, low, high) in others.items()},
        "figures": dict(figures or {}),
        "roofs": roofs(device, dtype),
        "device": machine(device),
        "allocator": allocator(),
        "versions": versions(),
        "commit": commit(),
        "command": command(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def key(row: Row) -> tuple[str, ...]:
    """Return the key by which two rows are the same measurement; the device is not part of it."""
    case = json.dumps(row["case"], sort_keys=True)
    return row["benchmark"], row["implementation"], case, row["dtype"], row["cache"], row["allocator"]


def append(path: Path, rows: Iterable[Row]) -> None:
    """Append ``rows`` to a file, each with one write, on a new line if the last line is incomplete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        for row in rows:
            file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            file.flush()


@dataclass
class Loaded:
    """Rows of a file, and the numbers of skipped lines: incomplete ones, and those of other versions."""

    rows: list[Row] = field(default_factory=list)
    torn: int = 0
    other_version: int = 0

    def latest(self) -> dict[tuple[str, ...], Row]:
        """Return the last row of each measurement."""
        return {key(row): row for row in self.rows}

    def skipped(self) -> str:
        """Describe the skipped lines; an empty string if there are none."""
        counts = ((self.torn, "torn"), (self.other_version, "of another version"))
        return ", ".join(f"{n} line{'s' * (n > 1)} {what}" for n, what in counts if n)


_NEEDED = {"benchmark", "implementation", "case", "dtype", "cache", "allocator", "ms", "device"}


def read(*paths: Path) -> Loaded:
    """Read rows of JSON Lines files, in order. Lines that are not a row, or of another version, are counted as skipped.

    Raises OSError if a file cannot be read.
    """
    loaded = Loaded()
    for path in paths:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                loaded.torn += 1
                continue
            if not isinstance(row, dict) or row.get("schema") != SCHEMA:
                loaded.other_version += 1
            elif not _NEEDED <= set(row):
                loaded.torn += 1
            else:
                loaded.rows.append(row)
    return loaded
