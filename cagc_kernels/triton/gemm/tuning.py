"""Time the configs of real layers on this GPU and store the winners: ``python -m cagc_kernels.triton.gemm.tuning``.

Writes ``<device>.json`` to the folder that the kernels read (:mod:`.configs`), or to ``--out``: for each class of
problems the winner, its time, the time of the default and the number of candidates. Problems that are in the file
already are skipped, so an interrupted run can be continued.
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

from ...arguments import Epilogue
from ...names import slug
from ..start import compiling
from . import configs, launch
from .configs import Config, Problem
from .layers import WIDTHS, problems
from .packing import pack

# Problems that are compiled before the first of them is timed; an interrupted run loses at most these.
TOGETHER = 8


def prepared(p: Problem, config: Config, device: str = "cuda") -> Callable[[], torch.Tensor]:
    """Return a call that runs the problem as a layer of a frozen generator: packed weights, noise, bias, activation.

    As in the generator, an up-sampling layer modulates its input, and its output for the next layer, which then does
    not modulate.
    """
    dtype = torch.float32 if p.dtype == "tf32" else getattr(torch, p.dtype)
    up = p.modes != (configs.PLAIN,)
    scale = 2 if up else 1

    def random(*shape: int, like: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=like)

    x = random(p.n, p.ci, p.h, p.w, like=dtype).contiguous(memory_format=torch.channels_last)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=device) / 8
    weight = random(p.co, p.ci, p.k, p.k) / (p.ci * p.k**2) ** 0.5
    packed = pack(weight, dtype, config.mode, taps.outer(taps) if up else None, flip_weight=not up)
    noise, next_styles = random(1, 1, p.h * scale, p.w * scale, like=dtype), random(p.n, p.co) if up else None
    epilogue = Epilogue(noise, random(p.co), next_styles, "lrelu", 0.2, 2**0.5, 256.0)
    padding, styles = (p.k // 2, p.k // 2), random(p.n, p.ci)
    return lambda: launch.layer(x, packed, styles, epilogue, config, padding, modulate=up)


def milliseconds(p: Problem, config: Config) -> float:
    """Return the median time of the layer on the GPU."""
    return launch.milliseconds(prepared(p, config))


def compile_all(found: Iterable[Problem]) -> None:
    """Compile the candidates of the problems in parallel, because compiling takes most of the time."""
    seen = set()
    with compiling():
        for p in found:
            for config in configs.candidates(p):
                # A compiled kernel does not depend on the numbers of images and pixels.
                kind = p._replace(n=1, h=4, w=4), config
                if kind not in seen:
                    seen.add(kind)
                    prepared(*kind)()


def tune(
    found: Iterable[Problem], device: str, out: Path, time: Callable[[Problem, Config], float] = milliseconds,
    prepare: Callable[[Iterable[Problem]], None] = compile_all,
) -> int:  # fmt: skip
    """Add the winners of the problems that ``out`` lacks, writing after each one; return how many were added."""
    document = json.loads(out.read_text()) if out.is_file() else {}
    winners = document.setdefault("winners", {})
    document |= {"device": device, "torch": torch.__version__, "triton": triton.__version__}
    missing = list({p.key: p for p in found if p.key not in winners}.values())
    for i, p in enumerate(missing):
        if i % TOGETHER == 0:
            prepare(missing[i : i + TOGETHER])
        times = dict(configs.timed(p, lambda config, p=p: time(p, config)))
        config = min(times, key=times.get)
        base = configs.default(p)
        winners[p.key] = {
            "config": config._asdict(), "ms": round(times[config], 5), "default_ms": round(times[base], 5),
            "candidates": len(times),
        }  # fmt: skip
        _write(out, document)
        print(f"{p.key}: {times[config]:.4f} ms, the default {times[base]:.4f} ms, {len(times)} candidates")
    configs.winners.cache_clear()
    return len(missing)


def _write(path: Path, document: dict) -> None:
    """Write the file atomically."""
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
    parser.add_argument(
        "--out", type=Path, help="default: <device>.json in CAGC_TRITON_CONFIGS, or in configs beside the kernels"
    )
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
    out = options.out or configs.FOLDER / f"{slug(device)}.json"
    print(f"{tune(found, device, out)} winners added to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
