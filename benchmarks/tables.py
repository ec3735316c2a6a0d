"""Builds Markdown tables from rows of benchmarks; :mod:`benchmarks.report` writes them into the README and docs.

Each function selects and sorts its rows; the macro of the same name in ``templates/tables.md.j2`` formats them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import fmean, median, stdev
from typing import NamedTuple

from jinja2 import ChainableUndefined, Environment, FileSystemLoader, Template

from .results import Row

# Implementations in the order of the tables; others follow by name.
ORDER = (
    "authors", "rosinality", "stylegan2-ada", "stylegan3", "grouped", "reference", "native",
    "torch.compile", "onnxruntime", "openvino", "runtime",
)  # fmt: skip
WIDTHS = ("full", "0.3", "0.3 by 8")
BATCHES = (1, 4, 8, 32)


def number(value: float | None, form: str, unit: str = "") -> str:
    """Format ``value``; a dash for None."""
    return "–" if value is None else f"{value:{form}}{unit}"


def milliseconds(row: Row, per: int = 1) -> str:
    """Format median and percentiles of a row's milliseconds, divided by ``per`` images."""
    ms = row["ms"]
    digits = 1 if ms["median"] / per >= 10 else 2
    return f"{ms['median'] / per:.{digits}f} ({ms['p10'] / per:.{digits}f}–{ms['p90'] / per:.{digits}f})"


def faster(row: Row, other: str) -> str:
    """Format how many times faster a row is than another of the same rounds; a dash if that was not timed."""
    found = row["ratios"].get(other)
    return f"{found['median']:.2f}×" if found else "–"


def gmacs(row: Row, form: str = ".3f", per: int = 1) -> str:
    """Format a row's MACs in 10⁹, divided by ``per`` images."""
    return f"{row['macs'] / per / 1e9:{form}}"


def spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """Format median and range of ``values``; a dash if there are none."""
    return f"{median(values):{form}}{unit} ({min(values):{form}}–{max(values):{form}})" if values else "–"


def mean(rows: Sequence[Row], key: str, digits: int, unit: str = "") -> str:
    """Format the mean of a figure over the rows that have it, ± its standard deviation if there are two or more."""
    values = [row[key] for row in rows if row.get(key) is not None]
    around = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{around}{unit}" if values else "–"


@cache
def template(name: str) -> Template:
    """Load the template ``name`` of this folder, with the filters of this module."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), undefined=ChainableUndefined, trim_blocks=True
    )
    environment.filters |= {"number": number, "ms": milliseconds, "faster": faster, "gmacs": gmacs}
    environment.filters |= {"spread": spread, "mean": mean}
    return environment.get_template(f"{name}.md.j2")


def table(name: str, rows: Sequence[object], **values: object) -> str:
    """Render ``rows`` by the macro ``name`` of tables.md.j2; an empty string without rows."""
    return str(getattr(template("tables").module, name)(rows, **values)).strip() if rows else ""


def document_table(name: str, document: object, **values: object) -> str:
    """Render the table of a document by the macro ``name`` of documents.md.j2, with the sentence below it."""
    return str(getattr(template("documents").module, name)(document, **values)).strip()


def between(text: str, begin: str, end: str, content: str) -> str:
    """Replace the text between two markers by ``content``. Raises ValueError if a marker is missing."""
    if begin not in text or end not in text:
        raise ValueError(f"expected the markers {begin} and {end}")
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of cells; an empty string without rows."""
    body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(header)} |", "|---" * len(header) + "|", *body]) if body else ""


def of(rows: Iterable[Row], benchmark: str, beside: str | None = None) -> list[Row]:
    """Return the rows of one benchmark whose case has the entry ``beside``."""
    return [row for row in rows if row["benchmark"] == benchmark and row["case"].get("beside") == beside]


def _rank(value: object, order: Sequence[object]) -> tuple:
    return (order.index(value), "") if value in order else (len(order), str(value))


def _generator_key(row: Row) -> tuple:
    case = row["case"]
    return (
        case["resolution"], case["batch"], row["allocator"], row["dtype"], _rank(case["widths"], WIDTHS),
        _rank(row["implementation"], ORDER),
    )  # fmt: skip


def generators(rows: Sequence[Row], baseline: str = "grouped") -> str:
    """Table of whole images with warm caches: one row for each way to run each generator."""
    found = [row for row in of(rows, "generators") if row["case"]["widths"] in WIDTHS and row["cache"] == "warm"]
    return table("generators", sorted(found, key=_generator_key), baseline=baseline)


