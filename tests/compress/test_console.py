"""What a command shows and how it ends: streams that are closed or gone, brackets in names, odd environments."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cagc.common import console as module
from cagc.common import distributed
from cagc.common.console import command_streams, console, one_line_errors, phase, shown_warnings
from cagc.common.errors import CagcError
from cagc_kernels.environment import cache_folder

ROOT = Path(__file__).resolve().parents[2]
BRACKETS = "a[/x].png [red] :smile:"


def test_text_is_shown_as_it_is(capsys):
    with shown_warnings(), phase(BRACKETS) as track:
        track(BRACKETS)(1, 2)
        warnings.warn(BRACKETS, stacklevel=1)
        console.print(BRACKETS)
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise KeyboardInterrupt(BRACKETS)
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 130
    assert [BRACKETS in line for line in lines] == [True, True, True, False, True]


class _Gone(io.StringIO):
    """A stream whose reader has closed its end."""

    def write(self, text):
        raise BrokenPipeError

    def fileno(self):
        return self.number


def test_work_goes_on_without_standard_error(monkeypatch):
    gone = _Gone()
    gone.number = os.open(os.devnull, os.O_WRONLY)
    for stream in (gone, None):
        monkeypatch.setattr(sys, "stderr", stream)
        with command_streams():
            print("said to nobody", file=sys.stderr)
            sys.stderr.flush()
        assert sys.stderr is stream
    os.close(gone.number)


def test_characters_that_the_locale_lacks_are_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with command_streams():
        print("ψ \udcff")
        stream.flush()
    assert stream.buffer.getvalue() == b"\\u03c8 \\udcff\n"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "x"}, "RANK: got 'x' in the environment, expected an integer of at least 0"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: got '0' in the environment, expected an integer of at least 1"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK: got 2 in the environment, expected less than WORLD_SIZE, 2"),
        ({"WORLD_SIZE": "2"}, "RANK: not set in the environment, while WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "abc"}, "MASTER_PORT: got 'abc'"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "65536"}, "expected at most 65535"),
    ],
)
def test_environment_that_names_no_process(monkeypatch, variables, message):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CagcError, match=message), distributed.process_group("cpu"):
        distributed.launch_rank()


def test_user_without_a_home_has_a_cache(monkeypatch):
    for name in ("CAGC_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder().name == f"cagc-{os.getuid()}"


@pytest.mark.parametrize(
    "start, status",
    [
        ("import cagc_command; cagc_command.main()", 130),
        ("import runpy; sys.argv = ['-m']; runpy.run_module('cagc', run_name='__main__')", -signal.SIGINT),
    ],
)
def test_interrupt_before_the_package_is_loaded_is_one_line(start, status):
    code = (
        "import sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        f"{start}\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (run.returncode, run.stderr) == (status, "interrupted\n")


def test_an_error_names_the_process(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        module.fail("a\nb")
    assert capsys.readouterr().err == "error (rank 1): a b\n"
