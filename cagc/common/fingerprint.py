"""Hashes of content, which are equal for equal content in any file or process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def fingerprint(content: Any) -> str:
    """Return the SHA-256, 64 hexadecimal digits, of nested mappings and sequences of tensors, bytes, text and numbers.

    It depends on order, type, shape and every bit, but not on the device.
    """
    digest = hashlib.sha256()
    _add(digest, content)
    return digest.hexdigest()


def _add(digest: Any, content: Any) -> None:
    if isinstance(content, Tensor):
        data = content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"tensor {content.dtype} {list(content.shape)} ".encode())
        digest.update(data)
    elif isinstance(content, bytes):
        digest.update(b"bytes %d " % len(content) + content)
    elif isinstance(content, Mapping):
        digest.update(b"mapping %d " % len(content))
        for item in content.items():
            _add(digest, item)
    elif isinstance(content, Sequence) and not isinstance(content, str):
        digest.update(b"sequence %d " % len(content))
        for entry in content:
            _add(digest, entry)
    else:
        text = f"{type(content).__name__} {content!r}".encode()
        digest.update(b"%d %b" % (len(text), text))
