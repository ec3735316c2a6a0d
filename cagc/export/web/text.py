"""Bytes as text of printable characters, for pages that carry files: 16 characters hold 13 bytes, base64 holds 12."""

from __future__ import annotations

import gzip

import numpy as np

# Two digits of base 93 hold 13 bits. "<" could end the script element that holds the text.
_DIGITS = np.array([code for code in range(33, 127) if code != ord("<")], dtype=np.uint8)
_BITS = 13


def as_text(data: bytes) -> str:
    """``data`` as text: the gzip stream of its even bytes and then its odd ones, as "bytes of the stream:digits".

    The high bytes of float16 numbers lie side by side then, and compress. ``unpack`` of worker.js reads it.
    """
    packed = gzip.compress(data[::2] + data[1::2], compresslevel=9, mtime=0)
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8))
    bits = np.concatenate([bits, np.zeros(-len(bits) % _BITS, dtype=np.uint8)]).reshape(-1, _BITS)
    values = bits @ (1 << np.arange(_BITS)[::-1])
    digits = _DIGITS[np.stack(np.divmod(values, len(_DIGITS)), axis=1)].tobytes()
    return f"{len(packed)}:{digits.decode('ascii')}"
