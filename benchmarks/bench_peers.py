"""Times the peers' ops beside ours: ``pytest benchmarks/bench_peers.py --peers DIR``.

Each op of each peer is compared with ours, then timed in the same rounds as our native and reference ops, on layers of
the 256 px generator, full and pruned, with warm and with flushed caches. ``bench_generators.py`` times whole
generators of the peers.
"""

from __future__ import annotations

import pytest
import torch

from cagc_kernels import bias_act, setup_filter, upfirdn2d, upsample2d

from . import peers
from .bench_ops import multiply_adds
from .harness import default_device, paired
from .peers import Unavailable

DEVICE = default_device()
# Channels, and side of the image in pixels.
LAYERS = ((512, 32), (154, 32), (128, 256), (39, 256))


def ours(op: str, backend: str | None):
    if op == "bias_act":
        return lambda x, b: bias_act(x, b, act="lrelu", backend=backend)
    if op == "blur":
        return lambda x, f: upfirdn2d(x, f, padding=1, gain=4, backend=backend)
    return lambda x, f: upsample2d(x, f, backend=backend)


@pytest.mark.parametrize("cache", ("warm", "cold"))
@pytest.mark.parametrize("channels, side", LAYERS)
@pytest.mark.parametrize("op", ("bias_act", "blur", "up"))
@pytest.mark.parametrize("peer", peers.NAMES)
def test_op(benchmark, session, op, channels, side, peer, cache):
    if session.quick and side > 32:
        pytest.skip("--quick: the smallest layers only")
    try:
        theirs = session.once(("peer ops", peer), lambda: peers.ops(session.peers, peer, DEVICE))[op]
    except Unavailable as reason:
        pytest.skip(f"{peer}: {reason}")
    size = {"bias_act": side, "blur": side + 1, "up": side // 2}[op]
    x = torch.randn(1, channels, size, size, device=DEVICE)
    other = torch.randn(channels, device=DEVICE) if op == "bias_act" else setup_filter([1, 3, 3, 1], DEVICE)
    calls = {peer: theirs, "reference": ours(op, "reference"), "native": ours(op, None)}
    with torch.inference_mode():
        torch.testing.assert_close(theirs(x, other), ours(op, None)(x, other), rtol=1e-4, atol=1e-4)
        timed = {name: (lambda call=call: call(x, other)) for name, call in calls.items()}
        times = paired(timed, session.rounds(20), cold=cache == "cold", device=DEVICE)
        out = theirs(x, other)
    case = {"op": op, "channels": channels, "side": side, "peer": peer}
    macs, moved = multiply_adds(op, x, out), x.nbytes + out.nbytes
    about = {"shape": out.shape, "bytes": moved, "macs": macs, "cache": cache}
    session.publish(benchmark, "peers", "native", case, times, **about)
