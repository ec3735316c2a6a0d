from __future__ import annotations

import os
from pathlib import Path

import pytest

from cagc.common.errors import CagcError
from cagc.common.reading import MAX_JSON_DEPTH, parse_json, printable, read_json, reading, regular_file


@pytest.mark.parametrize(
    "raised,message",
    (
        (IndexError("pop from\nempty list"), r"plan a\.json: .*damaged.*\(pop from empty list\)"),
        (KeyError(), r"plan a\.json: .*\(KeyError\)"),
        (RecursionError(), r"plan a\.json: .*nested too deeply"),
        (MemoryError(), r"plan a\.json: .*more memory"),
        (FileNotFoundError(2, "No such file", "a.json"), r"plan a\.json: no such file$"),
        (PermissionError(13, "Permission denied", "a.json"), r"plan a\.json: cannot be read \(Permission denied\)"),
        (CagcError("no layers"), r"plan a\.json: no layers$"),
        (CagcError("plan a.json: no layers"), r"^plan a\.json: no layers$"),
    ),
)
def test_every_error_of_a_reader_is_one_line_with_the_file(raised, message):
    with pytest.raises(CagcError, match=message), reading("plan", Path("a.json")):
        raise raised


def test_names_are_printed_on_one_line():
    assert printable(Path("a\nb\x1b[31m.png")) == "a\\nb\\x1b[31m.png"
    assert printable(Path(os.fsdecode(b"\xff.png"))) == "\\xff.png"
    assert printable(Path("é漢.png")) == "é漢.png"


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, kind in ((tmp_path / "fifo", "a FIFO"), (tmp_path, "a folder"), (Path("/dev/zero"), "a device")):
        with pytest.raises(CagcError, match=f"is {kind}, expected a file"):
            regular_file(path)


@pytest.mark.parametrize(
    "content,message",
    (
        ("[" * 1000 + "]" * 1000, "nested more than 64"),
        ('{"a":' * (MAX_JSON_DEPTH + 1) + "1" + "}" * (MAX_JSON_DEPTH + 1), "nested more than 64"),
        ("1" * 400, "an integer of 400 digits, expected at most 19"),
        ("{", "not JSON"),
        (b"\xff", "not JSON"),
    ),
)
def test_json_beyond_the_limits(content, message):
    with pytest.raises(CagcError, match=message):
        parse_json(content)


def test_json_within_the_limits(tmp_path):
    document = {"deep": "[" * 100, "a": [[-1, 2.5e300, None]]}
    (tmp_path / "a.json").write_text('{"deep": "' + "[" * 100 + '", "a": [[-1, 2.5e300, null]]}')
    assert read_json(tmp_path / "a.json") == document
    assert parse_json("[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH)
