"""Times SN-GAN at its published size, full and pruned.

``pytest benchmarks/bench_sngan.py`` draws 32 px images with the published generator (256 channels per layer, random
weights), with the paper's 0.3 of every layer, and with that rounded up to multiples of 8, in batches of 1 and 64. Rows
are as in ``bench_generators``; all candidates of a batch are timed in turns in the same rounds.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from cagc.models import SNGANConfig, SNGANGenerator

from .bench_generators import CUDA, measure, publish
from .generators import RIVALS

WIDTHS = {"full": 256, "0.3": 77, "0.3 by 8": 80}
IMPLEMENTATIONS = ("native", "runtime", *(() if CUDA else RIVALS))


def create(width: int, device: str) -> SNGANGenerator:
    torch.manual_seed(0)
    return SNGANGenerator(SNGANConfig.uniform(width=width)).eval().to(device)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("batch", (1, 64))
def test_sngan(benchmark, session, batch, width, implementation):
    if session.quick and (batch > 1 or implementation in RIVALS):
        pytest.skip("--quick: one image, without compilers")
    names = [name for name in IMPLEMENTATIONS if not (session.quick and name in RIVALS)]
    makers = {name: partial(create, channels, session.device) for name, channels in WIDTHS.items()}
    rounds = 20 if batch == 1 else 4
    measured = session.once(("sngan", batch), lambda: measure(session, makers, batch, names, rounds))
    publish(session, benchmark, measured, implementation, width, {"resolution": 32, "batch": batch}, of="sngan")
