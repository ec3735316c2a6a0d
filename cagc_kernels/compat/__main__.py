"""Runs an unedited script with the ops in place: ``python -m cagc_kernels.compat script.py args…``, or ``-m name``."""

from __future__ import annotations

import os
import runpy
import sys

from . import install
from .peers import table

USAGE = "usage: python -m cagc_kernels.compat script.py [args …]  (or -m module [args …], or --peers DIR)"


def main(arguments: list[str]) -> int:
    """Run the script or module that ``arguments`` begin with as ``__main__``; 2 if they name none."""
    as_module = arguments[:1] == ["-m"]
    target, *rest = arguments[as_module:] or [""]
    if not target or target in ("-h", "--help"):
        print(USAGE, file=sys.stdout if target else sys.stderr)
        return 0 if target else 2
    if target == "--peers":
        if len(rest) != 1 or not os.path.isdir(rest[0]):
            print(f"--peers: got {' '.join(rest)!r}, expected one folder of checkouts", file=sys.stderr)
            return 2
        print(table(rest[0]))
        return 0
    if not as_module and not os.path.exists(target):
        print(f"script: got {target!r}, expected a file that exists", file=sys.stderr)
        return 2
    install()
    sys.argv = [target, *rest]
    if as_module:
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(target))
        runpy.run_path(target, run_name="__main__")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
