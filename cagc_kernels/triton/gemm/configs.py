"""Choice of the kernel variant and the tile of a convolution on a GPU.

:func:`default` is a rule derived from compiled code (registers, loop instructions, bytes, operations of an H100), not
from timings. ``python -m cagc_kernels.triton.gemm.tuning`` times the :func:`candidates` on a GPU and stores the
winners. With ``CAGC_TRITON_AUTOTUNE=1`` the running process does so for each new problem. :mod:`.winners` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

PLAIN, POLYPHASE, TRANSPOSED = range(3)

# A problem's dtype "tf32" is float32 with products rounded to TF32.
HALF = ("float16", "bfloat16")

# Figures of an H100: float16 operations and bytes per second, seconds per launch under a CUDA graph, multiprocessors.
PEAK, BANDWIDTH, LAUNCH, PROCESSORS = 798e12, 3.0e12, 1.5e-6, 132


class Problem(NamedTuple):
    """A convolution of ``n`` images by a ``k`` x ``k`` kernel from ``ci`` to ``co`` channels.

    ``h`` and ``w`` are the size of the input, or of the output for PLAIN; ``modes`` lists the variants that can compute
    it. ``gather``: the channels are some of those of a larger weight, read through indices. ``arch``: the compute
    capability, 90 for 9.0.
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
        """Key of a winner in the table: problems whose pixel counts round up to the same power of two share it."""
        pixels = 1 << max(0, self.n * self.h * self.w - 1).bit_length()
        up = 1 if self.modes == (PLAIN,) else 2
        return f"{'gather ' * self.gather}{self.dtype} k{self.k} up{up} {self.ci}>{self.co} pixels {pixels}"


class Config(NamedTuple):
    """A variant of the kernel with tiles of ``bm`` x (``bn`` + ``bn2``) x ``bk``, the reduction in ``split`` parts."""

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
    """Return the variant with the lower time bound of a roofline model.

    POLYPHASE executes four times the operations of TRANSPOSED, in one pass over memory instead of two; it has the lower
    bound for up to about 80 input channels and for small layers at batch 1.
    """
    if len(p.modes) == 1:
        return p.modes[0]
    size, pixels = _bytes(p.dtype), p.n * p.h * p.w
    operations, weights = 2 * 9 * pixels * p.ci * p.co, 9 * p.ci * p.co * size
    x, y, between = pixels * p.ci * size, 4 * pixels * p.co * size, 4 * pixels * p.co * size
    polyphase = max(4 * operations / PEAK, (x + y + 4 * weights) / BANDWIDTH)
    transposed = max(operations / PEAK, (x + between + weights) / BANDWIDTH) + (between + y) / BANDWIDTH + LAUNCH
    return POLYPHASE if polyphase < transposed else TRANSPOSED


# Tile widths (bn, bn2): with a second accumulator of bn2 columns, and for split-K, which has only one.
_WIDTHS = ((256, 0), (128, 32), (128, 0), (64, 16), (64, 0), (32, 16), (32, 0), (16, 0))
_NARROW = ((64, 0), (32, 0), (16, 0))


def _width(columns: int, widths: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the (bn, bn2) that pads the columns least, counting 8 columns of cost per tile; the widest of equals."""

    def cost(width: tuple[int, int]) -> tuple[int, int]:
        tiles = -(-columns // sum(width))
        return tiles * (sum(width) + 8), -sum(width)

    return min(widths, key=cost)


def _tile(p: Problem, variant: int, columns: int, count: Callable[[int, int], int]) -> tuple[int, int, int, int]:
    """Return (bm, bn, bn2, warps) of the best tile, or of a smaller one where the best leaves multiprocessors idle."""
    widths = _WIDTHS if p.dtype in HALF else _WIDTHS[2:] if p.dtype == "tf32" else _NARROW
    # The widest tiles spill registers where others are needed: for the phases of a transposed convolution, the operands
    # of mma.sync (before sm_90), or weights that are gathered one by one.
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
        # 128 rows need too many registers with 160 columns, float32 without tensor cores, or loads of single values.
        del sizes[0]
    filled = [size for size in sizes if count(size[0], size[1] + size[2]) >= 0.75 * PROCESSORS]
    return filled[0] if filled else sizes[-1]


def default(p: Problem, variant: int | None = None) -> Config:
    """Return the config that the rule derived from compiled code gives; it is not based on timings."""
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
    """Return the configs that the tuner times: the default, then other variants, tiles, pipeline depths and splits."""
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
    """Whether a tile holds all channels of its pixels, so that the convolution's kernel can compute toRGB as well."""
    return config.mode == PLAIN and config.split == 1 and config.bn + config.bn2 >= channels


def timed(p: Problem, time: Callable[[Config], float]) -> Iterator[tuple[Config, float]]:
    """Yield (config, milliseconds) for every candidate that the device can run."""
    for config in candidates(p):
        try:
            yield config, time(config)
        except Exception as error:  # drivers raise many types: too much shared memory, a limit of the compiler
            if config == default(p):
                raise RuntimeError(f"{p.key}: the default config {config} does not run") from error