def summary(rows: Sequence[Row], batches: Sequence[int] | None = None) -> str:
    """Table of the speed-up from the MAC cut by resolution and batch, over the authors' code, or over "grouped"."""
    usual = "authors" if any(row["implementation"] == "authors" for row in rows) else "grouped"
    found = {_generator_key(row): row for row in of(rows, "generators") if row["cache"] == "warm"}
    lines = []
    for row in sorted(found.values(), key=_generator_key):
        if row["implementation"] != "runtime" or row["dtype"] != "float32":
            continue
        if row["case"]["batch"] in (batches or BATCHES):
            name = usual if f"{usual}, {row['case']['widths']}" in row["ratios"] else "grouped"
            lines.append((row, name, found.get(_generator_key(row | {"implementation": name}))))
    return table("summary", lines, usual=usual, several=batches is None or len(batches) > 1)


def cold(rows: Sequence[Row]) -> str:
    """Table of images with flushed caches, beside the warm row of the same run."""
    found = of(rows, "generators")
    warm = {
        (*_generator_key(row), row["command"], row["commit"]): row for row in found if row["cache"] == "warm"
    }  # fmt: skip
    flushed = sorted((row for row in found if row["cache"] == "cold"), key=_generator_key)
    return table("cold", [(r, warm.get((*_generator_key(r), r["command"], r["commit"]))) for r in flushed])


def other_runtimes(rows: Sequence[Row]) -> str:
    """Table of whole images by other runtimes, in the same rounds as ours."""
    return table("other_runtimes", sorted(of(rows, "generators", "other runtimes"), key=_generator_key))


def mobile(rows: Sequence[Row]) -> str:
    """Table of MobileStyleGAN beside our student of its resolution."""
    return table("mobile", [row for row in of(rows, "generators") if row["implementation"] == "mobile-stylegan"])


def widths(rows: Sequence[Row]) -> str:
    """Table of MACs and milliseconds for widths from 10 % to 100 %."""
    found = sorted(of(rows, "widths"), key=lambda r: (r["case"]["resolution"], r["implementation"], r["case"]["keep"]))
    full = {(r["case"]["resolution"], r["implementation"]): r for r in found if r["case"]["keep"] == 1}
    return table("widths", [(row, full.get((row["case"]["resolution"], row["implementation"]))) for row in found])


class LayerGroup(NamedTuple):
    """The layers of one generator in the form of ``benchmarks.layers``, and the machine's roofs."""

    resolution: int
    widths: str
    batch: int
    executor: str
    layers: list[dict]
    roofs: dict[str, float]

    @property
    def title(self) -> str:
        return f"{self.resolution} px, widths {self.widths}, batch {self.batch}, {self.executor}"


def _layer_groups(rows: Sequence[Row]) -> list[LayerGroup]:
    """Return the layers of each generator whose layers were timed."""
    groups, made = {}, []
    for row in of(rows, "layers"):
        case = row["case"]
        key = (case["resolution"], _rank(case["widths"], WIDTHS), case["widths"], case["batch"], row["implementation"])
        groups.setdefault(key, []).append(row)
    for (resolution, _, width, batch, executor), group in sorted(groups.items()):
        as_layers = [
            {
                "name": row["case"]["layer"], "kernel": row["figures"]["kernel"], "macs": row["macs"],
                "bytes": row["bytes"], "ms": row["ms"]["median"],
                "multiplications": row["figures"].get("multiplications"),
                "elementwise": row["figures"].get("elementwise", 0),
            }
            for row in group
        ]  # fmt: skip
        made.append(LayerGroup(resolution, width, batch, executor, as_layers, group[0]["roofs"]))
    return made


def multiplications(row: dict) -> int:
    """Return the multiplications of the algorithm that runs the layer, or its MACs if they are unknown."""
    return row.get("multiplications") or row["macs"]


def roof_ms(row: dict, measured: dict[str, float], elementwise: bool = False) -> tuple[float, str]:
    """Return the roof of a layer in milliseconds, and what bounds it, "arithmetic" or "memory".

    Args:
        row: a layer of ``benchmarks.layers``.
        measured: roofs of the machine.
        elementwise: counts the operations outside the matrix products too.
    """
    operations = multiplications(row) + (row.get("elementwise") or 0) * elementwise
    arithmetic = 2 * operations / measured["matrix_gflops"] / 1e6
    memory = row["bytes"] / measured["copy_gbs"] / 1e6
    return max(arithmetic, memory), "arithmetic" if arithmetic >= memory else "memory"


