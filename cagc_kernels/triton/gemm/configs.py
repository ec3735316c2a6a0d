"""Which kernel variant and which tile a convolution takes on a GPU.

:func:`default` is a rule read from compiled code (registers, loop instructions, bytes and operations of an H100): no
card has timed it yet. ``python -m cagc_kernels.triton.gemm.tuning`` times the :func:`candidates` on a card and writes
the winners to ``configs/<device>.json`` of the folder above, or to the folder ``CAGC_TRITON_CONFIGS``, from where
:func:`choose` takes them; ``CAGC_TRITON_AUTOTUNE=1`` does the same for each new problem of the running process, without
writing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ...names import slug

PLAIN, POLYPHASE, TRANSPOSED = range(3)

# "tf32" is float32 whose products may be rounded.
HALF = ("float16", "bfloat16")

FOLDER = Path(os.environ.get("CAGC_TRITON_CONFIGS") or Path(__file__).parent.with_name("configs"))

# Of an H100: float16 operations and bytes per second, seconds per launch under a CUDA graph, multiprocessors.
PEAK, BANDWIDTH, LAUNCH, PROCESSORS = 798e12, 3.0e12, 1.5e-6, 132


class Problem(NamedTuple):
    """A convolution of ``n`` images: ``modes`` can compute it; ``h`` x ``w`` pixels of x, of the output for PLAIN.

    ``arch`` is the compute capability, 90 for 9.0; ``gather``: channels of a larger weight, read through indices.
    """

    dtype: str
    n: int
    h: int
    w: int
    ci: int
    co: int
    k: int
    modes: tuple[int, ...] = (PLAIN,)
    gather: bool = False
    arch: int = 90

    @property
    def key(self) -> str:
        """The class of problems that share a winner: the number of pixels counts to the next power of two."""
        pixels = 1 << max(0, self.n * self.h * self.w - 1).bit_length()
        up = 1 if self.modes == (PLAIN,) else 2
        return f"{'gather ' * self.gather}{self.dtype} k{self.k} up{up} {self.ci}>{self.co} pixels {pixels}"


class Config(NamedTuple):
    """A variant of the kernel: tile ``bm`` x (``bn`` + ``bn2``) x ``bk``, the reduction in ``split`` parts."""

    mode: int
    bm: int
    bn: int
    bn2: int
    bk: int
    warps: int
    stages: int
    split: int = 1
    packed: bool = False


def _bytes(dtype: str) -> int:
    return 2 if dtype in HALF else 8 if dtype == "float64" else 4


def mode(p: Problem) -> int:
    """The variant with the lower roof: polyphase executes four times the operations, in one pass over memory.

    That is polyphase for up to about 80 input channels, and for small layers at batch 1.
    """
    if len(p.modes) == 1:
        return p.modes[0]
    size, pixels = _bytes(p.dtype), p.n * p.h * p.w
    operations, weights = 2 * 9 * pixels * p.ci * p.co, 9 * p.ci * p.co * size
    x, y, between = pixels * p.ci * size, 4 * pixels * p.co * size, 4 * pixels * p.co * size
    polyphase = max(4 * operations / PEAK, (x + y + 4 * weights) / BANDWIDTH)
    transposed = max(operations / PEAK, (x + between + weights) / BANDWIDTH) + (between + y) / BANDWIDTH + LAUNCH
    return POLYPHASE if polyphase < transposed else TRANSPOSED


# Tile widths with a second accumulator, and those of split-K, which has none.
_WIDTHS = ((256, 0), (128, 32), (128, 0), (64, 16), (64, 0), (32, 16), (32, 0), (16, 0))
_NARROW = ((64, 0), (32, 0), (16, 0))


def _width(columns: int, widths: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(bn, bn2) that pads the columns least, where a tile costs as much as 8 columns; of equal ones, the widest."""

    def cost(width: tuple[int, int]) -> tuple[int, int]:
        tiles = -(-columns // sum(width))
        return tiles * (sum(width) + 8), -sum(width)

    return min(widths, key=cost)


def _tile(p: Problem, variant: int, columns: int, count: Callable[[int, int], int]) -> tuple[int, int, int, int]:
    """(bm, bn, bn2, warps): the best tile, or a smaller one where it leaves multiprocessors idle."""
    widths = _WIDTHS if p.dtype in HALF else _WIDTHS[2:] if p.dtype == "tf32" else _NARROW
    # What takes registers spills with the widest tiles: the phases of a transposed convolution, the operands of
    # mma.sync, weights gathered one by one.
    most = 128 if p.gather or p.arch < 90 else 160 if variant == TRANSPOSED else 256
    bn, bn2 = _width(columns, [v for v in widths if sum(v) <= most])
    phases = p.arch < 90 and variant == POLYPHASE and bn == 128
    sizes = [
        (128, bn, bn2, 8 if bn == 256 or bn + bn2 == 80 or phases else 4),
        (64, bn, bn2, 8 if p.ci % 8 or p.arch < 90 and p.gather else 4),
    ]
    if bn == 256:
        sizes[1:] = [(128, 128, 0, 4), (64, 128, 0, 4), (64, 64, 0, 4)]
    elif bn + bn2 == 160 or p.dtype == "float32" or p.ci % 8:
        # 128 rows take all registers: of 160 columns, of float32 without tensor cores, of loads of single values.
        del sizes[0]
    filled = [size for size in sizes if count(size[0], size[1] + size[2]) >= 0.75 * PROCESSORS]
    return filled[0] if filled else sizes[-1]


def default(p: Problem, variant: int | None = None) -> Config:
    """The tile that compiled code suggests; no card has timed it."""
    variant = mode(p) if variant is None else variant
    columns = 4 * p.co if variant == POLYPHASE else p.co
    rows = (p.h + 1) * (p.w + 1) if variant == TRANSPOSED else p.h * p.w
    phases = 4 if variant == TRANSPOSED else 1
    bk = {"float64": 16, "float32": 32, "tf32": 32}.get(p.dtype, 64)
    packed = variant != TRANSPOSED and not p.gather and p.ci < 128 and p.ci % bk != 0
    if p.dtype == "float64":
        return Config(variant, 32, 32, 0, bk, 4, 2, 1, packed)

    def count(bm: int, width: int) -> int:
        return -(-rows // bm) * p.n * -(-columns // width) * phases

    bn, _ = _width(columns, _NARROW)
    if count(64, bn) < PROCESSORS:
        steps = p.k * p.k * p.ci // phases // bk
        split = max(1, min(16, 2 * PROCESSORS // count(64, bn), steps // 4))
        return Config(variant, 64, bn, 0, bk, 4, 3, split, packed)
    bm, bn, bn2, warps = _tile(p, variant, columns, count)
    return Config(variant, bm, bn, bn2, bk, warps, 3, 1, packed)


def candidates(p: Problem) -> list[Config]:
    """What the tuner times: the default first, then other variants, tiles, depths and splits of it."""
    found = {default(p): None}
    for variant in p.modes:
        base = default(p, variant)
        found[base] = None
        columns = 4 * p.co if variant == POLYPHASE else p.co
        for bm in (64, 128):
            for bn, bn2 in {_width(columns, _WIDTHS), _width(columns, _NARROW), (128, 0)}:
                found[base._replace(bm=bm, bn=bn, bn2=bn2, warps=8 if bm * bn > 2**14 else 4, split=1)] = None
        for stages in (1, 2, 3, 4):
            found[base._replace(stages=stages)] = None
        for split in (1, 2, 4, 8, 16) if base.split > 1 else ():
            found[base._replace(split=split)] = None
        if variant != TRANSPOSED and not p.gather:
            found[base._replace(packed=not base.packed)] = None
    return list(found)


def holds_all(config: Config, channels: int) -> bool:
    """Whether toRGB takes the pixels of a convolution from registers: a tile holds all their channels."""
    return config.mode == PLAIN and config.split == 1 and config.bn + config.bn2 >= channels


@cache
def winners(device: str) -> dict[str, Config]:
    """Timed winners of a device by :attr:`Problem.key`; empty where nobody has timed it."""
    path = FOLDER / f"{slug(device)}.json"
    if not path.is_file():
        return {}
    entries = json.loads(path.read_text())["winners"]
    return {key: Config(**entry["config"]) for key, entry in entries.items()}


def winner(p: Problem, device: str | None) -> Config | None:
    """The timed winner of a problem, for bfloat16 also that of float16: of the same bytes and operations."""
    table = winners(device or "")
    return table.get(p.key) or (table.get(p._replace(dtype="float16").key) if p.dtype == "bfloat16" else None)


def choose(p: Problem, device: str | None, time: Callable[[Config], float]) -> Config:
    """The config for a problem on the GPU named ``device``; None is the interpreter, whose steps cost the same.

    ``time`` gives the milliseconds of a config; only ``CAGC_TRITON_AUTOTUNE=1`` calls it.
    """
    if device is None:
        return default(p)._replace(bm=64, bn=64, bn2=0, bk=128, split=1)
    table = winners(device)
    if p.key not in table and os.environ.get("CAGC_TRITON_AUTOTUNE") == "1":
        table[p.key] = min(timed(p, time), key=lambda pair: pair[1])[0]
    return winner(p, device) or default(p)


def timed(p: Problem, time: Callable[[Config], float]) -> Iterator[tuple[Config, float]]:
    """(config, milliseconds) of every candidate that the device can run."""
    for config in candidates(p):
        try:
            yield config, time(config)
        except Exception as error:  # too much shared memory, a limit of the compiler: whatever a driver raises
            if config == default(p):
                raise RuntimeError(f"{p.key}: the default config {config} does not run") from error
