"""Lists what became slower: ``python -m benchmarks.compare before.jsonl after.jsonl``.

A measurement counts as slower if its new 10th percentile is above its old 90th percentile. If the machine's roofs,
measured in the same runs, were lower by more than a tenth, the line says so. Results of different devices are refused.

Exit status: 0 nothing slower, 1 something slower, 2 the files cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from .results import Loaded, Row, read


class Incomparable(ValueError):
    """Two files of results that cannot be compared."""


def _device(rows: Iterable[Row], what: str) -> dict[str, object]:
    # Cases that set their own number of threads record it in "case".
    named = [row["device"] | {"threads": None} if "threads" in row["case"] else row["device"] for row in rows]
    devices = {tuple(sorted((k, str(v)) for k, v in device.items())) for device in named}
    if len(devices) != 1:
        raise Incomparable(f"{what}: got rows of {len(devices)} devices, expected one")
    return dict(devices.pop())


def check_devices(before: Loaded, after: Loaded) -> None:
    """Raise Incomparable if a file is empty or mixes devices, or if the two files have different devices."""
    first, second = _device(before.rows, "before"), _device(after.rows, "after")
    if first != second:
        changed = [
            f"{k} {first.get(k)} → {second.get(k)}" for k in sorted(first | second) if first.get(k) != second.get(k)
        ]
        raise Incomparable(f"the device changed: {', '.join(changed)}")


def _label(row: Row) -> str:
    case = " ".join(f"{k}={v}" for k, v in row["case"].items())
    return f"{row['benchmark']} {row['implementation']} {case} {row['dtype']} {row['cache']}"


def _machine(before: Row, after: Row) -> str:
    roofs = [(before.get("roofs") or {}).get(n, 0) / max((after.get("roofs") or {}).get(n, 0), 1e-9) for n in ROOFS]
    return (
        f"; the machine's roofs were {' and '.join(f'{r:.2f}' for r in roofs)} times lower" if max(roofs) > 1.1 else ""
    )


ROOFS = ("copy_gbs", "matrix_gflops")


def slower(before: Loaded, after: Loaded) -> list[str]:
    """Return a line for each measurement that is slower in ``after`` beyond the spread of both runs."""
    old, lines = before.latest(), []
    for name, row in after.latest().items():
        if name not in old:
            continue
        a, b = old[name]["ms"], row["ms"]
        if b["p10"] > a["p90"]:
            lines.append(
                f"{b['median'] / a['median']:.2f}x  {_label(row)}: {a['median']:.3f} "
                f"({a['p10']:.3f}–{a['p90']:.3f}) → {b['median']:.3f} ({b['p10']:.3f}–{b['p90']:.3f}) ms"
                + _machine(old[name], row)
            )
    return sorted(lines, reverse=True)


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison; see the module's docstring for the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    try:
        before, after = read(options.before), read(options.after)
        for path, loaded in ((options.before, before), (options.after, after)):
            if skipped := loaded.skipped():
                print(f"{path}: skipped {skipped}")
        check_devices(before, after)
    except (OSError, Incomparable) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    lines, shared = slower(before, after), len(before.latest().keys() & after.latest().keys())
    print("\n".join([*lines, f"{len(lines)} of {shared} measurements slower beyond their spread"]))
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
