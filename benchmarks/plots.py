"""Pictures of committed results, by matplotlib; :mod:`benchmarks.report` writes them into docs/performance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .layers import multiplications, roof_ms
from .results import Row
from .tables import ORDER, WIDTHS, of

COLOURS = {
    "runtime": "#1b7837",
    "grouped": "#b2182b",
    "native": "#4393c3",
    "reference": "#878787",
    "authors": "#762a83",
}
# So that the same results give the same file.
METADATA = {"Software": None}


def _axes(width: float = 6.4, height: float = 4.4):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), dpi=110, layout="constrained")
    axes.grid(True, which="both", alpha=0.25, linewidth=0.6)
    return figure, axes


def _colour(name: str) -> str:
    return COLOURS.get(name, "#d6604d")


def widths(rows: Sequence[Row]) -> Any:
    """MACs against milliseconds, both as shares of the full generator; on the diagonal the cut is paid out in full."""
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
    """Realised share of the MAC cut per resolution and batch, one bar a way of running."""
    found = [row for row in of(rows, "generators") if row["figures"].get("realised share")]
    found = [row for row in found if row["case"]["widths"] == WIDTHS[1] and row["allocator"] == found[0]["allocator"]]
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
    """Achieved GFLOP/s of every layer against its arithmetic intensity, under the measured roofs."""
    found = [row for row in of(rows, "layers") if row["macs"] and row["bytes"] and row["case"]["layer"] != "mapping"]
    if not found:
        return None
    figure, axes = _axes()
    roofs = found[-1]["roofs"]
    intensities = [0.3 * 1.3**i for i in range(34)]
    roof = [min(roofs["matrix_gflops"], roofs["copy_gbs"] * intensity) for intensity in intensities]
    axes.plot(intensities, roof, color="black", linewidth=1.2, label="copy bandwidth and matrix rate, measured")
    for number, width in enumerate(WIDTHS):
        group = [row for row in found if row["case"]["widths"] == width]
        if group:
            x = [2 * _done(row) / row["bytes"] for row in group]
            y = [2 * _done(row) / row["ms"]["median"] / 1e6 for row in group]
            axes.plot(x, y, "os^"[number], markersize=5, alpha=0.8, label=f"layers, widths {width}")
    axes.set(xscale="log", yscale="log", xlabel="FLOP for each byte moved", ylabel="GFLOP/s that the algorithm does")
    far = max(found, key=lambda row: row["ms"]["median"] - roof_ms(_layer(row), row["roofs"])[0])
    at = (2 * _done(far) / far["bytes"], 2 * _done(far) / far["ms"]["median"] / 1e6)
    axes.annotate(
        f"{far['case']['layer']}, {far['case']['widths']}:\nmost to gain", at, (0, -34), textcoords="offset points",
        fontsize=7, arrowprops={"arrowstyle": "-", "linewidth": 0.6},
    )  # fmt: skip
    axes.set_title(
        f"Layers under their roofs, {found[-1]['case']['resolution']} px, batch {found[-1]['case']['batch']}"
    )
    axes.legend(fontsize=8)
    return figure


def ops(rows: Sequence[Row]) -> Any:
    """Bandwidth of each op on each layer, as a share of a copy of the same bytes."""
    found = [
        row
        for row in of(rows, "ops")
        if (row["dtype"], row["cache"], row["case"].get("pass", "forward")) == ("float32", "warm", "forward")
        and row["case"].get("threads", row["device"]["threads"]) == row["device"]["threads"]
        and "copy" in row["ratios"]
    ]
    if not found:
        return None
    figure, axes = _axes()
    kinds = sorted({row["case"]["layer"].split()[0] for row in found})
    for kind in kinds:
        group = [row for row in found if row["case"]["layer"].split()[0] == kind]
        x = [row["bytes"] / 1e6 for row in group]
        y = [row["ratios"]["copy"]["median"] for row in group]
        axes.plot(x, y, "o", markersize=4, alpha=0.7, label=kind)
    axes.axhline(1, color="black", linewidth=1, label="a copy of as many bytes")
    axes.set(
        xscale="log", xlabel="MB read and written", ylabel="bandwidth, share of a copy's", title="Ops bound by memory"
    )
    axes.legend(fontsize=8)
    return figure


def quality(document: dict[str, Any]) -> Any:
    """Quality against MACs of the students in a ``compression.json`` of ``bench_compression``."""
    students = [row for row in document["rows"].values() if row.get("frechet_to_teacher") is not None]
    if not students:
        return None
    figure, axes = _axes()
    for label in sorted({row["label"] for row in students}):
        group = [row for row in students if row["label"] == label]
        axes.plot([r["macs"] / 1e9 for r in group], [r["frechet_to_teacher"] for r in group], "o", label=label)
    axes.set(
        xscale="log", xlabel="GMACs an image", ylabel="Fréchet distance to the teacher", title="Quality against MACs"
    )
    axes.legend(fontsize=8)
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
