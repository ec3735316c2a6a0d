"""The entry point of the command ``cagc``, outside the package so that an interrupt while PyTorch loads is caught."""

import sys


def main() -> None:
    """Run :func:`cagc.cli.main`; an interrupt before it has begun ends with one line and status 130."""
    try:
        from cagc.cli import main as run
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    run()
