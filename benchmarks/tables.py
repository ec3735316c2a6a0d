"""Markdown tables from rows of benchmarks; :mod:`benchmarks.report` writes them into the README and docs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from .layers import roof_ms
from .layers import table as layer_table
from .results import Row

# In the order in which a table lists them; others follow by name.
ORDER = (
    "authors", "rosinality", "stylegan2-ada", "stylegan3", "grouped", "reference", "native",
    "torch.compile", "onnxruntime", "openvino", "runtime",
)  # fmt: skip
WIDTHS = ("full", "0.3", "0.3 by 8")
BATCHES = (1, 4, 8, 32)


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


def generators(rows: Sequence[Row], baseline: str = "grouped") -> str:
    """Whole images with warm caches: one row for each way to run each generator."""
    header = (
        "px", "batch", "memory", "widths", "run by", "ms an image (10th–90th percentile)", "images/s", "peak MB",
        "GMACs", f"faster than {baseline}, same widths", f"than {baseline}, full", "MACs cut", "faster than full",
        "realised share",
    )  # fmt: skip
    found = [row for row in of(rows, "generators") if row["case"]["widths"] in WIDTHS and row["cache"] == "warm"]
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


def summary(rows: Sequence[Row], batches: Sequence[int] | None = None) -> str:
    """The paid-out MAC cut of each resolution and batch, against the authors' code, or the grouped way without it."""
    usual = "authors" if any(row["implementation"] == "authors" for row in rows) else "grouped"
    several = batches is None or len(batches) > 1
    header = (
        "px, batch" if several else "px", "memory", "widths", "GMACs", "MACs cut", f"ms an image, {usual}", "runtime",
        "faster, same widths", f"than {usual}, full", "realised share",
    )  # fmt: skip
    found = {_generator_key(row): row for row in of(rows, "generators") if row["cache"] == "warm"}
    lines = []
    for row in sorted(found.values(), key=_generator_key):
        case, figures = row["case"], row["figures"]
        if row["implementation"] != "runtime" or row["dtype"] != "float32" or case["batch"] not in (batches or BATCHES):
            continue
        name = usual if f"{usual}, {case['widths']}" in row["ratios"] else "grouped"
        same = found.get(_generator_key(row | {"implementation": name}))
        lines.append((
            f"{case['resolution']}" + f", {case['batch']}" * several, row["allocator"], case["widths"],
            f"{row['macs'] / case['batch'] / 1e9:.2f}", _number(figures.get("MACs cut"), ".2f", "×"),
            f"{same['ms']['median'] / case['batch']:.1f}" + (f" ({name})" if name != usual else "") if same else "–",
            f"{row['ms']['median'] / case['batch']:.1f}", _ratio(row, f"{name}, {case['widths']}"),
            _ratio(row, f"{name}, full"), _number(figures.get("realised share"), ".2f"),
        ))  # fmt: skip
    return grid(header, lines)


def cold(rows: Sequence[Row]) -> str:
    """What an image costs when the caches were flushed before it, beside the warm row of the same run."""
    found = of(rows, "generators")
    warm = {_generator_key(row): row for row in found if row["cache"] == "warm"}
    lines = []
    for row in sorted((row for row in found if row["cache"] == "cold"), key=_generator_key):
        case, beside = row["case"], warm.get(_generator_key(row))
        if beside and (beside["command"], beside["commit"]) != (row["command"], row["commit"]):
            beside = None
        slower = beside and row["ms"]["median"] / beside["ms"]["median"]
        lines.append((
            str(case["resolution"]), case["widths"], row["implementation"], _ms(beside) if beside else "–", _ms(row),
            _number(slower, ".2f", "×"), _number(row["figures"].get("realised share"), ".2f"),
        ))  # fmt: skip
    return grid(("px", "widths", "run by", "ms, warm", "ms, cold", "slower", "realised share, cold"), lines)


def other_runtimes(rows: Sequence[Row]) -> str:
    """Whole images by other runtimes, in the same rounds as ours."""
    lines = []
    for row in sorted(of(rows, "generators", "other runtimes"), key=_generator_key):
        case, figures = row["case"], row["figures"]
        lines.append((
            case["widths"], row["implementation"], _ms(row), _number(figures.get("peak MB"), ".0f"),
            _ratio(row, f"grouped, {case['widths']}"), _number(figures.get("speed-up"), ".2f", "×"),
            _number(figures.get("realised share"), ".2f"),
        ))  # fmt: skip
    header = ("widths", "run by", "ms an image", "peak MB", "faster than grouped", "than itself, full")
    return grid((*header, "realised share"), lines)


def mobile(rows: Sequence[Row]) -> str:
    """MobileStyleGAN beside our student of its resolution."""
    lines = []
    for row in of(rows, "generators"):
        if row["implementation"] == "mobile-stylegan":
            beside = ", ".join(f"{name}: {1 / found['median']:.2f}" for name, found in row["ratios"].items())
            lines.append((str(row["case"]["resolution"]), f"{row['macs'] / 1e9:.2f}", _ms(row), beside))
    return grid(("px", "GMACs", "MobileStyleGAN under OpenVINO, ms", "its milliseconds over those of"), lines)


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


