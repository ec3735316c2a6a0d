"""One row of a table of results: a generator's name with its measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .latency.measure import LatencyResult
from .metrics.macs import total_macs, total_parameters


@dataclass(frozen=True)
class Variant:
    """Measurements of one generator; None means "not measured".

    Attributes:
        name: the row's name.
        macs: multiply-accumulates of one image.
        parameters: number of parameters of the generator.
        latency: milliseconds, measured in turns with the teacher's.
        frechet: Fréchet distance to the real images in the report's feature space.
        content_l1: mean absolute difference from the teacher on the content, in [0, 2].
        content_psnr: PSNR against the teacher on the content, in dB.
        image_l1: as ``content_l1``, on the whole image.
        image_psnr: as ``content_psnr``, on the whole image.
        content_coverage: mean share of pixels that are content, in [0, 1].
        further: other figures by name.
    """

    name: str
    macs: int
    parameters: int
    latency: LatencyResult | None = None
    frechet: float | None = None
    content_l1: float | None = None
    content_psnr: float | None = None
    image_l1: float | None = None
    image_psnr: float | None = None
    content_coverage: float | None = None
    further: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, generator: Any, **measured: Any) -> Variant:
        """Build the row of ``generator``, counting MACs and parameters; names that are not fields go to ``further``."""
        own = {key: value for key, value in measured.items() if key in cls.__dataclass_fields__}
        further = {key: value for key, value in measured.items() if key not in own}
        return cls(name, total_macs(generator), total_parameters(generator), **own, further=further)
