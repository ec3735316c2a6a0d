"""Time the configs of real layers on this machine's GPU and keep the winners: ``python -m cagc_kernels.triton.tune``.

Writes ``configs/<device>.json`` beside this file, or to ``--out``: for each class of problems the winner, its time, the
time of the default and of how many candidates. Problems that the file has are skipped, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import triton

from . import configs, launch
from .configs import Config, Problem
from .layers import WIDTHS, problems
from .packing import PackedWeight, pack


def milliseconds(p: Problem, config: Config) -> float:
    """Median time of the layer on the GPU with packed weights, modulation, noise, bias and activation included."""
    dtype = torch.float32 if p.dtype == "tf32" else getattr(torch, p.dtype)
    plain = p.modes == (configs.PLAIN,)
    scale = 1 if plain else 2

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda", dtype=dtype)

    x = random(p.n, p.ci, p.h, p.w).contiguous(memory_format=torch.channels_last)
    f = torch.tensor([1.0, 3.0, 3.0, 1.0], device="cuda").outer(torch.tensor([1.0, 3.0, 3.0, 1.0], device="cuda")) / 64
    weight = random(p.co, p.ci, p.k, p.k) / (p.ci * p.k**2) ** 0.5
    packed: PackedWeight = pack(weight, dtype, config.mode, None if plain else f, flip_weight=plain)
    noise = random(1, 1, p.h * scale, p.w * scale)
    epilogue = launch.Epilogue(noise, random(p.co), None, "lrelu", 0.2, 2**0.5, 256.0)
    padding = (p.k // 2, p.k // 2)
    styles = random(p.n, p.ci)
    return launch.milliseconds(lambda: launch.layer(x, packed, styles, epilogue, config, padding))


def tune(
    found: Iterable[Problem], device: str, out: Path, time: Callable[[Problem, Config], float] = milliseconds
) -> int:
    """Add the winners of the problems that ``out`` lacks to it, after each one; how many were added."""
    document = json.loads(out.read_text()) if out.is_file() else {}
    winners = document.setdefault("winners", {})
    document |= {"device": device, "torch": torch.__version__, "triton": triton.__version__}
    added = 0
    for p in found:
        if p.key in winners:
            continue
        times = dict(configs.timed(p, lambda config, p=p: time(p, config)))
        config = min(times, key=times.get)
        base = configs.default(p)
        winners[p.key] = {
            "config": config._asdict(), "ms": round(times[config], 5), "default_ms": round(times[base], 5),
            "candidates": len(times),
        }  # fmt: skip
        _write(out, document)
        added += 1
        print(f"{p.key}: {times[config]:.4f} ms, the default {times[base]:.4f} ms, {len(times)} candidates")
    return added


def _write(path: Path, document: dict) -> None:
    """The whole file or the one before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(document, indent=1) + "\n")
    beside.replace(path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[256])
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=["full", "r8"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--dtypes", nargs="+", choices=("float16", "bfloat16", "tf32"), default=["float16"])
    parser.add_argument("--out", type=Path, help="default: configs/<device>.json beside the kernels")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("tune: expected a CUDA device, found none", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_name()
    major, minor = torch.cuda.get_device_capability()
    torch.backends.cudnn.allow_tf32 = True
    found = (
        p
        for dtype in options.dtypes
        for resolution in options.resolutions
        for widths in options.widths
        for batch in options.batches
        for p in problems(resolution, widths, batch, dtype, 10 * major + minor)
    )
    out = options.out or configs.FOLDER / f"{configs.slug(device)}.json"
    print(f"{tune(found, device, out)} winners added to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