def layer_table(found: list[dict], measured: dict[str, float]) -> str:
    """Return a Markdown table of the layers in the order in which they run, with their sum."""
    lines = [
        {"elementwise": 0} | row | {"products": multiplications(row), "roof": roof_ms(row, measured)[0]}
        | dict(zip(("all", "bound"), roof_ms(row, measured, elementwise=True), strict=True))
        for row in found
    ]  # fmt: skip
    names = ("macs", "bytes", "ms", "products", "elementwise", "roof", "all")
    return table("layers", lines, whole={name: sum(line[name] for line in lines) for name in names})


def layers(rows: Sequence[Row]) -> str:
    """Tables of layers, one per generator, as ``python -m benchmarks.layers`` prints them."""
    return "\n\n".join(
        f"{group.title}; {roof_line(group.roofs)}\n\n{layer_table(group.layers, group.roofs)}"
        for group in _layer_groups(rows)
    )


def layer_sums(rows: Sequence[Row]) -> str:
    """Table of generators beside the sum of their layers' roofs, with the layer that has the most to gain."""
    groups = _layer_groups(rows)
    lines = [_layer_sum(group) for group in groups]
    full = {(g.resolution, g.batch, g.executor): line for g, line in zip(groups, lines) if g.widths == "full"}
    for group, line in zip(groups, lines, strict=True):
        of_full = full.get((group.resolution, group.batch, group.executor), line)
        cut = of_full["macs"] / line["macs"]
        shares = ((name, of_full[time] / line[time] / cut) for name, time in (("share", "ms"), ("limit", "all")))
        line |= dict.fromkeys(("share", "limit")) if of_full is line else dict(shares)
    return table("layer_sums", lines)


def _layer_sum(group: LayerGroup) -> dict:
    found, roofs = group.layers, group.roofs
    least = [roof_ms(layer, roofs, elementwise=True)[0] for layer in found]
    gain, far = max((layer["ms"] - roof, layer["name"]) for layer, roof in zip(found, least, strict=True))
    sums = {name: sum(layer[name] for layer in found) for name in ("ms", "macs")}
    roof = {"roof": sum(roof_ms(layer, roofs)[0] for layer in found), "all": sum(least), "roofs": roof_line(roofs)}
    return sums | roof | {"title": group.title, "layer": far, "gain": gain}


def roof_line(roofs: dict[str, float]) -> str:
    return f"copy {roofs['copy_gbs']:.1f} GB/s, matrix product {roofs['matrix_gflops']:.0f} GFLOP/s"


def _in_order(benchmark: str, macro: str, rows: Sequence[Row]) -> str:
    return table(macro, of(rows, benchmark))


training, plans = partial(_in_order, "training", "training"), partial(_in_order, "plans", "plans")
peer_ops = partial(_in_order, "peers", "peer_ops")


def scores(rows: Sequence[Row]) -> str:
    return table("scores", sorted(of(rows, "scores"), key=lambda r: (r["case"]["generator"], r["ms"]["median"])))


def ops(rows: Sequence[Row]) -> str:
    """Table of medians over the layers of ``bench_ops``."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in of(rows, "ops"):
        case = row["case"]
        threads = str(case.get("threads", row["device"]["threads"]))
        kind = case["layer"].split()[0], case.get("pass", "forward"), row["dtype"], threads, row["implementation"]
        groups.setdefault(kind, []).append(row)
    lines = []
    for group, found in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] != "forward", item[0][2:])):
        ratios = [[r["ratios"][n]["median"] for r in found if n in r["ratios"]] for n in ("copy", "torch")]
        lines.append((group, len(found), ratios))
    return table("ops", lines)


def peer_medians(rows: Sequence[Row]) -> str:
    """Table of how many times faster our op is than each peer's, as medians over layers."""
    found = of(rows, "peers")
    groups: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in sorted(found, key=lambda row: (row["case"]["peer"], row["cache"] != "warm")):
        kinds = groups.setdefault((row["case"]["peer"], row["cache"]), {})
        kinds.setdefault(row["case"]["op"], []).append(row["ratios"][row["case"]["peer"]]["median"])
    lines = [(*group, ratios) for group, ratios in groups.items()]
    return table("peer_medians", lines, kinds=sorted({row["case"]["op"] for row in found}))


def sparse(rows: Sequence[Row]) -> str:
    """Table of layers and a generator that read a share of their channels in place, beside the alternatives."""
    others = ("sliced", "sliced channels_last", "gathered", "masked", "student", "full")
    return table("sparse", of(rows, "sparse"), others=others)
