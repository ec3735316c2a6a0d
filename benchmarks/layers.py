"""Times the layers of an image and compares each with its roof: ``python -m benchmarks.layers``.

The roof of a layer is the longer of two times: its multiplications at the matrix rate, and its bytes at the copy
bandwidth, both rates measured in the same run. A layer at 100 % is as fast as the machine allows; above 100 % its data
comes from a cache. Multiplications are those of the algorithm that runs: Winograd's needs fewer than the MACs say.
A second roof adds the operations of transforms, filters, epilogues and toRGB ("elementwise"), each of which takes as
long as a multiplication with an addition. It is no strict bound: some processors have further units for additions, and
may run them beside multiplications. "to gain" is the time above it: start with the largest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from cagc.latency.layers import EXECUTORS, check_executor, profile_layers
from cagc.models import GeneratorConfig

from . import generators
from .harness import default_device, keep_memory, pin_threads, roofs
from .results import RESULTS, Row, append, make_row
from .tables import layer_table, multiplications


def shape(config: GeneratorConfig, batch: int, name: str) -> tuple[int, ...]:
    """Return the output shape of layer ``name``; the mapping network and the styles give vectors."""
    for spec in config.layers():
        if spec.name == name:
            return (batch, spec.out_width, *spec.size)
    return (batch, config.w_dim if name == "mapping" else sum(config.channels.values()))


def as_rows(rows: list[dict], case: dict, config: GeneratorConfig, executor: str, device: str) -> list[Row]:
    """Return rows for a results file, one per layer; the time is a minimum, not a median."""
    made = []
    for row in rows:
        times = {executor: [row["ms"] / 1e3]}
        figures = {"kernel": row["kernel"], "multiplications": multiplications(row)}
        figures["elementwise"] = row.get("elementwise", 0)
        named = case | {"layer": row["name"]}
        work = {"shape": shape(config, case["batch"], row["name"]), "bytes": row["bytes"], "macs": row["macs"]}
        made.append(make_row("layers", executor, named, times, device, **work, figures=figures))
    return made


def main(arguments: list[str] | None = None) -> int:
    """Print the table, and with ``--results`` also write its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--widths", default="full", choices=tuple(generators.WIDTHS), help="default: full")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--executor", default=None, choices=EXECUTORS, help="default: the runtime where possible")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--results", type=Path, default=None, metavar="DIR", help=f"such as {RESULTS.name}/DEVICE")
    options = parser.parse_args(arguments)
    pin_threads(options.threads)
    keep_memory()
    device = default_device()
    try:
        executor = check_executor(options.executor, device)
        config = GeneratorConfig(
            options.resolution, generators.widths(options.resolution, *generators.WIDTHS[options.widths])
        )
        generator = generators.random_generator(config, device)
        rows = profile_layers(generator, options.batch, executor, options.repeats)
    except ValueError as error:
        parser.error(str(error))
    measured = roofs(device, torch.float32)
    print(f"{options.resolution} px, widths {options.widths}, batch {options.batch}, {executor}, {device}: {measured}")
    print(layer_table(rows, measured))
    if options.results is not None:
        case = {"resolution": options.resolution, "widths": options.widths, "batch": options.batch}
        append(options.results / "layers.jsonl", as_rows(rows, case, config, executor, device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
