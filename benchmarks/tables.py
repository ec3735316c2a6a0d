"""Markdown tables from rows of benchmarks; :mod:`benchmarks.report` writes them into the README and docs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from .layers import table as layer_table
from .results import Row

# In the order in which a table lists them; others follow by name.
ORDER = ("authors", "rosinality", "stylegan2-ada", "stylegan3", "grouped", "reference", "native", "runtime")
WIDTHS = ("full", "0.3", "0.3 by 8")


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; an empty string where there are no rows."""
    body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(header)} |", "|---" * len(header) + "|", *body]) if body else ""


def of(rows: Iterable[Row], benchmark: str, beside: str | None = None) -> list[Row]:
    """Rows of one benchmark; of whole generators, those timed beside what ``beside`` names."""
    return [row for row in rows if row["benchmark"] == benchmark and row["case"].get("beside") == beside]


def _rank(value: object, order: Sequence[object]) -> tuple:
    return (order.index(value), "") if value in order else (len(order), str(value))


def _generator_key(row: Row) -> tuple:
    case = row["case"]
    return (
        case["resolution"], case["batch"], row["allocator"], row["dtype"], _rank(case["widths"], WIDTHS),
        _rank(row["implementation"], ORDER),
    )  # fmt: skip


def _ms(row: Row, per: int = 1) -> str:
    ms = row["ms"]
    digits = 1 if ms["median"] / per >= 10 else 2
    return f"{ms['median'] / per:.{digits}f} ({ms['p10'] / per:.{digits}f}–{ms['p90'] / per:.{digits}f})"


def _ratio(row: Row, other: str) -> str:
    found = row["ratios"].get(other)
    return f"{found['median']:.2f}×" if found else "–"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def generators(rows: Sequence[Row], beside: str | None = None, baseline: str = "grouped") -> str:
    """Whole images: one row for each way to run each generator."""
    header = (
        "px", "batch", "memory", "widths", "run by", "ms an image (10th–90th percentile)", "images/s", "peak MB",
        "GMACs", f"faster than {baseline}, same widths", f"than {baseline}, full", "MACs cut", "faster than full",
        "realised share",
    )  # fmt: skip
    found = [row for row in of(rows, "generators", beside) if "widths" in row["case"] and row["macs"]]
    lines = []
    for row in sorted(found, key=_generator_key):
        case, figures = row["case"], row["figures"]
        half = "" if row["dtype"] == "float32" else f" {row['dtype']}"
        lines.append((
            str(case["resolution"]), str(case["batch"]), row["allocator"], case["widths"], row["implementation"] + half,
            _ms(row, case["batch"]), f"{figures['images/s']:.2f}", _number(figures.get("peak MB"), ".0f"),
            f"{row['macs'] / case['batch'] / 1e9:.2f}", _ratio(row, f"{baseline}, {case['widths']}"),
            _ratio(row, f"{baseline}, full"), _number(figures.get("MACs cut"), ".2f", "×"),
            _number(figures.get("speed-up"), ".2f", "×"), _number(figures.get("realised share"), ".2f"),
        ))  # fmt: skip
    return grid(header, lines)


def summary(rows: Sequence[Row]) -> str:
    """For the README: the paid-out MAC cut of each resolution and batch, against the strongest of the usual ways."""
    usual = "authors" if any(row["implementation"] == "authors" for row in rows) else "grouped"
    header = (
        "px", "batch", "memory", "widths", "GMACs", f"ms an image, {usual}", "ms an image, runtime",
        "runtime is faster, same widths", f"student by runtime against the full one by {usual}", "MACs cut",
        "realised share",
    )  # fmt: skip
    found = {_generator_key(row): row for row in of(rows, "generators") if row["macs"]}
    lines = []
    for row in sorted(found.values(), key=_generator_key):
        case = row["case"]
        if row["implementation"] != "runtime" or row["dtype"] != "float32":
            continue
        name = usual if f"{usual}, {case['widths']}" in row["ratios"] else "grouped"
        same = found.get(_generator_key(row | {"implementation": name}))
        lines.append((
            str(case["resolution"]), str(case["batch"]), row["allocator"], case["widths"],
            f"{row['macs'] / case['batch'] / 1e9:.2f}",
            f"{same['ms']['median'] / case['batch']:.1f}" + (f" ({name})" if name != usual else "") if same else "–",
            f"{row['ms']['median'] / case['batch']:.1f}", _ratio(row, f"{name}, {case['widths']}"),
            _ratio(row, f"{name}, full") if case["widths"] != "full" else "–",
            _number(row["figures"].get("MACs cut"), ".2f", "×"), _number(row["figures"].get("realised share"), ".2f"),
        ))  # fmt: skip
    return grid(header, lines)


def mobile(rows: Sequence[Row]) -> str:
    """MobileStyleGAN beside our student of its resolution."""
    lines = []
    for row in of(rows, "generators"):
        if row["implementation"] == "mobile-stylegan":
            beside = ", ".join(f"{name}: {1 / found['median']:.2f}" for name, found in row["ratios"].items())
            lines.append((str(row["case"]["resolution"]), _ms(row), beside))
    return grid(("px", "MobileStyleGAN under OpenVINO, ms", "its milliseconds over those of"), lines)


