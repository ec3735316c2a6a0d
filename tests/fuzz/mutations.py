"""Seeded damage to files: of bytes, JSON, pickles, safetensors headers, zip archives and trees of tensors."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import struct
import zipfile
import zlib
from random import Random
from typing import Any

import torch

NUMBERS = (0, 1, -1, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 30_000, 60_000, 10**7)


def damaged_bytes(data: bytes, rng: Random) -> bytes:
    """Flips, truncation, zeros, extreme numbers, a part twice, or two parts changed over."""
    if not data:
        return rng.randbytes(8)
    kind = rng.randrange(7)
    place, length = rng.randrange(len(data)), rng.randrange(1, 64)
    if kind == 0:
        flipped = bytearray(data)
        for _ in range(rng.choice((1, 1, 4, 64))):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if kind == 1:
        return data[:place]
    if kind == 2:
        return data[:place] + bytes(length) + data[place + length :]
    if kind == 3:
        number = struct.pack(rng.choice(("<I", ">I", "<Q", "<H")), rng.choice((0, 1, 2**15, 2**16 - 1)))
        return data[:place] + number + data[place + len(number) :]
    if kind == 4:
        return data[:place] + data[place : place + length] * rng.choice((2, 1000)) + data[place:]
    if kind == 5:
        return data[:place] + rng.randbytes(length) + data[place + length :]
    return data[place:] + data[:place]


def damaged_json(text: bytes, rng: Random) -> bytes:
    """One value of a JSON document replaced by one of another type, size or depth; or a key dropped or renamed."""
    document = json.loads(text)
    nodes: list[tuple[Any, Any]] = []

    def visit(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            nodes.append((value, key))
            visit(value[key])

    visit(document)
    if not nodes:
        return rng.choice((b"null", b"[]", b"{", b'{"x": 1}', text + text))
    parent, key = rng.choice(nodes)
    marker = "\0replaced\0"
    kind = rng.randrange(12)
    if kind == 0 and isinstance(parent, dict):
        del parent[key]
        return json.dumps(document).encode()
    if kind == 1 and isinstance(parent, dict):
        parent[rng.choice(("", "x", "style.1000000000", "../a", "\ud800", "b" * 10_000))] = parent.pop(key)
        return json.dumps(document).encode()
    if kind == 2:
        document = rng.choice(([document], None, 1, "x", []))
        return json.dumps(document).encode()
    parent[key] = marker
    replacement = rng.choice((
        "null", "[]", "{}", "true", '"x"', "1.5", "-1", "0", "NaN", "Infinity", "1e999", "9" * 400, "9" * 19, "[[[1]]]",
        "[" * 1000 + "]" * 1000, '{"a":' * 1000 + "1" + "}" * 1000, "60000", "10000000",
        '["x", null]', '"' + "y" * 99 + '"',
    ))  # fmt: skip
    return json.dumps(document).replace(json.dumps(marker), replacement).encode()


def damaged_safetensors(data: bytes, rng: Random) -> bytes:
    """A header that lies, within the file's framing; a document within its metadata damaged likewise."""
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size]
    document = json.loads(header)
    inner = [name for name, text in document.get("__metadata__", {}).items() if text.startswith('{"')]  # with entries
    if inner and rng.random() < 0.5:
        name = rng.choice(inner)
        text = damaged_json(document["__metadata__"][name].encode(), rng)
        document["__metadata__"][name] = text.decode("utf-8", "replace")
        header = json.dumps(document).encode()
    else:
        header = damaged_json(header, rng)
    claimed = rng.choice((len(header),) * 9 + NUMBERS[-5:]) % 2**64
    return struct.pack("<Q", claimed) + header + data[8 + size :]


