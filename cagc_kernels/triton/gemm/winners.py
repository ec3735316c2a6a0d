"""Tiles that were fastest in timings, on disk: the nearest to this machine is used, after a check of its output.

A file of winners names the environment in which they were timed: device, architecture, driver, versions of torch,
triton and cagc. Files are searched in this order: same environment; same device; same architecture. Among equals, the
user's folder precedes the files of the package. A winner that was not timed in this environment by this user is
compared with the default tile before it is used, and then stored in the user's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from ...environment import cache_folder, cuda_driver, versions
from ...names import slug
from ...tolerances import TOLERANCES, deviation
from .configs import HALF, Config, Problem, default, timed

SHIPPED = Path(__file__).parent.with_name("configs")
MOST_BYTES = 2**24
# Tiles add in different orders and so differ by rounding; one that differs by more than this many tolerances is wrong.
FACTOR = 16
SAME, SAME_DEVICE, SAME_ARCHITECTURE = range(3)

Environment = Mapping[str, object]
Output = Callable[[Config], torch.Tensor]


class Table(NamedTuple):
    """The winners of one file, by :attr:`.Problem.key`; ``rank`` is how near its environment is to this one."""

    rank: int
    is_users: bool
    path: Path
    winners: dict[str, Config]

    def of(self, p: Problem) -> Config | None:
        """Return the winner of ``p``; for bfloat16 also that of float16, which has the same bytes and operations."""
        keys = [p.key, p._replace(dtype="float16").key] if p.dtype == "bfloat16" else [p.key]
        found = next((self.winners[key] for key in keys if key in self.winners), None)
        return found if found is not None and found.mode in p.modes else None


def folder() -> Path:
    """Return the user's folder of winners: ``CAGC_TRITON_CONFIGS``, or ``triton-configs`` in the folder of caches."""
    return Path(os.environ.get("CAGC_TRITON_CONFIGS") or cache_folder() / "triton-configs")


@cache
def environment(device: str, arch: int) -> Environment:
    """Return what the winners of a GPU of this name and compute capability depend on."""
    return {"device": device, "architecture": arch, "driver": cuda_driver(), **versions()}


def users_file(device: str, arch: int) -> Path:
    """Return the file in the user's folder for winners of this environment."""
    digest = hashlib.sha256(json.dumps(environment(device, arch), sort_keys=True).encode()).hexdigest()[:8]
    return folder() / f"{slug(device)}-{digest}.json"


def _rank(theirs: Environment, ours: Environment) -> int | None:
    if theirs == ours:
        return SAME
    for rank, key in ((SAME_DEVICE, "device"), (SAME_ARCHITECTURE, "architecture")):
        if theirs.get(key) is not None and theirs.get(key) == ours[key]:
            return rank
    return None


