"""Calls and values in hostile and in ordinary pickles."""

from __future__ import annotations

import argparse
import io
import pickle
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch

from cagc.common.errors import CagcError
from cagc.common.inert_pickle import Budget, InertUnpickler
from cagc.common.inert_values import Record, StoredArray


def load(data: bytes) -> object:
    return InertUnpickler(io.BytesIO(data), Budget(len(data))).load()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values(protocol):
    value = {
        "a": [1, -(2**70), 2.5, True, None, b"\xff\x00", "é", (1, (2, "x")), {1, "s"}, frozenset({2})],
        "numpy": (np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("é")),
        "more": (OrderedDict(a=1), Counter("aab"), deque([1, 2]), complex(1, 2), torch.Size([1, 2])),
        ("key", 1): defaultdict(list, {"b": [1]}),
    }
    loaded = load(pickle.dumps(value, protocol=protocol))
    expected = value | {"more": ({"a": 1}, {"a": 2, "b": 1}, [1, 2], complex(1, 2), (1, 2))}
    assert loaded == expected


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", "CF")
def test_arrays(protocol, order):
    for dtype in ("<f4", ">f8", "i2", "?", "u1", ">i4"):
        array = np.asarray(np.arange(6).reshape(2, 3), dtype, order=order)
        loaded = load(pickle.dumps(array, protocol=protocol))
        assert isinstance(loaded, StoredArray)
        np.testing.assert_array_equal(loaded.numpy(), array)


def test_options_are_records():
    loaded = load(pickle.dumps({"args": argparse.Namespace(lr=0.1, out=PurePosixPath("a/b")), "dtype": torch.float32}))
    assert isinstance(loaded["args"], Record) and loaded["args"].state["lr"] == 0.1
    assert loaded["args"].state["out"] in ("a/b", "a\\b")


_DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8K\x00K\x01tR"


@pytest.mark.parametrize(
    "data,message",
    (
        (b"cbuiltins\nexec\n(X\x01\x00\x00\x001tR.", "asks to run builtins.exec, which is refused"),
        (b"(S'echo'\nios\nsystem\n.", "asks to run os.system|takes more values"),
        (b"N" + b"r\xff\xff\xff\x7f" + b"(" * 300 + b".", "nested more than 200"),
        (b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096 + b".", "an integer of 32767 bits"),
        (b"]" + b"2e" * 3 + b".", "damaged|pop from|takes more"),
        (b"}" + b"]K\x01s" + b".", "a dictionary or set with list for a key|damaged"),
        (b"X\x01\x00\x00\x00aQ.", "refers to something outside"),
        (b"\x80\x09N.", "a pickle of protocol 9"),
        (b"\x82\x01.", "a pickle with the step EXT1"),
    ),
)
def test_refusals(data, message):
    with pytest.raises((CagcError, IndexError, ValueError), match=message):
        load(data)


@pytest.mark.parametrize(
    "state",
    (
        b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        b"(K\x03X\x01\x00\x00\x00|X\x01\x00\x00\x00a(X\x01\x00\x00\x00at}K\x08K\x01K\x00tb",
    ),
)
def test_no_object_pointers_are_made_of_bytes(state):
    """A type of objects whose object flag is cleared would make addresses of the bytes of an array."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01K\x01\x85"
    loaded = load(b"\x80\x03" + array + _DTYPE + state + b"\x89C\x08AAAAAAAAtb.")
    with pytest.raises(CagcError, match="array of objects"):
        loaded.numpy()


def test_bytes_cannot_be_multiplied():
    text = b"X" + (10_000).to_bytes(4, "little") + b"a" * 10_000
    again = b"h\x00X\x06\x00\x00\x00latin1\x86R"
    data = b"\x80\x02" + text + b"q\x010c_codecs\nencode\nq\x000(" + (b"h\x00h\x01" + again[2:]) * 100 + b"t."
    with pytest.raises(CagcError, match="far more bytes than it holds"):
        load(data)
