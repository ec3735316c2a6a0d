"""The channel plan: which channels of each layer a student keeps, and the settings that led to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..checkpoints import generator_hash
from ..common.documents import read_document, write_document
from ..common.errors import CagcError
from ..common.reading import reading
from ..metrics.macs import total_macs, total_parameters
from ..models import AnyGenerator
from .scores.document import ChannelScores, check_widths

KIND, VERSION = "cagc-plan", 1


@dataclass
class ChannelPlan:
    """Kept channels of one teacher, as a JSON document that can be read, diffed and applied again.

    Attributes:
        kept: layer → ascending channel indices, in layer order.
        full: layer → width of the teacher's layer.
        rule: the arguments of :func:`cagc.pruning.budget.plan_channels` that the plan was made with.
        metric: name of the channel score.
        scoring: what the scores depend on: samples, seed, batch rule, content, ...
        teacher: :func:`cagc.checkpoints.generator_hash` of the teacher.
        cost: "macs" and "parameters", each as [before, after].
    """

    kept: dict[str, list[int]]
    full: dict[str, int]
    rule: dict[str, Any]
    metric: str
    scoring: dict[str, Any]
    teacher: str
    cost: dict[str, list[int]]

    @classmethod
    def of(
        cls,
        generator: AnyGenerator,
        kept: dict[str, list[int]],
        rule: dict[str, Any],
        scores: ChannelScores,
        teacher: str,
    ) -> ChannelPlan:
        """Plan to keep ``kept`` of ``generator``, whose hash is ``teacher``; adds the cost before and after."""
        student = replace(generator.config, channels={name: len(indices) for name, indices in kept.items()})
        cost = {
            "macs": [total_macs(generator), total_macs(student)],
            "parameters": [total_parameters(generator), total_parameters(student)],
        }
        return cls(kept, dict(generator.config.channels), rule, scores.metric, dict(scores.settings), teacher, cost)

    def channels(self) -> dict[str, int]:
        """Layer → kept width, the student's ``config.channels``."""
        return {name: len(indices) for name, indices in self.kept.items()}

    @property
    def macs_ratio(self) -> float:
        """MACs before / MACs after."""
        before, after = self.cost["macs"]
        return before / after

    def describe(self) -> str:
        """One line that says how much is kept and by which score."""
        macs, parameters = self.cost["macs"], self.cost["parameters"]
        return (
            f"{sum(map(len, self.kept.values()))} of {sum(self.full.values())} channels by {self.metric}; "
            f"{macs[0] / 1e9:.3f} to {macs[1] / 1e9:.3f} GMACs ({self.macs_ratio:.2f} times fewer), "
            f"{parameters[0] / 1e6:.2f} to {parameters[1] / 1e6:.2f} M parameters"
        )

    def digest(self) -> str:
        """SHA-256, 16 hexadecimal digits, of the whole plan."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def check(self, generator: AnyGenerator) -> None:
        """Raise CagcError unless the plan was made for this generator: same layers, widths and weights."""
        check_widths("plan", self.full, generator.channel_groups())
        teacher = generator_hash(generator)
        if self.teacher != teacher:
            raise CagcError(f"plan: made for generator {self.teacher}, got generator {teacher}; make a new plan")

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        write_document(path, KIND, VERSION, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> ChannelPlan:
        """Read what :meth:`save` wrote.

        Raises:
            CagcError: the file is missing or damaged, a field is missing, or the kept channels of a layer are empty,
                not ascending, repeated or out of range.
        """
        with reading("plan", path):
            return cls._of_document(read_document(path, KIND, VERSION), path)

    @classmethod
    def _of_document(cls, document: dict[str, Any], path: str | Path) -> ChannelPlan:
        expected = {field.name for field in fields(cls)}
        if set(document) != expected:
            raise CagcError(f"plan {path}: got fields {sorted(document)}, expected {sorted(expected)}")
        for name in ("kept", "full", "rule", "scoring", "cost"):
            if not isinstance(document[name], dict):
                raise CagcError(f"plan {path}: {name} is {type(document[name]).__name__}, expected an object")
        for name in ("teacher", "metric"):
            if not isinstance(document[name], str):
                raise CagcError(f"plan {path}: {name} is {type(document[name]).__name__}, expected a string")
        _check_cost(f"plan {path}", document["cost"])
        check_kept(f"plan {path}", document["kept"], document["full"])
        return cls(**document)


def check_kept(what: str, kept: dict[str, Any], full: dict[str, Any]) -> None:
    """Raise CagcError unless ``kept`` has ascending indices below ``full[layer]``, at least one, for every layer."""
    if set(kept) != set(full):
        odd = min(set(kept) ^ set(full))
        raise CagcError(f"{what}: layer {odd!r} is in only one of 'kept' and 'full'")
    for name, indices in kept.items():
        width = full[name]
        if not _is_index(width) or width < 1:
            raise CagcError(f"{what}: layer {name!r} has width {width!r}, expected a positive integer")
        if not isinstance(indices, list) or not indices or not all(map(_is_index, indices)):
            got = str(indices)[:40]
            raise CagcError(f"{what}: layer {name!r} keeps {got}, expected a list of channel indices, at least one")
        if any(b <= a for a, b in pairwise(indices)):
            raise CagcError(f"{what}: layer {name!r} keeps channels that are repeated or not in ascending order")
        if indices[0] < 0 or indices[-1] >= width:
            worst = indices[0] if indices[0] < 0 else indices[-1]
            raise CagcError(f"{what}: layer {name!r} keeps channel {worst}, expected 0 to {width - 1}")


def _check_cost(what: str, cost: dict[str, Any]) -> None:
    for name in ("macs", "parameters"):
        pair = cost.get(name)
        if not isinstance(pair, list) or len(pair) != 2 or not all(_is_index(v) and v > 0 for v in pair):
            raise CagcError(f"{what}: cost {name} is {pair!r}, expected two positive integers, before and after")


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