def read(path: Path) -> tuple[Environment, dict[str, dict[str, object]]]:
    """Return the environment and the entries of a file; both empty where it is absent or damaged."""
    try:
        with path.open(encoding="utf-8") as file:
            document = json.loads(file.read(MOST_BYTES))
        found, entries = document["environment"], document["winners"]
        for entry in entries.values():
            _config(entry)
        return (found, entries) if isinstance(found, dict) else ({}, {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, {}


def _config(entry: dict[str, object]) -> Config:
    config = Config(**entry["config"])
    if any(not isinstance(value, int) or not 0 <= value <= 1024 for value in config):
        raise ValueError(f"config: got {config}, expected integers up to 1024")
    return config


@cache
def tables(device: str, arch: int) -> tuple[Table, ...]:
    """Return the winners for a device, the nearest first; cached."""
    ours, found = environment(device, arch), []
    for place in (folder(), SHIPPED):
        for path in sorted(place.glob("*.json")):
            theirs, entries = read(path)
            if (rank := _rank(theirs, ours)) is not None:
                winners = {key: _config(entry) for key, entry in entries.items()}
                found.append(Table(rank, place != SHIPPED, path, winners))
    return tuple(sorted(found, key=lambda table: (table.rank, not table.is_users)))


def keep(p: Problem, device: str, entry: dict[str, object], path: Path | None = None) -> None:
    """Add the winner of ``p`` to ``path``, by default the user's file; what is of another environment is replaced.

    The whole file is written, or the one before it stays. Raises OSError where it cannot be written.
    """
    path, ours = path or users_file(device, p.arch), environment(device, p.arch)
    theirs, entries = read(path)
    entries = {**(entries if theirs == ours else {}), p.key: entry}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps({"environment": ours, "winners": entries}, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


_settled: dict[tuple[str, Problem], Config] = {}


def forget() -> None:
    """Read the files again when the next problem comes."""
    tables.cache_clear()
    _settled.clear()


def winner(p: Problem, device: str | None) -> Config | None:
    """Return the winner that :func:`choose` took, or would take without a check; None if it takes the default."""
    found = _settled.get((device or "", _class(p)))
    if found is not None:
        return None if found == default(p) else found
    if device is None:
        return None
    return next((c for t in tables(device, p.arch) if t.rank == SAME and t.is_users and (c := t.of(p))), None)


def _class(p: Problem) -> Problem:
    """Problems that share a winner as one."""
    return p._replace(n=1, h=1, w=1 << max(0, p.n * p.h * p.w - 1).bit_length())


def choose(p: Problem, device: str | None, time: Callable[[Config], float], output: Output) -> Config:
    """Return the config for a problem on the GPU named ``device``; None is the interpreter, whose steps cost the same.

    ``time`` returns the milliseconds of a config, which only ``CAGC_TRITON_AUTOTUNE=1`` asks for. ``output`` returns
    its result, by which a winner that was not timed here is checked. Each problem is settled once in a process.
    """
    if device is None:
        return default(p)._replace(bm=64, bn=64, bn2=0, bk=128, split=1)
    place = device, _class(p)
    if place not in _settled:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return winner(p, device) or default(p)  # nothing can be checked or timed within a graph
        _settled[place] = _settle(p, device, time, output)
    return _settled[place]


def _settle(p: Problem, device: str, time: Callable[[Config], float], output: Output) -> Config:
    for table in tables(device, p.arch):
        config = table.of(p)
        if config is None:
            continue
        if table.rank == SAME and table.is_users:
            return config
        reason = fault(p, config, output)
        if reason is None:
            _keep_quietly(p, device, {"config": config._asdict(), "from": table.path.name})
            return config
        warnings.warn(f"{p.key}: the tile of {table.path} is not used: {reason}", stacklevel=3)
    if os.environ.get("CAGC_TRITON_AUTOTUNE") == "1":
        config, entry = fastest(p, dict(timed(p, time)), output)
        _keep_quietly(p, device, entry)
        return config
    return default(p)


def _keep_quietly(p: Problem, device: str, entry: dict[str, object]) -> None:
    with suppress(OSError):  # the next process finds it again
        keep(p, device, entry)


def fastest(p: Problem, times: Mapping[Config, float], output: Output) -> tuple[Config, dict[str, object]]:
    """Return the fastest config whose output is right, and its entry in a file; the default is right by definition."""
    base, wrong = default(p), {}
    for config in sorted(times, key=times.__getitem__):
        reason = None if config == base else fault(p, config, output)
        if reason is None:
            break
        wrong["wrong"] = wrong.get("wrong", 0) + 1
        warnings.warn(f"{p.key}: {config} is not used: {reason}", stacklevel=2)
    entry = {"config": config._asdict(), "ms": round(times[config], 5), "default_ms": round(times[base], 5)}
    return config, {**entry, "candidates": len(times), **wrong}


def fault(p: Problem, config: Config, output: Output) -> str | None:
    """Return how the output of ``config`` differs from that of the default tile; None if it does not."""
    try:
        got, want = output(config).clone(), output(default(p))
        finite = want.isfinite()
        if got.shape != want.shape or not got.isfinite().equal(finite):
            return "its output holds NaN or infinity where that of the default tile does not"
        found = deviation(got[finite], want[finite]).relative
    except Exception as error:  # compilers and drivers raise whatever they like
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    allowed = FACTOR * TOLERANCES[torch.float16 if p.dtype in (*HALF[:1], "tf32") else getattr(torch, p.dtype)].relative
    return None if found <= allowed else f"its output is off by {found:.2g}, expected at most {allowed:.2g}"
