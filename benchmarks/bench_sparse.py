"""Times sparse_channel_conv2d beside sliced and masked convolutions, and generators read in place beside students.

``pytest benchmarks/bench_sparse.py`` times every kind of layer of the 256 px generator with a share of its input and
output channels, all in turns in the same rounds:

- native: the chosen block of the full weight, read in place;
- sliced, sliced channels_last: PyTorch's dense convolution with the block as a separate tensor, sliced beforehand;
- gathered: the same, including the slicing;
- masked: PyTorch's dense convolution of full width with zeros for removed channels (not for up-sampling layers).

Up-sampling layers are timed without their FIR filter, which is the same for all.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from cagc import at, plan_channels, prune, score_channels
from cagc.models import GeneratorConfig
from cagc_kernels import sparse_channel_conv2d
from cagc_kernels.backend import refusal
from cagc_kernels.native import sparse_channel_conv2d as native

from .generators import random_generator, widths, work
from .harness import Call, default_device, paired

DEVICE = default_device()
KEPT = 0.3


class Layer(NamedTuple):
    """Full input and output width, side of the input in pixels, and up-sampling factor of a layer."""

    i: int
    o: int
    side: int
    up: int

    @property
    def label(self) -> str:
        return f"{self.i}-{self.o} {self.side}{' up' if self.up > 1 else ''}"


LAYERS = [
    *(Layer(c, c, side, 1) for c, side in ((512, 4), (512, 16), (512, 32), (512, 64), (256, 128), (128, 256))),
    *(Layer(i, o, side, 2) for i, o, side in ((512, 512, 16), (512, 512, 32), (512, 256, 64), (256, 128, 128))),
]  # fmt: skip


def _some(full: int, kept: float) -> torch.Tensor:
    """Return sorted random indices, as many as the paper's rule keeps."""
    return torch.randperm(full)[: full - int(full * (1 - kept))].sort().values.to(DEVICE)


def candidates(layer: Layer, kept: float) -> tuple[dict[str, Call], int]:
    """Return the calls and their MACs, after comparing their outputs."""
    ins, outs = _some(layer.i, kept), _some(layer.o, kept)
    weight = torch.randn(layer.o, layer.i, 3, 3, device=DEVICE)
    x = torch.randn(1, len(ins), layer.side, layer.side, device=DEVICE)
    gather = lambda: weight.index_select(0, outs).index_select(1, ins)  # noqa: E731
    sliced = gather()
    last, last_weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, sliced))
    if layer.up == 1:
        masked = torch.zeros_like(weight)
        masked[outs[:, None], ins[None]] = sliced
        wide = torch.zeros(1, layer.i, layer.side, layer.side, device=DEVICE).index_copy(1, ins, x)
        calls = {
            "native": lambda: sparse_channel_conv2d(x, weight, ins, outs, backend="native"),
            "sliced": lambda: F.conv2d(x, sliced, padding=1),
            "sliced channels_last": lambda: F.conv2d(last, last_weight, padding=1),
            "gathered": lambda: F.conv2d(x, gather(), padding=1),
            "masked": lambda: F.conv2d(wide, masked, padding=1),
        }
        torch.testing.assert_close(calls["masked"]()[:, outs], calls["sliced"](), rtol=1e-3, atol=1e-3)
    else:
        transposed = sliced.transpose(0, 1).contiguous()
        turned = transposed.contiguous(memory_format=torch.channels_last)
        calls = {
            "native": lambda: native.sparse_channel_conv2d(x, weight, ins, outs, padding=2, flip_weight=False, up=2),
            "sliced": lambda: F.conv_transpose2d(x, transposed, stride=2),
            "sliced channels_last": lambda: F.conv_transpose2d(last, turned, stride=2),
            "gathered": lambda: F.conv_transpose2d(x, gather().transpose(0, 1), stride=2),
        }
    torch.testing.assert_close(calls["native"](), calls["sliced"](), rtol=1e-3, atol=1e-3)
    return calls, 9 * len(ins) * len(outs) * layer.side**2


def elastic(kept: float, side: int) -> dict[str, Call]:
    """Return calls that draw one image by the full generator, a view of it at a plan's widths, and the student."""
    full = random_generator(GeneratorConfig.uniform(side), DEVICE)
    plan = plan_channels(full, score_channels(full, "random", samples=1), keep=kept, round_to=1)
    generators = {"view": at(full, plan), "student": prune(full, plan).eval(), "full": full}
    z = torch.randn(1, full.z_dim, device=DEVICE)
    want = generators["student"](z, noise="const")
    torch.testing.assert_close(
        generators["view"](z, noise="const"), want, rtol=1e-3, atol=1e-3 * want.abs().max().item()
    )
    return {name: lambda g=g: g(z, noise="const") for name, g in generators.items()}


needs_native = pytest.mark.skipif(
    refusal("native", "sparse_channel_conv2d", DEVICE) is not None,
    reason=str(refusal("native", "sparse_channel_conv2d", DEVICE)),
)


@needs_native
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.label)
@torch.no_grad()
def test_layer(benchmark, session, layer):
    if session.quick and layer.side > 16:
        pytest.skip("--quick: the smallest layers only")
    calls, macs = candidates(layer, KEPT)
    times = paired(calls, session.rounds(20), device=DEVICE)
    case, out = {"layer": layer.label, "kept": KEPT}, calls["native"]()
    ins, outs = len(_some(layer.i, KEPT)), len(_some(layer.o, KEPT))
    moved = out.nbytes + out.element_size() * (ins * layer.side**2 + 9 * ins * outs)
    session.publish(benchmark, "sparse", "native", case, times, shape=out.shape, bytes=moved, macs=macs)


@torch.no_grad()
def test_view(benchmark, session):
    side = 64 if session.quick else 256
    times = paired(elastic(KEPT, side), session.rounds(10), device=DEVICE)
    macs, moved = work(random_generator(GeneratorConfig(side, widths(side, KEPT)), DEVICE))
    about = {"shape": (1, 3, side, side), "bytes": moved, "macs": macs}
    session.publish(benchmark, "sparse", "view", {"generator": side, "kept": KEPT}, times, **about)