def _layer_groups(rows: Sequence[Row]) -> list[tuple[str, list[dict], dict[str, float]]]:
    """(title, layers as ``benchmarks.layers`` has them, roofs) of each generator whose layers were timed."""
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
            }
            for row in group
        ]  # fmt: skip
        made.append((f"{resolution} px, widths {width}, batch {batch}, {executor}", as_layers, group[0]["roofs"]))
    return made


def layers(rows: Sequence[Row]) -> str:
    """One table for each generator, as ``python -m benchmarks.layers`` prints it."""
    return "\n\n".join(
        f"{title}; {roof_line(roofs)}\n\n{layer_table(found, roofs)}" for title, found, roofs in _layer_groups(rows)
    )


def layer_sums(rows: Sequence[Row]) -> str:
    """How far whole generators are from the sum of their layers' roofs, and the layer with the most to gain."""
    lines = []
    for title, found, roofs in _layer_groups(rows):
        roof = [roof_ms(layer, roofs)[0] for layer in found]
        gain = {layer["name"]: layer["ms"] - least for layer, least in zip(found, roof, strict=True)}
        far, whole = max(gain, key=gain.__getitem__), sum(layer["ms"] for layer in found)
        lines.append((
            title, f"{whole:.1f}", f"{sum(roof):.1f}", f"{sum(roof) / whole:.0%}", f"{far}, {gain[far]:.2f} ms",
            roof_line(roofs),
        ))  # fmt: skip
    return grid(("generator", "ms", "roof ms", "of its roof", "most to gain", "roofs"), lines)


def roof_line(roofs: dict[str, float]) -> str:
    return f"copy {roofs['copy_gbs']:.1f} GB/s, matrix product {roofs['matrix_gflops']:.0f} GFLOP/s"


def training(rows: Sequence[Row]) -> str:
    lines = [
        (
            row["case"]["generator"], str(row["case"]["batch"]), row["dtype"], row["implementation"],
            f"{row['macs'] / 1e9:.1f}", _ms(row),
        )
        for row in of(rows, "training")
    ]  # fmt: skip
    return grid(("student of", "batch", "precision", "phase", "GMACs", "ms a step"), lines)


def scores(rows: Sequence[Row]) -> str:
    found = sorted(of(rows, "scores"), key=lambda r: (r["case"]["generator"], r["ms"]["median"]))
    lines = [
        (
            r["implementation"], r["case"]["generator"], str(r["case"]["samples"]), f"{r['macs'] / 1e9:.1f}",
            f"{r['figures']['seconds']:.2f}",
        )
        for r in found
    ]  # fmt: skip
    return grid(("score", "generator", "samples", "GMACs", "seconds"), lines)


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
        threads = str(case.get("threads", row["device"]["threads"]))
        kind = case["layer"].split()[0], case.get("pass", "forward"), row["dtype"], threads, row["implementation"]
        groups.setdefault(kind, []).append(row)
    lines = []
    for group, found in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] != "forward", item[0][2:])):
        shares = [
            [row["ratios"][name]["median"] for row in found if name in row["ratios"]] for name in ("copy", "torch")
        ]
        cells = (f"{median(s):.2f} ({min(s):.2f}–{max(s):.2f})" if s else "–" for s in shares)
        lines.append((*group, str(len(found)), *cells))
    return grid(("op", "pass", "dtype", "threads", "run by", "layers", "share of a copy", "times plain PyTorch"), lines)


def peer_ops(rows: Sequence[Row]) -> str:
    lines = []
    for row in of(rows, "peers"):
        case = row["case"]
        lines.append((
            case["op"], f"{case['channels']}×{case['side']}×{case['side']}", row["cache"], case["peer"],
            f"{row['ms']['median']:.3f}", _ratio(row, case["peer"]), _ratio(row, "reference"),
        ))  # fmt: skip
    return grid(("op", "layer", "caches", "peer", "ms, native", "faster than the peer", "than plain PyTorch"), lines)


def peer_medians(rows: Sequence[Row]) -> str:
    """How many times faster our op is than each peer's, medians over layers."""
    found = of(rows, "peers")
    kinds = sorted({row["case"]["op"] for row in found})
    lines = []
    for peer, cache in sorted(
        {(row["case"]["peer"], row["cache"]) for row in found}, key=lambda k: (k[0], k[1] != "warm")
    ):
        cells = []
        for kind in kinds:
            ratios = [
                row["ratios"][peer]["median"]
                for row in found
                if (row["case"]["peer"], row["cache"], row["case"]["op"]) == (peer, cache, kind)
            ]
            cells.append(f"{median(ratios):.1f}× ({min(ratios):.1f}–{max(ratios):.1f})" if ratios else "–")
        lines.append((peer, cache, *cells))
    return grid(("peer", "caches", *kinds), lines)


def sparse(rows: Sequence[Row]) -> str:
    """Layers read in place at a share of their channels, and a generator run so, beside the alternatives."""
    found, lines = of(rows, "sparse"), []
    others = ("sliced", "sliced channels_last", "gathered", "masked", "student", "full")
    for row in found:
        case = row["case"]
        name = case.get("layer") or f"generator {case['generator']} px"
        lines.append((name, _ms(row), *(_ratio(row, other) for other in others)))
    return grid(("layer", "ms, in place", *(f"faster than {other}" for other in others)), lines)
