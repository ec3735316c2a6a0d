"""Draws charts of committed results with matplotlib; :mod:`benchmarks.report` writes them into docs/performance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .headline import USUAL
from .results import Row
from .tables import ORDER, WIDTHS, multiplications, of, roof_ms

COLOURS = {
    "runtime": "#1b7837",
    "grouped": "#b2182b",
    "native": "#4393c3",
    "reference": "#878787",
    "authors": "#762a83",
}
# The same results give the same file.
METADATA = {"Software": None}


def _axes(width: float = 6.4, height: float = 4.4, columns: int = 1):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(width, height), dpi=110, layout="constrained")
    for each in [axes] if columns == 1 else axes:
        each.grid(True, which="both", alpha=0.25, linewidth=0.6)
    return figure, axes


def _colour(name: str) -> str:
    return COLOURS.get(name, "#d6604d")


def widths(rows: Sequence[Row]) -> Any:
    """Plot MACs against milliseconds, relative to the full generator; on the diagonal the whole cut became time."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in of(rows, "widths"):
        groups.setdefault((row["case"]["resolution"], row["implementation"]), []).append(row)
    if not groups:
        return None
    figure, axes = _axes()
    axes.plot([0.005, 1], [0.005, 1], color="black", linewidth=1, label="the promise: time falls as MACs do")
    for (resolution, name), group in sorted(groups.items()):
        group.sort(key=lambda row: row["macs"])
        full = group[-1]
        x = [row["macs"] / full["macs"] for row in group]
        y = [[row["ms"][part] / full["ms"]["median"] for row in group] for part in ("median", "p10", "p90")]
        style = "o-" if resolution == max(r for r, _ in groups) else "s--"
        line = axes.plot(x, y[0], style, color=_colour(name), markersize=4, label=f"{resolution} px, {name}")[0]
        axes.fill_between(x, y[1], y[2], color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(
        xscale="log", yscale="log", xlabel="MACs, share of the full generator", ylabel="time, share of the full one"
    )
    axes.set_title("Widths from 10 % to 100 %, batch 1")
    axes.legend(fontsize=8)
    return figure


def realised(rows: Sequence[Row]) -> Any:
    """Plot the realised share of the MAC cut by resolution and batch, with one bar per way of running."""
    found = [row for row in of(rows, "generators") if row["cache"] == "warm" and row["figures"].get("realised share")]
    usual = [row for row in found if row["allocator"] == USUAL["allocator"]] or found
    found = [row for row in usual if row["case"]["widths"] == WIDTHS[1]]
    cases = sorted({(r["case"]["resolution"], r["case"]["batch"], r["dtype"]) for r in found})
    names = sorted({r["implementation"] for r in found}, key=lambda n: (ORDER.index(n) if n in ORDER else 99, n))
    if not cases:
        return None
    figure, axes = _axes(1.5 + 1.1 * len(cases))
    for i, name in enumerate(names):
        heights = [
            next(
                (
                    r["figures"]["realised share"]
                    for r in found
                    if r["implementation"] == name and (r["case"]["resolution"], r["case"]["batch"], r["dtype"]) == case
                ),
                0.0,
            )
            for case in cases
        ]
        places = [j + (i - (len(names) - 1) / 2) * 0.8 / len(names) for j in range(len(cases))]
        axes.bar(places, heights, 0.8 / len(names), label=name, color=_colour(name) if name in COLOURS else None)
    axes.axhline(1, color="black", linewidth=1)
    half = {"float32": "", "float16": "\nfp16", "bfloat16": "\nbf16"}
    axes.set_xticks(range(len(cases)), [f"{r} px\nbatch {b}{half.get(d, d)}" for r, b, d in cases])
    axes.set(ylabel="speed-up over full / MAC cut", title="Realised share at 0.3 of every layer")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    return figure


def _layer(row: Row) -> dict[str, Any]:
    return row | {"multiplications": row["figures"].get("multiplications")}


def _done(row: Row) -> int:
    return multiplications(_layer(row))


def roofline(rows: Sequence[Row]) -> Any:
    """Plot the achieved GFLOP/s of every layer and op against its arithmetic intensity, under the measured roofs."""
    found = [row for row in of(rows, "layers") if row["macs"] and row["bytes"] and row["case"]["layer"] != "mapping"]
    if not found:
        return None
    figure, axes = _axes(7.2, 5.0)
    roofs = found[-1]["roofs"]
    intensities = [0.2 * 1.3**i for i in range(27)]
    roof = [min(roofs["matrix_gflops"], roofs["copy_gbs"] * intensity) for intensity in intensities]
    axes.plot(intensities, roof, color="black", linewidth=1.2, label="copy bandwidth and matrix rate, measured")
    for number, width in enumerate(WIDTHS):
        group = [row for row in found if row["case"]["widths"] == width]
        if group:
            x = [2 * _done(row) / row["bytes"] for row in group]
            y = [2 * _done(row) / row["ms"]["median"] / 1e6 for row in group]
            axes.plot(x, y, "os^"[number], markersize=5, alpha=0.8, label=f"layers, widths {width}")
    for marker, (kind, group) in zip("+x1|", sorted(_op_kinds(rows).items()), strict=False):
        if not (group := [row for row in group if row["macs"]]):
            continue
        x = [2 * row["macs"] / row["bytes"] for row in group]
        y = [2 * row["macs"] / row["ms"]["median"] / 1e6 for row in group]
        axes.plot(x, y, marker, markersize=6, alpha=0.8, label=f"{kind}, every layer")
    axes.set(xscale="log", yscale="log", xlabel="FLOP for each byte moved", ylabel="GFLOP/s that the algorithm does")
    far = max(found, key=lambda row: row["ms"]["median"] - roof_ms(_layer(row), row["roofs"])[0])
    at = (2 * _done(far) / far["bytes"], 2 * _done(far) / far["ms"]["median"] / 1e6)
    axes.annotate(
        f"{far['case']['layer']}, {far['case']['widths']}:\nmost to gain", at, (0, -44), textcoords="offset points",
        fontsize=7, arrowprops={"arrowstyle": "-", "linewidth": 0.6},
    )  # fmt: skip
    case = found[-1]["case"]
    axes.set_title(f"Layers and ops under their roofs, {case['resolution']} px, batch {case['batch']}")
    axes.legend(fontsize=8)
    return figure


def _op_kinds(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the forward rows in float32 with all threads, by op."""
    kinds: dict[str, list[Row]] = {}
    for row in of(rows, "ops"):
        case, threads = row["case"], row["device"]["threads"]
        usual = (row["dtype"], row["cache"], case.get("pass", "forward")) == ("float32", "warm", "forward")
        if usual and case.get("threads", threads) == threads and "copy" in row["ratios"]:
            kinds.setdefault(case["layer"].split()[0], []).append(row)
    return kinds


def ops(rows: Sequence[Row]) -> Any:
    """Plot the bandwidth of each op on each layer, relative to a copy of the same bytes."""
    kinds = _op_kinds(rows)
    if not kinds:
        return None
    figure, axes = _axes()
    for kind, group in sorted(kinds.items()):
        x = [row["bytes"] / 1e6 for row in group]
        y = [row["ratios"]["copy"]["median"] for row in group]
        axes.plot(x, y, "o", markersize=4, alpha=0.7, label=kind)
    axes.axhline(1, color="black", linewidth=1, label="a copy of as many bytes")
    axes.set(
        xscale="log", xlabel="MB read and written", ylabel="bandwidth, share of a copy's", title="Ops bound by memory"
    )
    axes.legend(fontsize=8)
    return figure


def quality(*documents: dict[str, Any]) -> Any:
    """Plot quality against MACs of the students of ``bench_compression``; a line joins labels that end in a budget."""
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    groups: dict[str, list[dict[str, Any]]] = {}
    for row in (row for document in documents for row in document["rows"].values()):
        groups.setdefault(row["label"].rsplit(", 1/", 1)[0], []).append(row)
    measures = {"frechet_to_teacher": "Fréchet distance to the teacher", "content_l1": "content L1 to the teacher"}
    if not groups:
        return None
    figure, (left, right) = _axes(9.6, 5.2, 2)
    for axes, (measure, name) in zip((left, right), measures.items(), strict=True):
        for number, (label, group) in enumerate(sorted(groups.items())):
            group = sorted((row for row in group if row.get(measure) is not None), key=lambda row: row["macs"])
            style = "os^D"[number // 10 % 4]  # there are ten colours
            style += "-" if any(", 1/" in row["label"] for row in group) else ""
            values = [row[measure] for row in group]
            axes.plot([r["macs"] / 1e9 for r in group], values, style, color=f"C{number}", label=label)
        axes.set(xscale="log", xlabel="GMACs an image", ylabel=name)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5])
    figure.suptitle("Quality against MACs")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


PLOTS: dict[str, Callable[[Sequence[Row]], Any]] = {
    "widths": widths,
    "realised-share": realised,
    "roofline": roofline,
    "ops": ops,
}


def save(figure: Any, path: Path) -> None:
    """Write ``figure`` as PNG and close it."""
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata=METADATA)
    pyplot.close(figure)
