"""JSON document of channel scores, with the settings needed to compute them again."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ...checkpoints import generator_hash
from ...common.documents import read_document, write_document
from ...common.errors import CagcError
from ...common.reading import reading
from ...models import AnyGenerator
from ...models.channels import ChannelGroup

KIND, VERSION = "cagc-scores", 1
_JSON = {str: "a string", dict: "an object"}


@dataclass
class ChannelScores:
    """One number per channel; larger means keep.

    Attributes:
        metric: a name of :data:`cagc.pruning.scores.METRICS`.
        scores: group name → [width] float64, on the CPU.
        teacher: :func:`cagc.checkpoints.generator_hash` of the generator that was scored.
        settings: arguments that the scores depend on (samples, seed, batch_rule, content, ...), JSON values.
    """

    metric: str
    scores: dict[str, torch.Tensor]
    teacher: str
    settings: dict[str, Any]

    def check(self, generator: AnyGenerator, teacher: str | None = None) -> None:
        """Raise CagcError unless these are finite scores of ``generator``; ``teacher`` is its hash, if known."""
        self.check_finite()
        check_widths("scores", {name: len(s) for name, s in self.scores.items()}, generator.channel_groups())
        teacher = teacher or generator_hash(generator)
        if self.teacher != teacher:
            raise CagcError(f"scores: made for generator {self.teacher}, got generator {teacher}; score it again")

    def check_finite(self) -> None:
        """Raise CagcError where a score is NaN or infinite, naming the layer."""
        for name, score in self.scores.items():
            if not torch.as_tensor(score).isfinite().all():
                raise CagcError(f"scores: layer {name!r} has a score that is NaN or infinite, expected finite numbers")

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        content = asdict(self) | {"scores": {name: score.tolist() for name, score in self.scores.items()}}
        write_document(path, KIND, VERSION, content)

    @classmethod
    def load(cls, path: str | Path) -> ChannelScores:
        """Read what :meth:`save` wrote, bit for bit.

        Raises:
            CagcError: the file is missing or damaged, or a score is missing or not a finite number.
        """
        with reading("scores", path):
            document = read_document(path, KIND, VERSION)
            expected = {field.name for field in fields(cls)}
            if set(document) != expected:
                raise CagcError(f"got fields {sorted(document)}, expected {sorted(expected)}")
            for name, kind in (("metric", str), ("teacher", str), ("settings", dict)):
                if not isinstance(document[name], kind):
                    raise CagcError(f"{name} is {type(document[name]).__name__}, expected {_JSON[kind]}")
            scores = document["scores"]
            if not isinstance(scores, dict) or not scores or not all(_is_row(row) for row in scores.values()):
                raise CagcError("expected a list of finite numbers for each layer")
            document["scores"] = {name: torch.tensor(row, dtype=torch.float64) for name, row in scores.items()}
            return cls(**document)


def check_widths(what: str, widths: dict[str, int], groups: list[ChannelGroup]) -> None:
    """Raise CagcError unless ``widths`` names exactly the layers of ``groups``, at their widths."""
    expected = {group.name: group.width for group in groups}
    for name, width in expected.items():
        if name not in widths:
            raise CagcError(f"{what}: layer {name!r} is missing; expected layers {', '.join(expected)}")
        if widths[name] != width:
            raise CagcError(f"{what}: layer {name!r} has {widths[name]} channels, the generator's has {width}")
    unknown = [name for name in widths if name not in expected]
    if unknown:
        raise CagcError(f"{what}: got unknown layer {unknown[0]!r}; expected layers {', '.join(expected)}")


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and bool(row) and all(isinstance(v, (int, float)) and math.isfinite(v) for v in row)
