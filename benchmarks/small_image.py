"""Shows where the time of a small image goes: ``python -m benchmarks.small_image``.

One image of each generator, by `cagc.runtime.compile`: the mapping network, the styles, the layers below 32 px, the
other layers, and what is left of the whole call, which is Python. Generators and storages of weights take turns round
after round; a figure is the median over the rounds. "share" is the realised share: the ratio of the times of the first
generator and this one, over the ratio of their MACs. "roof" is the sum of the layers' roofs of all operations (see
benchmarks.layers), and "of roofs" the realised share that they give.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import torch

from cagc import load_generator, runtime
from cagc.assets import checkpoint
from cagc.common.seeds import z_batch
from cagc.metrics.macs import count_macs

from .harness import keep_memory, pin_threads, roofs
from .tables import roof_ms

PARTS = ("mapping", "styles", "below 32 px", "other layers", "Python", "whole")
COLUMNS = ("generator", "weights", *PARTS, "share", "roof", "of roofs")


def parts(compiled: runtime.CompiledGenerator, z: torch.Tensor) -> dict[str, float]:
    """Return the milliseconds of each of :data:`PARTS` in one image of ``z`` [1, z_dim]."""
    sizes = {spec.name: spec.size[0] for spec in compiled.config.layers()}
    found = dict.fromkeys(PARTS, 0.0)
    for row in compiled.profile(z, repeats=1):
        layer = "below 32 px" if sizes.get(row["name"], 0) < 32 else "other layers"
        found[row["name"] if row["name"] in found else layer] += row["ms"]
    compiled(z)  # so that the timed call follows one like it
    start = time.perf_counter()
    compiled(z)
    found["whole"] = 1e3 * (time.perf_counter() - start)
    found["Python"] = found["whole"] - sum(found.values()) + found["whole"]
    return found


def table(paths: Sequence[str], storages: Sequence[str], rounds: int) -> list[dict[str, object]]:
    """Return rows of :data:`COLUMNS`: :data:`PARTS` and roofs in milliseconds, and realised shares."""
    generators = {path: load_generator(checkpoint(path)) for path in paths}
    compiled = {
        (path, storage): runtime.compile(generator, weights=None if storage == "default" else storage)
        for path, generator in generators.items()
        for storage in storages
    }
    times: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in compiled}
    for _ in range(rounds):
        for key, network in compiled.items():
            times[key].append(parts(network, z_batch([0], network.z_dim)))
    macs = {path: sum(count_macs(generator).values()) for path, generator in generators.items()}
    roof = {key: _roof(network) for key, network in compiled.items()}
    rows = []
    for (path, storage), found in times.items():
        medians = {part: statistics.median(one[part] for one in found) for part in PARTS}
        first = statistics.median(a["whole"] / b["whole"] for a, b in zip(times[paths[0], storage], found))
        stored = "/".join(dict.fromkeys(compiled[path, storage].storage.values())) or "float32"
        weights = f"{storage} ({stored})" if storage == "default" else storage
        kept, least = macs[path] / macs[paths[0]], roof[path, storage]
        limit = roof[paths[0], storage] / least * kept
        shares = {"share": first * kept, "roof": least, "of roofs": limit}
        rows.append({"generator": path, "weights": weights} | medians | shares)
    return rows


def _roof(compiled: runtime.CompiledGenerator) -> float:
    measured = roofs("cpu", torch.float32)
    rows = compiled.profile(z_batch([0], compiled.z_dim), repeats=1)
    return sum(roof_ms(row, measured, elementwise=True)[0] for row in rows)


def main(arguments: list[str] | None = None) -> int:
    """Print the tables, one for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["faces64", "faces64-student"]
    parser.add_argument("generators", nargs="*", default=names, help="files or names; default: %(default)s")
    parser.add_argument("--weights", nargs="+", default=["default", "float32"], help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args(arguments)
    keep_memory()
    for threads in options.threads:
        print(f"\n{pin_threads(threads)} threads, batch 1, milliseconds (median of {options.rounds} rounds)\n")
        print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
        for row in table(options.generators, options.weights, options.rounds):
            cells = [value if isinstance(value, str) else f"{value:.3f}" for value in map(row.get, COLUMNS)]
            print("| " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
