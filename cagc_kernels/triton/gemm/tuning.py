"""Time the configs of real layers on this GPU and store the winners: ``python -m cagc_kernels.triton.gemm.tuning``.

Writes a file for this device, driver and versions to the user's folder, from which the kernels read
(:mod:`.winners`), or to ``--out``: for each class of problems the winner, its time, the time of the default and the
number of candidates. Problems that are in the file already are skipped, so an interrupted run can be continued.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch

from ...arguments import Epilogue
from ..start import compiling
from . import configs, launch, winners
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


def output(p: Problem, config: Config) -> torch.Tensor:
    """Return what the layer of :func:`prepared` computes; the same operands in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return prepared(p, config)()


def tune(
    found: Iterable[Problem], device: str, out: Path, time: Callable[[Problem, Config], float] = milliseconds,
    prepare: Callable[[Iterable[Problem]], None] = compile_all,
    result: Callable[[Problem, Config], torch.Tensor] = output,
) -> int:  # fmt: skip
    """Add the winners of the problems that ``out`` lacks, writing after each one; return how many were added.

    A winner whose ``result`` differs from that of the default is passed over for the next one. A file of another
    environment counts as empty.
    """
    found = list(found)
    theirs, entries = winners.read(out)
    known = entries if found and theirs == winners.environment(device, found[0].arch) else {}
    missing = list({p.key: p for p in found if p.key not in known}.values())
    for i, p in enumerate(missing):
        if i % TOGETHER == 0:
            prepare(missing[i : i + TOGETHER])
        times = dict(configs.timed(p, lambda config, p=p: time(p, config)))
        config, entry = winners.fastest(p, times, partial(result, p))
        winners.keep(p, device, entry, out)
        best, base = times[config], times[configs.default(p)]
        print(f"{p.key}: {best:.4f} ms, the default {base:.4f} ms, {len(times)} candidates")
    winners.forget()
    return len(missing)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[256])
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=["full", "r8"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--dtypes", nargs="+", choices=("float16", "bfloat16", "tf32"), default=["float16"])
    parser.add_argument("--out", type=Path, help="default: a file for this environment in the user's folder")
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
    out = options.out or winners.users_file(device, 10 * major + minor)
    print(f"{tune(found, device, out)} winners added to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
