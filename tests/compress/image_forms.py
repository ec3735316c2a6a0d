"""Image files in every form that their formats allow, with the samples that they hold, and folders of images."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIDE = 16
Form = tuple[str, bytes, np.ndarray, np.ndarray]  # name, file, colours [H, W, 3] and alpha [H, W] in [0, 1]


def write_set(folder, count, size=16):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{i:03d}.png")
    return folder


def png(samples: np.ndarray, depth: int, colour: int, **chunks: bytes) -> bytes:
    """A PNG file of samples [H, W, C] below 2^depth; `chunks` by name, such as tRNS."""
    height, width, _ = samples.shape
    rows = samples.reshape(height, -1)
    if depth < 8:
        bits = rows[..., None] >> np.arange(depth - 1, -1, -1) & 1
        packed = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        packed = rows.astype(np.uint8 if depth == 8 else ">u2").view(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    scanlines = b"".join(b"\0" + row.tobytes() for row in packed)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(scanlines), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name.encode() + data + struct.pack(">I", zlib.crc32(name.encode() + data))
        for name, data in parts.items()
    )


def _samples(depth: int, channels: int) -> np.ndarray:
    """Random samples with a patch of the largest, one of zeros and one of a single other value."""
    values = np.random.default_rng(depth * channels).integers(0, 2**depth, (SIDE, SIDE, channels))
    values[:4, :4], values[4:8, :4] = 2**depth - 1, 0
    values[8:12, :4] = values[9, 9]
    values[8, 0] ^= 1  # in 16 bits another colour, though its high bytes are those of its neighbours
    return values


def png_forms() -> Iterator[Form]:
    """Grey, colour and alpha of every depth, each with and without a transparent colour, and palettes."""
    solid = np.ones((SIDE, SIDE))
    for colour, channels, depths in ((0, 1, (1, 2, 4, 8, 16)), (2, 3, (8, 16))):
        for depth in depths:
            values, top = _samples(depth, channels), 2**depth - 1
            shown = np.broadcast_to(values / top, (SIDE, SIDE, 3))
            name = f"{'grey' if channels == 1 else 'rgb'}{depth}"
            yield name, png(values, depth, colour), shown, solid
            for key in ([0] * channels, [top] * channels, list(values[9, 9])):
                alpha = (values != np.array(key)).any(-1) * 1.0
                chunk = struct.pack(f">{channels}H", *key)
                yield f"{name} but {key}", png(values, depth, colour, tRNS=chunk), shown, alpha
    for depth in (8, 16):
        for colour, channels in ((4, 2), (6, 4)):
            values = _samples(depth, channels)
            shown = np.broadcast_to(values[..., :-1] / (2**depth - 1), (SIDE, SIDE, 3))
            yield f"{channels} channels of {depth}", png(values, depth, colour), shown, values[..., -1] / (2**depth - 1)
    yield from _palettes()


def _palettes() -> Iterator[Form]:
    rng = np.random.default_rng(7)
    for depth in (1, 2, 4, 8):
        values, count = _samples(depth, 1), 2**depth
        palette = rng.integers(0, 256, (count, 3))
        soft = list(rng.integers(0, 256, count))
        for name, table in (
            ("", []),
            ("but the first", [0]),
            ("but the last", [255] * (count - 1) + [0]),
            ("soft", soft),
        ):
            alpha = np.array([*table, *[255] * (count - len(table))])[values[..., 0]] / 255
            chunks = {"PLTE": palette.astype(np.uint8).tobytes()} | ({"tRNS": bytes(table)} if table else {})
            yield f"palette{depth} {name}", png(values, depth, 3, **chunks), palette[values[..., 0]] / 255, alpha


def tiff_forms() -> Iterator[Form]:
    """16-bit grey and colour in both byte orders, packed and not, and white as zero."""
    import tifffile

    solid = np.ones((SIDE, SIDE))
    for order in "<>":
        for compression in (None, "zlib"):
            name = f"{order}{compression}"
            grey, colour = _samples(16, 1)[..., 0].astype(np.uint16), _samples(16, 3).astype(np.uint16)
            shown = np.repeat(grey[..., None] / 65535, 3, -1)
            for kind, values, options, expected in (
                ("grey", grey, {"photometric": "minisblack"}, shown),
                ("inverted", grey, {"photometric": "miniswhite"}, 1 - shown),
                ("rgb", colour, {"photometric": "rgb"}, colour / 65535),
            ):
                stream = io.BytesIO()
                tifffile.imwrite(stream, values, byteorder=order, compression=compression, **options)
                if (kind, order) != ("inverted", ">"):  # Pillow reads it in one byte order only
                    yield f"{kind} {name}", stream.getvalue(), expected, solid
