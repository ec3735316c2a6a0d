"""Computes a GPU's roof for a StyleGAN2 generator from bytes and MACs: ``python -m benchmarks.roof --help``.

The roof of a kernel is the longer of two times: its MACs at the matrix rate, and its bytes at the copy bandwidth. It
reads its inputs and writes its outputs once; cache hits are not counted. Three ways to run the same layers:

    fused    one kernel a layer (two for a transposed convolution and its filter), toRGB with the skip in one
    ideal    transposed convolution and filter in one kernel, toRGB in the epilogue of the convolution before it
    unfused  a kernel for each operation: modulate, convolve, filter, demodulate, noise, activation, ...

Each kernel of a CUDA graph adds its launch time. No figure of this module was measured: compare measured ones with it.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

from cagc_kernels.triton.gemm.layers import WIDTHS, channels

SIZE = 2  # bytes of float16 and bfloat16
STYLE = 512


class Machine(NamedTuple):
    """Operations per second, bytes per second, and seconds per kernel launch in a graph; the defaults are an H100's."""

    peak: float = 798e12
    bandwidth: float = 3.0e12
    launch: float = 1.5e-6


class Kernel(NamedTuple):
    """MACs, bytes moved, and number of launches, which is 0 for work inside another kernel."""

    macs: float
    bytes: float
    launches: int = 1

    def seconds(self, machine: Machine) -> float:
        return max(2 * self.macs / machine.peak, self.bytes / machine.bandwidth)


class Layer(NamedTuple):
    """The ways to run a layer, and its MACs by the authors' convention."""

    name: str
    macs: float
    ways: dict[str, list[Kernel]]

    def kernels(self, way: str, machine: Machine) -> list[Kernel]:
        """Return the kernels of ``way``; "fused" is the faster variant of the convolution."""
        if way == "fused" and way not in self.ways:
            both = self.ways["polyphase"], self.ways["transposed"]
            return min(both, key=lambda found: sum(k.seconds(machine) + machine.launch for k in found))
        return self.ways[way]


def convolution(name: str, n: int, ci: int, co: int, r: int, up: int) -> Layer:
    """Describe a styled 3 x 3 convolution of ``n`` images of ``r`` x ``r`` pixels."""
    x, y, noise = (n * side * side * c * SIZE for side, c in ((r, ci), (r * up, co), (r * up, 1)))
    w, macs = 9 * ci * co * SIZE, 9 * n * r * r * ci * co
    between = n * (2 * r + 1) ** 2 * co * SIZE
    one = Kernel(macs, x + y + noise + w)
    convolve = [Kernel(macs, x + y + w)]
    if up == 2:
        convolve = [Kernel(macs, x + between + w), Kernel(0, between + y)]
    # Modulate before; demodulate, add noise, add bias and activate after.
    unfused = [Kernel(0, 2 * x), *convolve, Kernel(0, 2 * y), Kernel(0, 2 * y + noise), Kernel(0, 2 * y)]
    if up == 1:
        return Layer(name, macs, {"fused": [one], "ideal": [one], "unfused": unfused})
    polyphase = [Kernel(4 * macs, x + y + noise + 4 * w)]
    transposed = [Kernel(macs, x + between + w), Kernel(0, between + y + noise)]
    ways = {"polyphase": polyphase, "transposed": transposed, "ideal": [one], "unfused": unfused}
    return Layer(name, macs, ways)


def to_rgb(name: str, n: int, c: int, r: int) -> Layer:
    """Describe the 1 x 1 convolution to RGB (toRGB), to which the up-sampled previous image is added."""
    x, image, skip = n * r * r * c * SIZE, n * r * r * 3 * SIZE, n * (r // 2) ** 2 * 3 * SIZE
    macs = 3 * n * r * r * c
    unfused = [Kernel(0, 2 * x), Kernel(macs, x + image), Kernel(0, 2 * image)]
    if r > 4:
        unfused += [Kernel(0, skip + image), Kernel(0, 3 * image)]
    fused, ideal = [Kernel(macs, x + skip + image)], [Kernel(0, skip + image, 0)]
    return Layer(name, macs, {"fused": fused, "ideal": ideal, "unfused": unfused})


def styles(pairs: list[tuple[int, int]]) -> Layer:
    """Describe mapping network, affine layers and demodulation factors: three kernels, or one for each."""
    moved = (8 * STYLE * STYLE + sum(STYLE * i for i, _ in pairs) + sum(i * o for i, o in pairs if o > 3)) * SIZE
    fused = [Kernel(0, moved), Kernel(0, 0), Kernel(0, 0)]
    separate = 17 + len(pairs) + 3 * sum(o > 3 for _, o in pairs)
    unfused = [Kernel(0, moved)] + [Kernel(0, 0)] * (separate - 1)
    return Layer("styles", 0, {"fused": fused, "ideal": fused, "unfused": unfused})


def generator(size: int, widths: str, batch: int) -> list[Layer]:
    """Return every layer, in order."""
    c = channels(size, widths)
    layers = [convolution(f"conv 4 {c[0]}>{c[0]}", batch, c[0], c[0], 4, 1), to_rgb("rgb 4", batch, c[0], 4)]
    pairs = [(c[0], c[0]), (c[0], 3)]
    for i, (before, after) in enumerate(zip(c, c[1:], strict=False)):
        r = 8 << i
        layers += [
            convolution(f"up {r} {before}>{after}", batch, before, after, r // 2, 2),
            convolution(f"conv {r} {after}>{after}", batch, after, after, r, 1),
            to_rgb(f"rgb {r}", batch, after, r),
        ]
        pairs += [(before, after), (after, after), (after, 3)]
    return [*layers, styles(pairs)]


def microseconds(layers: list[Layer], way: str, machine: Machine, batch: int = 1, launches: bool = False) -> float:
    """Return the roof of an image, optionally with the launches of a CUDA graph."""
    kernels = [k for layer in layers for k in layer.kernels(way, machine)]
    return 1e6 * sum(k.seconds(machine) + machine.launch * k.launches * launches for k in kernels) / batch


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--widths", choices=WIDTHS, default="r8")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tflops", type=float, default=798.0, help="matrix rate measured on the GPU")
    parser.add_argument("--tbs", type=float, default=3.0, help="copy bandwidth measured on the GPU, in TB/s")
    options = parser.parse_args(arguments)
    machine = Machine(options.tflops * 1e12, options.tbs * 1e12)
    layers = generator(options.resolution, options.widths, options.batch)
    print("| layer | GMAC | fused µs | ideal µs | unfused µs | kernels fused / unfused |\n" + "|---" * 6 + "|")
    for layer in layers:
        times = (f"{microseconds([layer], way, machine):.2f}" for way in ("fused", "ideal", "unfused"))
        counts = (len(layer.kernels(way, machine)) for way in ("fused", "unfused"))
        print(f"| {layer.name} | {layer.macs / 1e9:.3f} | {' | '.join(times)} | {' / '.join(map(str, counts))} |")
    for way in ("fused", "ideal", "unfused"):
        alone, launched = (microseconds(layers, way, machine, options.batch, launches) for launches in (False, True))
        print(f"{way}: {alone:.1f} µs an image, {launched:.1f} with the launches of a graph")
    return 0


if __name__ == "__main__":
    sys.exit(main())