def damaged_pickle(data: bytes, rng: Random) -> bytes:
    """Opcodes replaced, repeated or put in: claims of size, calls, states, nesting, and names of classes."""
    steps = [(code, argument, place) for code, argument, place in pickletools.genops(data)]
    index = rng.randrange(len(steps))
    place = steps[index][2]
    end = steps[index + 1][2] if index + 1 < len(steps) else len(data)
    kind = rng.randrange(6)
    if kind == 0:
        return data[:place] + data[end:]
    if kind == 1:
        return data[:place] + data[place:end] * rng.choice((2, 50)) + data[end:]
    if kind == 2:  # one step in the place of another
        _, _, other = rng.choice(steps[:-1])
        following = next(p for _, _, p in steps if p > other)
        return data[:place] + data[other:following] + data[end:]
    if kind == 3:  # a name instead of another name, a number instead of another number
        names = [(a, p) for code, a, p in steps if code.name == "GLOBAL"]
        if names:
            asked, at = rng.choice(names)
            module, name = rng.choice(_NAMES)
            old = b"c" + asked.replace(" ", "\n").encode() + b"\n"
            return data[:at] + f"c{module}\n{name}\n".encode() + data[at + len(old) :]
    if kind == 4:
        numbers = [(p, code.name) for code, a, p in steps if code.name in ("BININT", "BININT1", "BININT2")]
        if numbers:
            at, name = rng.choice(numbers)
            width = {"BININT": 5, "BININT1": 2, "BININT2": 3}[name]
            big = rng.choice(NUMBERS)
            return data[:at] + b"\x8a\x09" + big.to_bytes(9, "little", signed=True) + data[at + width :]
    return data[:place] + rng.choice(_SNIPPETS) + data[place:]


_NAMES = (
    ("builtins", "exec"), ("os", "system"), ("numpy", "dtype"), ("numpy", "ndarray"), ("builtins", "set"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "scalar"), ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch.storage", "_load_from_bytes"), ("_codecs", "encode"),
    ("torch._utils", "_rebuild_sparse_tensor"), ("argparse", "Namespace"), ("torch", "FloatStorage"),
)  # fmt: skip
_SNIPPETS = (
    b"r\xff\xff\xff\x7f", b"]" * 3000, b"(" * 3000, b"2" * 500, b"b", b"R", b"\x81", b"a", b"s", b"u", b"e", b"0", b"1",
    b"cbuiltins\nexec\n(X\x01\x00\x00\x001tR",
    b"cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00|NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb",
    b"\x8e" + b"\xff" * 8, b"B\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"\x8a\xff" + b"\x7f" * 255,
    b"\x8b\x00\x00\x01\x00" + b"\x7f" * 65536, b"\x97", b"\x82\x01", b"N", b")", b"}", b"Q", b"\x95" + b"\xff" * 8,
    b"h\xff", b"j\xff\xff\xff\xff", b"\x94" * 100, b"]q\x00h\x00a" + b"h\x00h\x00\x86q\x00" * 2000,
)  # fmt: skip


def damaged_zip(data: bytes, rng: Random, member: Any = damaged_bytes) -> bytes:
    """A zip whose members are damaged, dropped, doubled or compressed, or whose headers lie."""
    if rng.random() < 0.4:
        return damaged_bytes(data, rng)
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(written, "w") as target:
        names = source.namelist()
        victim, kind = rng.choice(names), rng.randrange(6)
        for name in names:
            content = source.read(name)
            if name == victim and kind == 0:
                continue
            if name == victim and kind in (1, 2):
                content = member(content, rng)
            if name == victim and kind == 3:
                content = bytes(rng.choice((10**6, 10**8)))
            pack = zipfile.ZIP_DEFLATED if kind == 3 else zipfile.ZIP_STORED
            target.writestr(zipfile.ZipInfo(name), content, compress_type=pack)
    result = bytearray(written.getvalue())
    if kind in (4, 5):  # versions, flags, sizes and offsets of a member in the directory
        at = result.rfind(b"PK\x01\x02") if kind == 4 else result.find(b"PK\x03\x04")
        field = at + rng.choice((4, 6, 8, 10, 16, 20, 24, 28, 42))
        result[field : field + 4] = struct.pack("<I", rng.choice(NUMBERS) % 2**32)
    return bytes(result)


