"""One self-contained HTML page about a compression: what it cost, what it bought, and what the images look like."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from ..common.errors import CagcError
from ..common.files import atomic_write
from ..common.reading import parse_json
from ..latency.measure import Speedup, settled, speedup
from ..metrics.frechet import result_key
from ..metrics.macs import count_macs
from ..pictures import Figure
from ..variants import Variant
from .charts import Bars, bar_chart, curve_chart

REPORT_NAME = "report.html"
GRIDS_FOLDER = "grids"


@dataclass(frozen=True)
class Layer:
    """Width of one layer before and after pruning, with the MACs of its convolution."""

    name: str
    full: int
    kept: int
    full_macs: int
    kept_macs: int


@dataclass(frozen=True)
class Curve:
    """One panel of training curves: series name → [(step, value), …] in the order of the steps."""

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Report:
    """Everything the page shows.

    title, summary: heading and the sentence below it. teacher, student: the pair compared in the headline.
    others: further rows of the table, in order, e.g. the student before distillation or a baseline.
    features: name of the Fréchet features. batch: images a timed call makes. layers: widths, input to output.
    figures: picture rows. curves: training panels, none when nothing was trained. provenance: label → text, e.g.
    command, seed, versions, machine, plan hash. notes: sentences on how to read the figures, e.g. sample counts.
    web: name of the page beside it that draws with the student, if there is one.
    """

    title: str
    summary: str
    teacher: Variant
    student: Variant
    others: Sequence[Variant] = ()
    features: str = "efficientnet-lite0"
    batch: int = 1
    layers: Sequence[Layer] = ()
    figures: Sequence[Figure] = ()
    curves: Sequence[Curve] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    web: str | None = None

    @property
    def variants(self) -> list[Variant]:
        """Teacher, others, student: the rows of the table."""
        return [self.teacher, *self.others, self.student]

    @property
    def macs_ratio(self) -> float:
        """Teacher's MACs over the student's."""
        return self.teacher.macs / self.student.macs

    @property
    def parameters_ratio(self) -> float:
        """Teacher's parameters over the student's."""
        return self.teacher.parameters / self.student.parameters

    @property
    def further(self) -> list[str]:
        """Names of the figures that have no column of their own."""
        return list(dict.fromkeys(name for variant in self.variants for name in variant.further))

    def time_ratio(self, variant: Variant) -> Speedup | None:
        """Paired time ratio teacher / variant, None when either was not timed, or the machine was too noisy to tell."""
        if self.teacher.latency is None or variant.latency is None or self.too_noisy(variant):
            return None
        return speedup(self.teacher.latency, variant.latency)

    def too_noisy(self, variant: Variant) -> bool:
        """Whether the teacher and the variant were timed, and their ratio and their times contradict each other."""
        teacher, latency = self.teacher.latency, variant.latency
        return teacher is not None and latency is not None and not settled(teacher, latency)

    def realised(self, variant: Variant) -> float | None:
        """Share of the MAC ratio that the clock confirms: (time ratio) / (MAC ratio)."""
        ratio = self.time_ratio(variant)
        return None if ratio is None else ratio.median / (self.teacher.macs / variant.macs)

    def metrics(self) -> dict[str, Any]:
        """The figures of the table, ready for strict JSON: what is not measured or not finite is None."""
        rows = {}
        for variant in self.variants:
            ratio = self.time_ratio(variant)
            row = {
                "macs": variant.macs,
                "parameters": variant.parameters,
                "macs_ratio": self.teacher.macs / variant.macs,
                "parameters_ratio": self.teacher.parameters / variant.parameters,
                "latency": variant.latency.to_dict() if variant.latency else None,
                "time_ratio": ratio.median if ratio else None,
                "realised_share": self.realised(variant),
                "too_noisy": self.too_noisy(variant),
                result_key(self.features): variant.frechet,
                "content_l1": variant.content_l1,
                "content_psnr_db": variant.content_psnr,
                "image_l1": variant.image_l1,
                "image_psnr_db": variant.image_psnr,
                "content_coverage": variant.content_coverage,
                **variant.further,
            }
            rows[variant.name] = {
                k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
            }
        return rows


def layer_table(teacher: Any, student: Any) -> list[Layer]:
    """Layers of two generators (or configs) of one architecture, with the MACs of the convolution that makes each."""
    before, after = getattr(teacher, "config", teacher), getattr(student, "config", student)
    full, kept = count_macs(before), count_macs(after)
    return [
        Layer(name, width, after.channels[name], full.get(name, 0), kept.get(name, 0))
        for name, width in before.channels.items()
    ]


def training_curves(
    source: str | PathLike[str] | Iterable[Mapping[str, Any]], panels: Mapping[str, Sequence[str]] | None = None
) -> list[Curve]:
    """Panels from a `metrics.jsonl` (or its records): title → keys drawn in it; one panel a number when None.

    Every record needs a "step"; a key that a record lacks is simply not drawn there, and a panel without any point is
    left out. Lines that a killed run left incomplete are skipped.
    """
    records = _records(source) if isinstance(source, (str, PathLike)) else source
    series: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        for key, value in record.items():
            if key != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                series.setdefault(key, []).append((float(record["step"]), float(value)))
    panels = panels if panels is not None else {key: [key] for key in series}
    curves = [Curve(title, {key: series[key] for key in keys if key in series}) for title, keys in panels.items()]
    return [curve for curve in curves if curve.series]


def _records(path: str | PathLike[str]) -> list[dict[str, Any]]:
    records = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = parse_json(line)
        except CagcError:
            continue
        if isinstance(record, dict) and type(record.get("step")) in (int, float):
            records.append(record)
    return records


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _data_uri(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(_png(image)).decode("ascii")


def _scaled(count: float) -> str:
    """1461000000 → "1.46 G"."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{count:g}"