def widths(rows: Sequence[Row]) -> str:
    """MACs against milliseconds for widths of 10 % to 100 %."""
    found = sorted(of(rows, "widths"), key=lambda r: (r["case"]["resolution"], r["implementation"], r["case"]["keep"]))
    full = {(r["case"]["resolution"], r["implementation"]): r for r in found if r["case"]["keep"] == 1}
    lines = []
    for row in found:
        case, whole = row["case"], full.get((row["case"]["resolution"], row["implementation"]))
        cut = whole and whole["macs"] / row["macs"]
        faster = whole and whole["ms"]["median"] / row["ms"]["median"]
        lines.append((
            str(case["resolution"]), row["implementation"], f"{case['keep']:.0%}", f"{row['macs'] / 1e9:.3f}", _ms(row),
            _number(cut, ".2f", "×"), _number(faster, ".2f", "×"), _number(cut and faster / cut, ".2f"),
        ))  # fmt: skip
    return grid(("px", "run by", "width", "GMACs", "ms", "MACs cut", "faster", "realised share"), lines)


def layers(rows: Sequence[Row]) -> str:
    """One table for each generator, as ``python -m benchmarks.layers`` prints it."""
    parts, groups = [], {}
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
            }
            for row in group
        ]  # fmt: skip
        roofs = group[0]["roofs"]
        title = f"{resolution} px, widths {width}, batch {batch}, {executor}; {roof_line(roofs)}"
        parts.append(f"{title}\n\n{layer_table(as_layers, roofs)}")
    return "\n\n".join(parts)


def roof_line(roofs: dict[str, float]) -> str:
    return f"copy {roofs['copy_gbs']:.1f} GB/s, matrix product {roofs['matrix_gflops']:.0f} GFLOP/s"


def training(rows: Sequence[Row]) -> str:
    lines = [
        (row["case"]["generator"], str(row["case"]["batch"]), row["dtype"], row["implementation"], _ms(row))
        for row in of(rows, "training")
    ]
    return grid(("student of", "batch", "precision", "phase", "ms a step"), lines)


def scores(rows: Sequence[Row]) -> str:
    found = sorted(of(rows, "scores"), key=lambda r: (r["case"]["generator"], r["ms"]["median"]))
    lines = [
        (r["implementation"], r["case"]["generator"], str(r["case"]["samples"]), f"{r['figures']['seconds']:.2f}")
        for r in found
    ]
    return grid(("score", "generator", "samples", "seconds"), lines)


def plans(rows: Sequence[Row]) -> str:
    lines = [
        (
            row["case"]["generator"], row["case"]["metric"], row["implementation"], f"{row['macs'] / 1e9:.4f}",
            f"{row['figures']['full MACs'] / row['macs']:.2f}×", f"{row['figures']['predicted ms']:.2f}", _ms(row),
            f"{row['figures']['score kept']:.4f}",
        )
        for row in of(rows, "plans")
    ]  # fmt: skip
    header = ("generator", "scores", "plan", "GMACs", "MACs cut", "predicted ms", "ms", "score kept")
    return grid(header, lines)


def ops(rows: Sequence[Row]) -> str:
    """Medians over layers of what ``bench_ops`` timed."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in of(rows, "ops"):
        case = row["case"]
        kind = case["layer"].split()[0], case.get("pass", "forward"), row["dtype"], row["cache"], row["implementation"]
        groups.setdefault((*kind, str(case.get("threads", row["device"]["threads"]))), []).append(row)
    lines = []
    for group, found in sorted(groups.items()):
        shares = [
            [row["ratios"][name]["median"] for row in found if name in row["ratios"]] for name in ("copy", "torch")
        ]
        lines.append((*group, str(len(found)), *(f"{median(s):.2f}" if s else "–" for s in shares)))
    header = ("op", "pass", "dtype", "caches", "run by", "threads", "layers", "share of a copy", "times plain PyTorch")
    return grid(header, lines)


def peer_ops(rows: Sequence[Row]) -> str:
    lines = []
    for row in of(rows, "peers"):
        case = row["case"]
        lines.append((
            case["op"], f"{case['channels']}×{case['side']}×{case['side']}", row["cache"], case["peer"],
            f"{row['ms']['median']:.3f}", _ratio(row, case["peer"]), _ratio(row, "reference"),
        ))  # fmt: skip
    return grid(("op", "layer", "caches", "peer", "ms, native", "faster than the peer", "than plain PyTorch"), lines)


def provenance(rows: Sequence[Row]) -> str:
    """Device, versions, roofs and commands of ``rows``, in one paragraph."""
    if not rows:
        return ""
    machine, last = rows[-1]["device"], rows[-1]
    named = ", ".join(f"{name} {value}" for name, value in machine.items() if value is not None)
    versions = ", ".join(f"{name} {value}" for name, value in last["versions"].items())
    low = {n: min(row["roofs"][n] for row in rows) for n in last["roofs"]}
    high = {n: max(row["roofs"][n] for row in rows) for n in last["roofs"]}
    roofs = (
        f"copy {low['copy_gbs']:.1f}–{high['copy_gbs']:.1f} GB/s, "
        f"matrix product {low['matrix_gflops']:.0f}–{high['matrix_gflops']:.0f} GFLOP/s"
    )
    commits = ", ".join(sorted({str(row["commit"]) for row in rows}))
    allocators = " and ".join(sorted({row["allocator"] for row in rows}))
    return (
        f"{named}; {versions}; memory of the allocator: {allocators}; roofs of these runs: {roofs}; commits {commits}."
    )


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "Whole images": generators,
    "Other runtimes at 256 px, batch 1": lambda rows: generators(rows, "other runtimes"),
    "MobileStyleGAN": mobile,
    "Widths": widths,
    "Layers": layers,
    "Plans by MACs and by time": plans,
    "A step of training": training,
    "Scores": scores,
    "Ops bound by memory, medians over layers": ops,
    "The peers' ops": peer_ops,
}
