"""Runs an unedited script with the ops in place: ``python -m cagc_kernels.compat script.py args…``, or ``-m name``."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from pathlib import Path

import torch

from .. import __version__
from . import install, peers

USAGE = "usage: python -m cagc_kernels.compat script.py [args …]  (or -m module [args …], or --peers DIR [options])"


def table(arguments: list[str]) -> int:
    """Print the table of code bases row by row; return 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m cagc_kernels.compat", description=peers.__doc__)
    parser.add_argument("--peers", metavar="DIR", required=True, help="a folder of checkouts")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the rows to this JSON Lines file, anew")
    parser.add_argument("--speed", action="store_true", help="time both too; on a quiet machine")
    parser.add_argument("--timeout", type=float, default=peers.TIMEOUT, help="seconds that a process may take")
    options = parser.parse_args(arguments)
    if not os.path.isdir(options.peers):
        print(f"--peers: got {options.peers!r}, expected one folder of checkouts", file=sys.stderr)
        return 2
    found = []
    print(peers.heading(), flush=True)
    for row in peers.rows(options.peers, options.timeout, options.speed):
        found.append({**row, "torch": torch.__version__, "cagc": __version__})
        print(peers.line(row), flush=True)
        if options.out is not None:
            options.out.write_text("".join(f"{json.dumps(entry)}\n" for entry in found))
    return 0


def main(arguments: list[str]) -> int:
    """Run the script or module at the start of ``arguments`` as ``__main__``; return 2 if there is none."""
    as_module = arguments[:1] == ["-m"]
    target, *rest = arguments[as_module:] or [""]
    if not target or target in ("-h", "--help"):
        print(USAGE, file=sys.stdout if target else sys.stderr)
        return 0 if target else 2
    if target == "--peers":
        return table(arguments)
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
