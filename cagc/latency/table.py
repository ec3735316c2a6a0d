"""Measured time of each layer of a generator at other widths, on the current device.

Few MACs do not imply little time: narrow layers are bound by memory and by overhead, and kernels run faster at some
widths than at others. A table is measured once per device, layer shapes and executor, and cached on disk.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from cagc_kernels import __version__
from cagc_kernels.environment import cache_folder
from cagc_kernels.names import slug

from ..common.callbacks import Progress
from ..common.documents import read_document, write_document
from ..common.errors import CagcError
from ..common.reading import reading
from ..models import AnyConfig, AnyGenerator, LayerSpec, build_generator
from .layers import check_executor, profile_layers
from .measure import machine_info

KIND, VERSION = "cagc-latency", 1
SHARES = (1 / 64, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)

Widths = Mapping[str, int]


def device_name(device: torch.device | str) -> str:
    """One line that names the hardware: processor, cores and threads, or the GPU."""
    info = machine_info(device)
    return info["gpu"] or f"{info['cpu']}, {info['cores']} cores, {info['threads']} threads"


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per layer on a grid of widths.

    Attributes:
        device: :func:`device_name` of the device that was measured.
        executor: "runtime" or "eager".
        batch: images per call.
        full: layer → width of the full generator.
        grid: layer → widths at which it was measured, ascending, the last one ``full``.
        ms: layer → [input width on its grid][output width on its grid], made monotonic: a narrower layer never costs
            more than a wider one.
        rgb: toRGB → [input width on its grid], where it is timed apart from the layer before.
        fixed: milliseconds that do not depend on widths: the mapping network.
        reads: toRGB → the layer that it reads. Empty for files that lack it, which are of StyleGAN2: every second
            layer, in order.
    """

    device: str
    executor: str
    batch: int
    full: dict[str, int]
    grid: dict[str, list[int]]
    ms: dict[str, list[list[float]]]
    rgb: dict[str, list[float]]
    fixed: float
    reads: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.reads:
            object.__setattr__(self, "reads", dict(zip(self.rgb, list(self.full)[1::2], strict=False)))
        images = {layer: rgb for rgb, layer in self.reads.items()}
        object.__setattr__(self, "_image_of", images)
        object.__setattr__(self, "_layer", lru_cache(maxsize=None)(self._interpolate))

    def cost(self, widths: Widths) -> float:
        """Milliseconds of ``batch`` images at ``widths`` (layer → width), interpolated between measured widths.

        A layer narrower than its narrowest measured width counts as that width.
        """
        names, total = list(self.full), self.fixed
        for below, name in zip(names, names[1:], strict=False):
            total += self._layer(name, below, widths[below], widths[name])
        return total

    def _interpolate(self, name: str, below: str, width_in: int, width_out: int) -> float:
        row, u = _place(self.grid[below], width_in)
        column, v = _place(self.grid[name], width_out)
        table = self.ms[name]
        low = (1 - v) * table[row][column] + v * table[row][column + 1]
        high = (1 - v) * table[row + 1][column] + v * table[row + 1][column + 1]
        ms = (1 - u) * low + u * high
        values = self.rgb.get(self._image_of.get(name))
        if values is not None:
            ms += (1 - v) * values[column] + v * values[column + 1]
        return ms

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        write_document(path, KIND, VERSION, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read what :meth:`save` wrote. Raises CagcError where the file is missing, damaged or another document."""
        with reading(KIND, path):
            table = cls(**read_document(path, KIND, VERSION))
            table._check_fields()
            return table

    def _check_fields(self) -> None:
        """Raise CagcError unless every field has its documented form."""
        if not isinstance(self.device, str) or not isinstance(self.executor, str) or not _is_table(self.fixed):
            raise CagcError("'device' or 'executor' is not a string, or 'fixed' not a finite number")
        if type(self.batch) is not int or self.batch < 1:
            raise CagcError(f"batch is {self.batch!r:.40}, expected an integer from 1 on")
        for layer, width in self.full.items():
            grid = self.grid[layer]
            if type(width) is not int or len(grid) < 2 or not all(type(n) is int and n > 0 for n in grid):
                raise CagcError(f"grid of {layer!r:.40} is {grid!r:.60}, expected widths, at least two")
            if any(b <= a for a, b in pairwise(grid)):
                raise CagcError(f"grid of {layer!r:.40} is not ascending")
        for below, layer in pairwise(self.full):
            rows, columns = len(self.grid[below]), len(self.grid[layer])
            if not _is_table(self.ms[layer], rows, columns):
                raise CagcError(f"ms of {layer!r:.40} is not a table of {rows} by {columns} finite numbers")
        for name, layer in self.reads.items():
            if name in self.rgb and not _is_table(self.rgb[name], len(self.grid[layer])):
                raise CagcError(f"rgb of {name!r:.40} is not a list of {len(self.grid[layer])} finite numbers")

    def check(self, generator: AnyGenerator) -> None:
        """Raise CagcError unless the table was measured for the layers of ``generator`` on its device."""
        if self.full != dict(generator.config.channels):
            raise CagcError(f"latency table: measured for layers {self.full}, got {generator.config.channels}")
        device = device_name(generator.w_avg.device)
        if self.device != device:
            raise CagcError(f"latency table: measured on {self.device}, got a generator on {device}; measure it there")


def _is_table(value: Any, *shape: int) -> bool:
    """Whether ``value`` is a finite number, or nested lists of such of this shape."""
    if shape:
        return isinstance(value, list) and len(value) == shape[0] and all(_is_table(v, *shape[1:]) for v in value)
    return type(value) in (int, float) and math.isfinite(value)


def _place(grid: list[int], width: int) -> tuple[int, float]:
    """Index of the interval of ``grid`` that contains ``width`` (clamped to the grid), and the position in it."""
    width = min(max(width, grid[0]), grid[-1])
    index = min(bisect_right(grid, width) - 1, len(grid) - 2)
    return index, (width - grid[index]) / (grid[index + 1] - grid[index])


def _grid(full: int, shares: tuple[float, ...]) -> list[int]:
    step = 8 if full >= 8 * len(shares) else 1
    found = {min(full, max(step, round(full * share / step) * step)) for share in shares} | {full}
    return sorted(found) if len(found) > 1 else [max(1, full // 2), full + (full == 1)]


def _monotonic(table: list[list[float]]) -> list[list[float]]:
    """Lower each entry to the minimum of all entries with both widths at least as large."""
    rows, columns = len(table), len(table[0])
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            below = table[i + 1][j] if i + 1 < rows else table[i][j]
            right = table[i][j + 1] if j + 1 < columns else table[i][j]
            table[i][j] = min(table[i][j], below, right)
    return table


def _images(config: AnyConfig) -> list[LayerSpec]:
    """The toRGB layers of a network whose convolutions form a chain.

    Raises CagcError for any other network, because its layers cannot be timed by alternating two widths.
    """
    names, images = list(config.channels), []
    following = dict(zip(names, names[1:], strict=False))
    for spec in config.layers():
        if spec.kind == "to_rgb":
            images.append(spec)
        elif spec.kind == "conv" and following.get(spec.reads) != spec.writes:
            raise CagcError(
                f"latency: got a generator of architecture {config.architecture!r}, whose {spec.name} leads from "
                f"{spec.reads} to {spec.writes}, expected convolutions that form a chain"
            )
    return images


def measure_table(
    generator: AnyGenerator,
    batch: int = 1,
    executor: str | None = None,
    repeats: int = 3,
    shares: tuple[float, ...] = SHARES,
    progress: Progress | None = None,
) -> LatencyTable:
    """Time every layer of ``generator``'s configuration, in place, at each pair of input and output widths.

    It runs whole generators with random weights whose layers alternate between two widths, so that every layer is timed
    between its usual neighbours. The grid consists of ``shares`` of the full widths. Takes about a minute at 256 px on
    two cores; ``progress(done, total)`` counts generators.
    """
    config, device = generator.config, generator.w_avg.device
    executor = check_executor(executor, device)
    full, names, images = dict(config.channels), list(config.channels), _images(config)
    grid = {name: _grid(width, shares) for name, width in full.items()}
    size = max(map(len, grid.values()))
    seen: dict[tuple[str, int, int], float] = {}
    fixed: list[float] = []
    for done, (a, b) in enumerate((a, b) for a in range(size) for b in range(size)):
        index = {name: min((a, b)[i % 2], len(grid[name]) - 1) for i, name in enumerate(names)}
        probe = _random(config, {n: grid[n][i] for n, i in index.items()}, generator)
        times = {row["name"]: row["ms"] for row in profile_layers(probe, batch, executor, repeats)}
        fixed.append(times.get("mapping", 0.0))
        styles = times.get("styles", 0.0) / sum(probe.config.channels.values())
        for below, name in zip(names, names[1:], strict=False):
            seen[name, index[below], index[name]] = times[name] + styles * grid[below][index[below]]
        for image in images:
            if image.row in times:
                place = image.name, index[image.reads], -1
                seen[place] = min(times[image.row], seen.get(place, times[image.row]))
        if progress is not None:
            progress(done + 1, size**2)
    ms, rgb = {}, {}
    for below, name in zip(names, names[1:], strict=False):
        ms[name] = _monotonic([[seen[name, i, j] for j in range(len(grid[name]))] for i in range(len(grid[below]))])
    for image in images:
        if (image.name, 0, -1) in seen:
            (rgb[image.name],) = _monotonic([[seen[image.name, i, -1] for i in range(len(grid[image.reads]))]])
    reads = {image.name: image.reads for image in images}
    return LatencyTable(device_name(device), executor, batch, full, grid, ms, rgb, median(fixed), reads)


def _random(config: AnyConfig, widths: Widths, like: AnyGenerator) -> AnyGenerator:
    with torch.random.fork_rng(devices=[]):
        made = build_generator(replace(config, channels=dict(widths)).to_dict())
    return made.to(like.w_avg).eval().requires_grad_(False)


def latency_table(
    generator: AnyGenerator,
    batch: int = 1,
    executor: str | None = None,
    path: str | Path | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """The table of ``generator``'s layers on its device, from the cache on disk or else measured and cached.

    Args:
        executor: "runtime" or "eager"; None: :func:`cagc.latency.layers.default_executor`.
        path: path of the document; None: in :func:`cache_folder`, named after the device.

    Raises:
        CagcError: the table at ``path`` is of other layers or another device, or the generator's convolutions do not
            form a chain.
        ValueError: ``batch`` is below 1, or ``executor`` is unknown.
    """
    _images(generator.config)
    if batch < 1:
        raise ValueError(f"batch: got {batch}, expected at least 1")
    executor = check_executor(executor, generator.w_avg.device)
    if path is not None and Path(path).exists():
        table = LatencyTable.load(path)
        table.check(generator)
        return table
    target = Path(path) if path is not None else _cache_path(generator, batch, executor)
    if path is None and target.exists():
        try:
            table = LatencyTable.load(target)
            table.check(generator)
            return table
        except CagcError:
            pass  # damaged or of an older version: measure again
    table = measure_table(generator, batch, executor, progress=progress)
    target.parent.mkdir(parents=True, exist_ok=True)
    table.save(target)
    return table


def _cache_path(generator: AnyGenerator, batch: int, executor: str) -> Path:
    device = device_name(generator.w_avg.device)
    versions = [torch.__version__, __version__]
    facts = [device, batch, executor, generator.config.to_dict(), str(generator.w_avg.dtype), *versions]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return cache_folder() / "latency" / f"{slug(device)}-{digest}.json"