def _layers_chart(layers: Sequence[Layer]) -> str:
    def bars(title: str, full: Sequence[int], kept: Sequence[int], labels: Sequence[str]) -> Bars:
        return Bars(title, {"removed from the teacher": full, "student": kept}, [labels], over=True)

    channels = [f"{layer.kept} / {layer.full}" for layer in layers]
    macs = [f"{_scaled(layer.kept_macs)} / {_scaled(layer.full_macs)}" if layer.full_macs else "" for layer in layers]
    panels = [
        bars("Channels", [layer.full for layer in layers], [layer.kept for layer in layers], channels),
        bars("MACs of the convolution", [x.full_macs for x in layers], [x.kept_macs for x in layers], macs),
    ]
    return bar_chart([layer.name for layer in layers], panels)


def _costs_chart(report: Report) -> str:
    timed = [variant for variant in report.variants if variant.latency]
    macs = [variant.macs / report.teacher.macs for variant in timed]
    times = [variant.latency.median_ms / report.teacher.latency.median_ms for variant in timed]
    labels = [
        [f"{_scaled(variant.macs)}MAC · {100 * share:.1f} %" for variant, share in zip(timed, macs)],
        [f"{variant.latency.median_ms:.4g} ms · {100 * share:.1f} %" for variant, share in zip(timed, times)],
    ]
    shares = Bars("", {"multiply-accumulates": macs, "measured time": times}, labels, over=False)
    return bar_chart([variant.name for variant in timed], [shares])


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["scaled"] = _scaled
    environment.filters["data_uri"] = _data_uri
    return environment


def render(report: Report) -> str:
    """The page as text: no script, nothing loaded from outside, pictures as data URIs."""
    timed = any(variant.latency for variant in report.variants)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            grids=GRIDS_FOLDER,
            layers=_layers_chart(report.layers) if report.layers else None,
            costs=_costs_chart(report) if timed else None,
            curves=[(curve, curve_chart(curve.series)) for curve in report.curves],
        )
    )


def write_report(out_dir: str | PathLike[str], report: Report) -> Path:
    """Write `report.html` into `out_dir`, and each figure as `grids/<name>.png` beside it; return the page's path.

    Every file appears whole or not at all. Raises CagcError when the folder does not exist.
    """
    folder = Path(out_dir)
    if not folder.is_dir():
        raise CagcError(f"cannot write the report: the folder {folder} does not exist")
    page = render(report)
    (folder / GRIDS_FOLDER).mkdir(exist_ok=True)
    for figure in report.figures:
        with atomic_write(folder / GRIDS_FOLDER / f"{figure.name}.png") as temporary:
            temporary.write_bytes(_png(figure.composite()))
    with atomic_write(folder / REPORT_NAME) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return folder / REPORT_NAME
