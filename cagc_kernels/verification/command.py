"""Checks every kernel against float64 on this machine: ``python -m cagc_kernels.verify [--quick] [--json]``.

Prints a line for each case, backend, dtype and order: the largest error and its limit, the time, and the achieved share
of this device's rate of memory copies or matrix products. Exit status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter

from . import DTYPES, OPS, Check, Report, verify


def line(check: Check) -> str:
    """Format a check as a line of the table."""
    start = f"{check.backend:<10}{check.op:<23}{check.case:<52}{check.dtype:<10}{check.order:<10}"
    if check.milliseconds is None:
        return f"{start}WRONG: {check.wrong}"
    numbers = (
        f"{check.error:8.1e} of {check.limit:7.1e} {check.milliseconds:10.3f} ms {check.share:6.0%} of {check.roof:<7}"
    )
    return start + numbers + ("ok" if check.wrong is None else f"WRONG: {check.wrong}")


def summary(report: Report) -> str:
    """Describe what was not run, with the reasons, and the number of wrong checks."""
    reasons = Counter((key.split()[0], reason) for key, reason in report.skipped.items())
    ops: dict[tuple[str, str], list[str]] = {}
    for key, reason in report.skipped.items():
        name, op, _ = key.split()
        if op not in ops.setdefault((name, reason), []):
            ops[name, reason].append(op)
    lines = [f"not run: {name} ({', '.join(ops[name, reason])}): {reason}" for name, reason in reasons]
    wrong = len(report.wrong)
    lines.append(f"{len(report.checks)} checks, " + (f"{wrong} WRONG" if wrong else "all right"))
    if wrong:
        lines.append("please report this with the output of: python -m cagc_kernels.verify --json")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the checks and print them; return 0 if all are right, 1 if any is wrong, 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m cagc_kernels.verify", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small layers: seconds on a CPU")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    parser.add_argument("--device", help="by default cuda, or cpu where there is none")
    parser.add_argument("--ops", nargs="+", metavar="OP", help=f"some of {', '.join(OPS)}")
    parser.add_argument("--backends", nargs="+", metavar="BACKEND", help="some of reference, native, triton")
    parser.add_argument("--dtypes", nargs="+", metavar="DTYPE", help=f"some of {', '.join(DTYPES)}")
    options = parser.parse_args(arguments)

    def show(check: Check) -> None:
        print(line(check), flush=True)

    try:
        report = verify(
            options.quick, options.device, options.ops, options.backends, options.dtypes, None if options.json else show
        )
    except ValueError as error:
        parser.error(str(error))
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print("\n" + ", ".join(f"{name} {value}" for name, value in report.environment.items() if value))
        print(summary(report))
    return 0 if report.ok else 1
