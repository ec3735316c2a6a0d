"""Writes the pages of docs/performance: a summary for each device, and the long tables as separate files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from . import tables
from .results import Row

# Captions of the charts by name; docs/performance.md explains how to read them.
CAPTIONS = {
    "widths": "Time against MACs, 10 % to 100 % of every layer",
    "realised-share": "Realised share of the MAC cut",
    "roofline": "Layers and ops under the machine's roofs",
    "ops": "Memory-bound ops relative to a copy",
    "quality": "Quality against MACs",
}
# File → title and table.
LONG: dict[str, tuple[str, Callable[[Sequence[Row]], str]]] = {
    "generators": ("Whole images by every implementation", tables.generators),
    "widths": ("Widths from 10 % to 100 %, multiples of 8", tables.widths),
    "layers": ("Layers", tables.layers),
    "peers": ("The peers' ops, layer by layer", tables.peer_ops),
    "sparse": ("Layers read in place at 0.3 of their channels", tables.sparse),
}
Part = tuple[str, tuple[str, ...], Callable[[Sequence[Row]], str], tuple[str, ...], str]
# Title, charts, table, long files, and a sentence above the table.
SUMMARY: tuple[Part, ...] = (
    ("Speed-up by pruning", ("widths", "realised-share"), tables.summary, ("generators", "widths"), ""),
    (
        "With cold caches", (), tables.cold, (),
        "Batch 1. Caches are flushed before each image; all candidates of a resolution take turns.",
    ),
    ("Other runtimes", (), tables.other_runtimes, (), "256 px, batch 1, all of them in the same rounds."),
    ("MobileStyleGAN", (), tables.mobile, (), ""),
    ("Layers", ("roofline",), tables.layer_sums, ("layers",), ""),
    ("Plans by MACs and by time", (), tables.plans, (), ""),
    ("A step of training", (), tables.training, (), ""),
    ("Channel scores", (), tables.scores, (), ""),
    ("Memory-bound ops", ("ops",), tables.ops, (), "Medians over the layers of the 256 px generator."),
    (
        "Comparison with the peers' ops", (), tables.peer_medians, ("peers",),
        "Speed-up of our op over the peer's: median and range over four layers of the 256 px generator.",
    ),
    ("Sparse convolution", (), lambda rows: "", ("sparse",), "A layer with 0.3 of its channels, read in place, beside "
     "slices made beforehand, slices made in the call, and a full layer with zeros."),
)  # fmt: skip


def machine(rows: Sequence[Row]) -> str:
    """Return the machine's name, such as "AMD EPYC, 2 cores", or the GPU's."""
    device = rows[-1]["device"]
    return device["gpu"] or f"{device['cpu']}, {device['cores']} cores"


def versions(rows: Sequence[Row]) -> str:
    """Return threads, driver, system and package versions of ``rows`` on one line."""
    device = rows[-1]["device"]
    driver = [f"driver {device['driver']}"] if device["driver"] else []
    packages = {name: sorted({row["versions"][name] for row in rows if name in row["versions"]}) for name in PACKAGES}
    named = [f"{name} {' and '.join(found)}" for name, found in packages.items() if found]
    return ", ".join([f"{device['threads']} threads", *driver, device["system"], *named])


PACKAGES = ("cagc", "torch", "triton", "onnxruntime", "openvino", "python")


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f}" if f"{low:.0f}" == f"{high:.0f}" else f"{low:.0f}–{high:.0f}"


def runs(rows: Sequence[Row]) -> str:
    """Return a table of the commands that made ``rows``, with commit, allocator, and the roofs measured in the run."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["benchmark"], row["command"], str(row["commit"]), row["allocator"]), []).append(row)
    lines = []
    for (benchmark, command, commit, allocator), group in sorted(groups.items()):
        copies, rates = ([row["roofs"][name] for row in group] for name in ("copy_gbs", "matrix_gflops"))
        rounds = _range([row["ms"]["rounds"] for row in group])
        on = max(row["at"] for row in group)[:10]
        lines.append((benchmark, f"`{command}`", commit, on, rounds, allocator, _range(copies), _range(rates)))
    header = ("rows of", "command", "commit", "on", "rounds", "memory", "copy GB/s", "matrix GFLOP/s")
    return tables.grid(header, lines)


def summary(name: str, rows: Sequence[Row], pictures: Sequence[str]) -> str:
    """Return the section of docs/performance.md about the device whose results are in folder ``name``."""
    parts = [
        f"## Results: {machine(rows)}\n\n{versions(rows)}. [Commands, commits and roofs](performance/{name}/runs.md)."
    ]
    for title, shown, make, files, about in SUMMARY:
        links = [f"[{LONG[file][0]}](performance/{name}/{file}.md)" for file in files if LONG[file][1](rows)]
        body = [make(rows), *(f"![{CAPTIONS[p]}](performance/{name}/{p}.png)" for p in shown if p in pictures)]
        body = [part for part in [*body, " · ".join(links)] if part]
        if body:
            parts.append("\n\n".join([f"### {title}", *([about] if about else []), *body]))
    if "quality" in pictures:
        parts.append(f"### Quality\n\n![{CAPTIONS['quality']}](performance/{name}/quality.png)")
    return "\n\n".join(parts)


def long(folder: Path, rows: Sequence[Row]) -> dict[Path, str]:
    """Return the pages with one long table each, by file in ``folder``, for the tables that ``rows`` allow."""
    head = f"{machine(rows)}; {versions(rows)}. [Back](../../performance.md); [how these rows were made](runs.md)."
    pages = {
        folder / f"{file}.md": f"# {title}\n\n{head}\n\n{table}\n"
        for file, (title, make) in LONG.items()
        if (table := make(rows))
    }
    back = f"{machine(rows)}; {versions(rows)}. [Back](../../performance.md)."
    note = '"+" behind a commit: with changes that were committed later.'
    pages[folder / "runs.md"] = f"# How the rows were made\n\n{back}\n\n{runs(rows)}\n\n{note}\n"
    return pages
