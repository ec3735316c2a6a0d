"""A generator with what was measured of it: one row of a table of results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .latency.measure import LatencyResult
from .metrics.macs import total_macs, total_parameters


@dataclass(frozen=True)
class Variant:
    """One generator of the table. None stands for "not measured".

    name: as shown; macs, parameters: of one image and of the whole generator; latency: measured together with the
    teacher's; frechet: Fréchet distance to the real images in the report's feature space; content_l1 (in [0, 2]) and
    content_psnr (dB): against the teacher on the content; image_l1, image_psnr: on the whole image; content_coverage:
    mean share of pixels that are content; further: other figures by name.
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
        """Variant of a generator, MACs and parameters counted from its config; what is no field becomes ``further``."""
        own = {key: value for key, value in measured.items() if key in cls.__dataclass_fields__}
        further = {key: value for key, value in measured.items() if key not in own}
        return cls(name, total_macs(generator), total_parameters(generator), **own, further=further)