def damaged_torch_zip(data: bytes, rng: Random) -> bytes:
    """A torch file whose structure is damaged as a pickle, or any member of the zip."""
    return damaged_zip(data, rng, lambda content, r: damaged_pickle(content, r) if content[:1] == b"\x80" else content)


class _Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def damaged_tree(document: Any, rng: Random) -> Any:
    """A tree of tensors, as torch.save takes it, with an entry of another kind, name, size or depth."""
    places: list[tuple[dict[Any, Any], Any]] = []

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            for key in value:
                places.append((value, key))
                visit(value[key])

    document = _copied(document)
    visit(document)
    parent, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        other = f"{str(key).rpartition('.')[0]}.1000000000"
        parent[rng.choice((7, None, (1, 2), "", "style.1000000000.weight", "module." + str(key), other))] = parent.pop(
            key
        )
    else:
        value = parent[key]
        size = value.shape if isinstance(value, torch.Tensor) else (2,)
        parent[key] = rng.choice((
            lambda: torch.zeros([]), lambda: torch.zeros(0), lambda: torch.zeros(size).to("meta"), lambda: {"a": value},
            lambda: torch.zeros(size).to_sparse(), lambda: torch.zeros(1).expand(30_000, 30_000), lambda: None,
            lambda: torch.full(size, float("nan")), lambda: torch.zeros(size, dtype=torch.complex64), _Payload,
            lambda: torch.zeros(size, dtype=torch.int64), lambda: torch.zeros(60_000, 3), lambda: "text",
            lambda: [value],
            lambda: torch.quantize_per_tensor(torch.zeros(size), 0.1, 0, torch.qint8), lambda: 10**400, lambda: 2**70,
            lambda: _nested(40), lambda: torch.zeros(1, *size), lambda: torch.zeros([1] * 20), lambda: _doubled(24),
        ))()  # fmt: skip
    return document


def _copied(value: Any) -> Any:
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def _nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"state_dict": value}
    return value


def _doubled(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"weight": torch.zeros(1)}
    for _ in range(levels):
        value = {"a": value, "b": value}
    return value


def pickled(document: Any, protocol: int) -> bytes:
    """``document`` as a pickle alone."""
    return pickle.dumps(document, protocol=protocol)


def damaged_flat(data: bytes, rng: Random) -> bytes:
    """A flat student file whose header or table lies, with the length and the checksum that its header should have."""
    damaged = bytearray(data)
    entries = int.from_bytes(data[24:28], "little")
    for _ in range(rng.choice((1, 1, 2, 5))):
        kind = rng.randrange(4)
        if kind == 0:  # numbers of the header or the table
            place = 4 * rng.randrange(4, (64 + 96 * entries) // 4)
            damaged[place : place + 4] = struct.pack("<I", rng.choice((*NUMBERS[:9], 3, 4, 5)) & 0xFFFFFFFF)
        elif kind == 1:  # two entries changed over, without their names
            a, b = (64 + 96 * rng.randrange(entries) + 48 for _ in range(2))
            damaged[a : a + 48], damaged[b : b + 48] = damaged[b : b + 48], damaged[a : a + 48]
        elif kind == 2:  # integers of the network: the first arrays
            place = 64 + 96 * entries + 4 * rng.randrange(40)
            damaged[place : place + 4] = struct.pack("<i", rng.choice((-1, 0, 1, 2, 3, 8, 64, 2**16, 2**30)))
        else:
            damaged = bytearray(damaged_bytes(bytes(damaged), rng))
    rest = struct.pack("<Q", len(damaged)) + bytes(damaged[24:])
    return bytes(damaged[:12]) + struct.pack("<I", zlib.crc32(rest)) + rest
