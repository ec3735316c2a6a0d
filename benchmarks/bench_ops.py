"""bias_act against the plain PyTorch composition and a copy: ``python -m benchmarks.bench_ops``.

Each row is one shape of a StyleGAN2 generator at 256 px, full width and pruned. The roof of a pass that reads and
writes once is a copy of the same tensor, taken in the same rounds; ``copy reused`` writes into one buffer over and
over, and its distance from ``copy`` is the price of fresh memory.
"""

from __future__ import annotations

import argparse
import sys

import torch

from cagc_kernels import bias_act, explain

from .harness import milliseconds, paired, ratio

SHAPES = (
    (1, 512, 32, 32),
    (1, 256, 128, 128),
    (1, 128, 256, 256),
    (1, 77, 128, 128),
    (1, 39, 256, 256),
    (8, 39, 64, 64),
)


def candidates(shape: tuple[int, ...], device: str, dtype: torch.dtype, backward: bool) -> dict:
    """Calls to compare; the first ones are the roofs."""
    x = torch.randn(shape, device=device, dtype=dtype, requires_grad=backward)
    b = torch.randn(shape[1], device=device, dtype=dtype, requires_grad=backward)
    g, reused = torch.randn_like(x), torch.empty_like(x)

    def run(backend):
        y = bias_act(x, b, act="lrelu", backend=backend)
        if backward:
            torch.autograd.grad(y, (x, b), g)

    source = x.detach()
    return {
        "copy reused": lambda: reused.copy_(source),
        "copy": lambda: source.clone(),
        "torch": lambda: run("reference"),
        "native": lambda: run("native"),
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the table; milliseconds are medians, ratios medians over paired rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "float16", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--backward", action="store_true", help="forward and backward")
    options = parser.parse_args(arguments)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(explain("bias_act", options.device, options.dtype))
    print("| shape | copy reused ms | copy ms | torch ms | native ms | torch / native | native / copy |")
    print("|---" * 7 + "|")
    for shape in SHAPES:
        calls = candidates(shape, options.device, getattr(torch, options.dtype), options.backward)
        times = paired(calls, options.rounds)
        cells = [f"{milliseconds(t)[0]:.3f}" for t in times.values()]
        ratios = [f"{ratio(times, 'torch', 'native'):.2f}", f"{ratio(times, 'native', 'copy'):.2f}"]
        print(f"| {'x'.join(map(str, shape))} | {' | '.join(cells + ratios)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
