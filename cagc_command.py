"""The entry point of the command ``cagc``, outside the package so that an interrupt while PyTorch loads is caught."""

import sys


def main() -> None:
    """Run :func:`cagc.cli.main`; an interrupt before it has begun ends with one line and status 130."""
    try:
        from cagc.cli import main as run
        from cagc.common.allocator import keep_memory
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    keep_memory()
    run()


def _interrupted_in_one_line(kind: type, error: BaseException, trace: object) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # `python -m cagc` loads the package before it runs any statement that could catch this
    sys.excepthook = _interrupted_in_one_line
