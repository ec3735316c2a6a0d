"""Reads labels of class-conditional generators: a list of classes, or the ``dataset.json`` beside images.

That file is NVlabs': ``{"labels": [["00000/img00000000.png", 6], ...]}`` with a class, or a list of numbers, an image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..common.checks import number
from ..common.errors import CagcError
from ..common.reading import parse_json, printable, reading
from ..models.labels import Labels
from .files import LABEL_FILE, label_bytes, open_files

SPECS = "uniform, data, numbers such as 0,3,5-7, or a dataset.json (or a folder or zip with one)"


def parse_labels(content: bytes) -> dict[str, Any]:
    """Labels by the name of the image, from the bytes of a ``dataset.json``.

    Raises:
        CagcError: it is not JSON of the form above.
    """
    document = parse_json(content)
    rows = document.get("labels") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not rows:
        raise CagcError('holds no labels, which are "labels": [["image.png", 0], ...]')
    if not all(isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) for row in rows):
        raise CagcError('"labels" is not a list of pairs of an image and its label')
    return dict(rows)


def label_table(labels: Mapping[str, Any], names: Sequence[str], c_dim: int, source: str) -> Labels:
    """The labels of ``names`` as a table of :class:`Labels`, in their order.

    Raises:
        CagcError: a name has no label, or its label is neither a class from 0 to c_dim - 1 nor c_dim numbers.
    """
    missing = [name for name in names if name not in labels]
    if missing:
        raise CagcError(f"has no label for {len(missing)} of {len(names)} images, such as {printable(missing[0])}")
    found = [labels[name] for name in names]
    classes = [type(label) is int for label in found]
    for name, label in zip(names, found):
        if type(label) is not type(found[0]) or not _fits(label, c_dim):
            kind = f"{c_dim} numbers" if not classes[0] else f"a class from 0 to {c_dim - 1}"
            kind = f"a class from 0 to {c_dim - 1}, or {c_dim} numbers" if label is found[0] else kind
            raise CagcError(f"the label of {printable(name)} is {label!r:.60}, expected {kind}")
    return Labels(c_dim, torch.tensor(found, dtype=torch.int64 if classes[0] else torch.float32), source)


def _fits(label: Any, c_dim: int) -> bool:
    if type(label) is int:
        return 0 <= label < c_dim
    return isinstance(label, list) and len(label) == c_dim and all(number(v) for v in label)


def read_labels(spec: str | None, c_dim: int, data: Any = None) -> Labels | None:
    """The labels that ``spec`` names, for a generator with labels of ``c_dim`` numbers; None for one without.

    Args:
        spec: "uniform" (every class equally often; the same as None); "data" (as often as in the label file of
            ``data``); classes such as "0,3,5-7", in turn; or the path of a label file, or of a folder or zip with one.
        c_dim: length of a label; 0 for a generator without labels.
        data: an :class:`~cagc.data.dataset.ImageDataset`.

    Raises:
        CagcError: there is no such file or class, or the generator takes no labels.
    """
    if c_dim == 0:
        if spec is not None:
            raise CagcError(f"labels: got {spec!r}, expected none: the generator takes no labels")
        return None
    if spec is None or spec == "uniform":
        return Labels.uniform(c_dim)
    if spec == "data":
        if data is None:
            raise CagcError("labels: got 'data', which needs --data with a dataset.json")
        return data.labels(c_dim).shuffled()
    if re.fullmatch(r"[\d\s,-]+", spec):
        return _classes(spec, c_dim)
    if not Path(spec).exists():
        raise CagcError(f"labels: got {spec!r}, expected {SPECS}")
    with reading("labels:", spec):
        found = parse_labels(_label_file(Path(spec)))
        return label_table(found, list(found), c_dim, f"as often as in {printable(Path(spec).name)}").shuffled()


def _label_file(path: Path) -> bytes:
    if path.is_file() and path.suffix.lower() == ".json":
        return label_bytes(path)
    content = open_files(path).label_file()
    if content is None:
        raise CagcError(f"holds no {LABEL_FILE}")
    return content


def _classes(spec: str, c_dim: int) -> Labels:
    classes: list[int] = []
    for part in spec.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise CagcError(f"labels: got {spec!r}, expected {SPECS}")
        if last >= c_dim:
            raise CagcError(f"labels: got class {last}, expected 0 to {c_dim - 1}")
        classes += range(first, last + 1)
    return Labels(c_dim, torch.tensor(classes), f"classes {spec.replace(' ', '')} in turn")
