"""Checks every kernel against a float64 reference on the user's device: :func:`verify` returns a :class:`Report`."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from math import isfinite

import torch

from .. import backend as _backend
from ..environment import cuda_driver, versions
from ..tolerances import TOLERANCES
from . import program
from .cases import SIZES, Case, cases
from .measure import Check, exact, oracle, verify_case

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}
OPS = (*_backend.OPS, program.OP)


@dataclass(frozen=True)
class Report:
    """The results of :func:`verify`.

    Attributes:
        environment: device, driver and versions.
        checks: one for each case, backend, dtype and order of derivative.
        skipped: reasons why something was not run, by "backend op" or "backend op dtype".
    """

    environment: dict[str, str | None]
    checks: list[Check] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def wrong(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.wrong is not None]

    @property
    def ok(self) -> bool:
        """Whether something was checked and nothing is wrong."""
        return bool(self.checks) and not self.wrong

    def to_dict(self) -> dict[str, object]:
        """Return the report as JSON values; NaN becomes None."""
        checks = [asdict(c) | {"error": c.error if isfinite(c.error) else None} for c in self.checks]
        return {"ok": self.ok, "environment": self.environment, "skipped": self.skipped, "checks": checks}


def environment(device: torch.device) -> dict[str, str | None]:
    """Return what results depend on: the device, its driver, and the versions of torch, triton and cagc."""
    name, driver = platform.processor() or platform.machine(), None
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name, driver = f"{torch.cuda.get_device_name(device)} (sm_{major}{minor})", cuda_driver()
    return {"device": name, "driver": driver, **versions()}


def verify(
    quick: bool = False,
    device: torch.device | str | None = None,
    ops: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    each: Callable[[Check], object] | None = None,
    size: str | None = None,
) -> Report:
    """Check values, gradients and second gradients of every op, backend and dtype against the float64 reference.

    Layers of full and pruned 256-pixel generators, or smaller ones with ``quick``, are computed in each dtype, and by
    plain PyTorch in float64 from the same rounded operands. Errors are compared with :mod:`cagc_kernels.tolerances`,
    times with the measured rates of memory copies and matrix products on the device. A share above 100 % is possible:
    operands that stay in a cache move faster than copies, and the CPU's programs, and PyTorch's convolutions, may use
    Winograd transforms, which multiply less than the convolution that is counted.

    Args:
        quick: use fewer channels and pixels, which takes seconds on a CPU.
        device: by default the first CUDA device, or the CPU if there is none.
        ops: some of :data:`OPS`; all by default.
        backends: some of "reference", "native", "triton"; by default all that run here.
        dtypes: some of "float64", "float32", "float16", "bfloat16"; all by default.
        each: called with each :class:`Check` as soon as it is finished.
        size: "tiny", "quick" or "full" instead of ``quick``; "tiny" is the default in Triton's interpreter.

    Returns:
        A :class:`Report`; its ``ok`` is False if anything is wrong. Errors that a kernel raises are part of the report.

    Raises:
        ValueError: a name is unknown, the device does not exist, or a backend of ``backends`` does not run on it.
    """
    place = _device(device)
    for what, given, known in (
        ("ops", ops, OPS),
        ("backends", backends, _backend.BACKENDS),
        ("dtypes", dtypes, DTYPES),
    ):
        for name in given or ():
            if name not in known:
                raise ValueError(f"{what}: got {name!r}, expected some of {', '.join(known)}")
    if size is not None and size not in SIZES:
        raise ValueError(f"size: got {size!r}, expected one of {', '.join(SIZES)}")
    for name in backends or ():
        if reason := _backend.refusal(name, "bias_act", place.type):
            raise ValueError(f"backends: {name!r} does not run on {place.type}: {reason}")
    interpreted = place.type == "cpu" and _backend.refusal("triton", "bias_act", "cpu") is None
    size = size or ("tiny" if interpreted else "quick" if quick else "full")
    report = Report(environment(place))
    names, kinds = backends or _backend.BACKENDS, [DTYPES[name] for name in dtypes or DTYPES]
    with exact():
        for check in _checks(report.skipped, place, ops or OPS, names, kinds, size):
            report.checks.append(check)
            if each is not None:
                each(check)
    return report


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise ValueError(f"device: got {device!r}, expected a device that PyTorch sees: {error}") from None
    return torch.device("cuda", torch.cuda.current_device()) if place == torch.device("cuda") else place


def _refusal(backend: str, op: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return the reason why a combination is not checked, or None."""
    if op == program.OP:
        reason = program.refused(backend, dtype, device)
    else:
        reason = _backend.refusal(backend, op, device.type)
    if reason is None and backend == "reference" and dtype == torch.float64:
        return "what all others are held against"
    if reason is None and backend == "triton" and device.type == "cpu" and dtype == torch.bfloat16:
        return "Triton's interpreter truncates to bfloat16 where a GPU rounds"
    return reason


def _checks(
    skipped: dict[str, str], device: torch.device, ops: Sequence[str], backends: Sequence[str],
    dtypes: Sequence[torch.dtype], size: str,
) -> Iterator[Check]:  # fmt: skip
    def run(op: str, dtype: torch.dtype) -> list[str]:
        """Return the backends that are checked; the others are added to ``skipped``."""
        found = []
        for name in backends:
            reason = _refusal(name, op, dtype, device)
            if reason is None:
                found.append(name)
            else:
                skipped[f"{name} {op} {str(dtype).removeprefix('torch.')}"] = reason
        return found

    chosen: list[Case] = [case for case in cases(size) if case.op in ops]
    for op, of_op in groupby(chosen, key=lambda case: case.op):
        of_op = list(of_op)
        for dtype in dtypes:
            names = run(op, dtype)
            for case in of_op if names else ():
                expected = oracle(case, dtype, device)
                for name in names:
                    yield from verify_case(case, name, dtype, device, expected, size != "full")
    for dtype in dtypes if program.OP in ops else ():
        for name in run(program.OP, dtype):
            yield from program.verify_program(name, dtype, device, size)
