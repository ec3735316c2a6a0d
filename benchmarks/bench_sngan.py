"""Times SN-GAN at its published size, full and pruned.

``pytest benchmarks/bench_sngan.py`` draws 32 px images with the published generator (256 channels per layer, random
weights), with the paper's 0.3 of every layer, and with that rounded up to multiples of 8, in batches of 1 and 64. Rows
are as in ``bench_generators``; all candidates of a batch are timed in turns in the same rounds.
"""

from __future__ import annotations

from statistics import median

import pytest
import torch

from cagc.common.seeds import z_batch
from cagc.models import SNGANConfig, SNGANGenerator

from . import generators
from .generators import RIVALS, Unavailable
from .harness import default_device, paired, ratio
from .results import make_row

CUDA = default_device() == "cuda"
WIDTHS = {"full": 256, "0.3": 77, "0.3 by 8": 80}
IMPLEMENTATIONS = ("native", "runtime", *(() if CUDA else RIVALS))


@torch.inference_mode()
def measure(session, batch: int) -> tuple[dict[str, list[float]], dict[str, tuple[int, int]]]:
    """Return times by "implementation, widths", and the (MACs, bytes) of each width."""
    names = [name for name in IMPLEMENTATIONS if session.wants(name) and not (session.quick and name in RIVALS)]
    calls, work = {}, {}
    for width, channels in WIDTHS.items():
        torch.manual_seed(0)
        generator = SNGANGenerator(SNGANConfig.uniform(width=channels)).eval().to(session.device)
        work[width] = generators.work(generator, batch)
        z = z_batch(range(batch), generator.z_dim).to(session.device)
        for name in names:
            try:
                image = generators.build(name, generator, batch, None)
                generators.check_images(image(z), generator(z))
            except Unavailable:
                continue
            calls[f"{name}, {width}"] = lambda image=image, z=z: image(z)
    return paired(calls, session.rounds(20 if batch == 1 else 4), warmup=1, device=session.device), work


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("batch", (1, 64))
def test_sngan(benchmark, session, batch, width, implementation):
    if session.quick and (batch > 1 or implementation in RIVALS):
        pytest.skip("--quick: one image, without compilers")
    times, work = session.once(("sngan", batch), lambda: measure(session, batch))
    this, full = f"{implementation}, {width}", f"{implementation}, full"
    if this not in times:
        pytest.skip("not installed, or --only")
    (macs, moved), full_macs = work[width], work["full"][0]
    cut, faster = full_macs / macs, ratio(times, full, this)
    figures = {"ms per image": 1e3 * median(times[this]) / batch, "MACs cut": cut, "speed-up": faster}
    row = make_row(
        "sngan", implementation, {"resolution": 32, "batch": batch, "widths": width}, times, session.device,
        of=this, shape=(batch, 3, 32, 32), bytes=moved, macs=macs, figures=figures | {"realised share": faster / cut},
    )  # fmt: skip
    session.publish(benchmark, row, times[this])
