"""Commands run in this process."""

from __future__ import annotations

import pytest

from cagc.cli import main


def run(*args: object) -> None:
    main([str(a) for a in args])


def refused(capsys: pytest.CaptureFixture, *args: object) -> str:
    """The one line that a command prints when it refuses its input."""
    with pytest.raises(SystemExit) as stop:
        run(*args)
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line
