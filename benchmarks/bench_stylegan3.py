"""Times StyleGAN3-T at 256 px beside NVlabs' code: ``pytest benchmarks/bench_stylegan3.py --peers DIR``.

``filtered_lrelu`` on the shapes of the layers, and whole generators: theirs, ours with the same weights, and a student
of 0.3 of every layer. What both compute is compared before it is timed. Rows go to ``stylegan3.jsonl``, with the
share of the measured copy rate of an op, and of the student the ratio of the times over that of the MACs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from cagc import runtime
from cagc.metrics.macs import total_macs, total_parameters
from cagc.models import StyleGAN3Config, StyleGAN3Generator
from cagc.models.stylegan3_config import LayerPlan
from cagc_kernels import filtered_lrelu

from .harness import default_device, paired, roofs
from .peers import Unavailable, imported, stylegan3

DEVICE = default_device()
CONFIG = StyleGAN3Config.uniform(256)
# One of each size and factor, full and with 0.3 of the channels.
LAYERS, SHARES = ("L0", "L3", "L5", "L6", "L7", "L8", "L10", "L11", "L13"), (1.0, 0.3)


def kept(width: int, share: float) -> int:
    """Return the width that the paper's rule keeps."""
    return width - int(width * (1 - share))


def multiply_adds(plan: LayerPlan, x: torch.Tensor, out: torch.Tensor) -> int:
    """Return the products of both filters, one axis after the other, without inserted zeros."""
    middle = [(side - 1) * plan.down + plan.down_taps for side in out.shape[2:]]
    up = plan.up_taps // plan.up * middle[1] * (x.shape[2] + middle[0])
    down = plan.down_taps * out.shape[2] * (middle[1] + out.shape[3])
    return x.shape[0] * x.shape[1] * (up + down)


def their_op(session) -> Callable[..., torch.Tensor] | None:
    """Return NVlabs' op without its extension; None without a checkout."""
    try:
        with imported(session.peers, "stylegan3", DEVICE):
            return importlib.import_module("torch_utils.ops.filtered_lrelu").filtered_lrelu
    except Unavailable:
        return None


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", LAYERS)
def test_filtered_lrelu(benchmark, session, name, share):
    if session.quick and name != "L0":
        pytest.skip("--quick: the smallest layer only")
    index = list(CONFIG.channels).index(name) - 1
    plan, layer = CONFIG.plans()[index], session.once("generator", lambda: StyleGAN3Generator(CONFIG)).synthesis
    layer, channels = getattr(layer, name), kept(CONFIG.channels[name], share)
    x = torch.randn(1, channels, *(side + CONFIG.conv_kernel - 1 for side in plan.in_size), device=DEVICE)
    fu, fd, b = layer.up_filter.to(DEVICE), layer.down_filter.to(DEVICE), torch.randn(channels, device=DEVICE)
    options = {"up": plan.up, "down": plan.down, "padding": list(plan.padding), "clamp": 256.0}
    calls = {
        "native": lambda: filtered_lrelu(x, fu, fd, b, **options),
        "reference": lambda: filtered_lrelu(x, fu, fd, b, **options, backend="reference"),
    }
    if theirs := their_op(session):
        calls["stylegan3"] = lambda: theirs(x, fu, fd, b, **options)
    with torch.inference_mode():
        out = calls["native"]()
        for call in calls.values():
            torch.testing.assert_close(call(), out, rtol=1e-4, atol=1e-4)
        times = paired(calls, session.rounds(10), device=DEVICE)
    case = {"op": "filtered_lrelu", "layer": name, "channels": channels, "up": plan.up}
    moved = x.nbytes + out.nbytes
    of_roof = moved / (roofs(DEVICE, x.dtype)["copy_gbs"] * 1e9) / min(times["native"])
    about = {"shape": out.shape, "bytes": moved, "macs": multiply_adds(plan, x, out)}
    session.publish(benchmark, "stylegan3", "native", case, times, **about, figures={"copy_share": of_roof})


def their_generator(session, ours: StyleGAN3Generator) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return NVlabs' generator with the weights of ``ours``; None without a checkout."""
    try:
        return stylegan3(session.peers, ours, DEVICE)
    except Unavailable:
        return None


def test_generators(benchmark, session):
    if session.quick:
        pytest.skip("--quick: whole generators take seconds")
    torch.manual_seed(0)
    full = StyleGAN3Generator(CONFIG).eval().requires_grad_(False)
    widths = {name: kept(width, 0.3) for name, width in CONFIG.channels.items()}
    student = StyleGAN3Generator(replace(CONFIG, channels=widths)).eval().requires_grad_(False)
    z = torch.randn(1, CONFIG.z_dim, device=DEVICE)
    ours, small = (runtime.compile(g, device=DEVICE) for g in (full, student))
    calls = {"runtime": lambda: ours(z), "student": lambda: small(z)}
    with torch.inference_mode():
        if theirs := their_generator(session, full):
            torch.testing.assert_close(ours(z), theirs(z), rtol=1e-3, atol=1e-4)
            calls["stylegan3"] = lambda: theirs(z)
        times = paired(calls, session.rounds(5), warmup=1, device=DEVICE)
    cut = total_macs(full) / total_macs(student)
    faster = sorted(a / b for a, b in zip(times["runtime"], times["student"], strict=True))[len(times["student"]) // 2]
    case = {"op": "generator", "resolution": CONFIG.resolution, "batch": 1}
    about = {"shape": (1, 3, *CONFIG.img_size), "bytes": 4 * total_parameters(full), "macs": total_macs(full)}
    figures = {"macs_cut": cut, "realised_share": faster / cut}
    session.publish(benchmark, "stylegan3", "runtime", case, times, **about, figures=figures)
