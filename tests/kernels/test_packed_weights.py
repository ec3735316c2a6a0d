"""The packed weights of the eager op: when they are made, used and freed, and that they change no result."""

from __future__ import annotations

import copy
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cagc_kernels import modulated_conv2d, native, setup_filter, styled_conv2d, without_packing
from cagc_kernels.tolerances import assert_close

pytestmark = pytest.mark.skipif(native.REASON is not None, reason=str(native.REASON))
if native.REASON is None:
    from cagc_kernels.native import packed_weights

FILTER = setup_filter([1, 3, 3, 1])
# Roundings as in verification/measure.py: the packed convolution's transforms round more often than PyTorch's.
FORWARD, GRADIENT, SECOND = 4, 8, 12


@pytest.fixture(autouse=True)
def _none_before():
    gc.collect()
    packed_weights.clear()


def tensors(n=2, i=20, o=18, h=9, w=14) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(n + i)
    weight = torch.randn(o, i, 3, 3, generator=rng) / (9 * i) ** 0.5
    return torch.randn(n, i, h, w, generator=rng), weight, torch.randn(n, i, generator=rng)


def call(x, weight, styles, up=1, flip=True, demodulate=True, noise=True, backend="native"):
    noise = torch.linspace(-1, 1, x.shape[2] * x.shape[3] * up**2, dtype=x.dtype) if noise else None
    noise = None if noise is None else noise.view(1, 1, x.shape[2] * up, x.shape[3] * up)
    return modulated_conv2d(x, weight, styles, noise, up, 1, 1, FILTER, demodulate, flip, backend=backend)


def oracle(*given, **options):
    return call(*(t.detach().double() for t in given), backend="reference", **options)


@pytest.mark.parametrize("up, flip", ((1, True), (1, False), (2, True), (2, False)))
@pytest.mark.parametrize("last", (False, True))
def test_from_the_second_call_on(up, flip, last):
    given = x, weight, styles = tensors()
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    for packs in (0, 1, 1):
        for demodulate in (True, False) if packs else (True,):
            y = call(x, weight, styles, up, flip, demodulate)
            if packs:
                assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
            assert_close(y, oracle(*given, up=up, flip=flip, demodulate=demodulate), torch.float32, FORWARD)
        assert packed_weights.info().packs == packs
    del given, weight
    assert packed_weights.info() == (0, 0)


def test_many_channels():
    given = tensors(1, 512, 16, 9, 9)
    for up in (1, 2):
        call(*given, up=up)
        assert_close(call(*given, up=up), oracle(*given, up=up), torch.float32, FORWARD + 4608**0.5 / 16)
    assert packed_weights.info().packs == 2


def test_a_whole_layer():
    x, weight, styles = tensors()
    bias, following = torch.randn(18), torch.randn(2, 18)
    for up in (1, 2):
        for modulate in (True, False):
            options = {"modulate": modulate, "act": "swish" if modulate else "lrelu", "clamp": 1.0}
            first, then = (
                styled_conv2d(x, weight, styles, bias, None, up, FILTER, next_styles=following, **options)
                for _ in range(2)
            )
            torch.testing.assert_close(then, first, rtol=0, atol=1e-5)
    assert packed_weights.info().packs == 2


@pytest.mark.parametrize("up", (1, 2))
@pytest.mark.parametrize("frozen", (False, True))
def test_derivatives(frozen, up):
    given = tensors()
    for _ in range(2):
        call(*given, up=up)
    kept = [t for t in given if not (frozen and t is given[1])]

    def derivatives(given, leaves, **options):
        y = call(*given, up=up, flip=False, **options)
        vector = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        first = torch.autograd.grad((y * y * vector).sum(), leaves, create_graph=True)
        return y, *first, *torch.autograd.grad(sum(t.square().sum() for t in first), leaves)

    for t in kept:
        t.requires_grad_()
    call(*given, up=up, flip=False)
    exact = [t.detach().double() for t in given]
    leaves = [t.requires_grad_() for t, like in zip(exact, given, strict=True) if like.requires_grad]
    found, expected = derivatives(given, kept), derivatives(exact, leaves, backend="reference")
    assert packed_weights.info().packs == 2
    for order, (a, b) in enumerate(zip(found, expected, strict=True)):
        factor = (FORWARD, *[GRADIENT] * len(kept), *[SECOND] * len(kept))[order]
        assert_close(a, b, torch.float32, 2 * factor)  # of a square


def changes():
    def step(weight):
        weight.grad = torch.ones_like(weight)
        torch.optim.SGD([weight], 0.1).step()

    def through_data(weight):
        weight.data.copy_(weight.flip(0))

    def through_memory(weight):
        weight.detach().numpy()[3, 4, 1, 2] += 1

    return step, through_data, through_memory


@pytest.mark.parametrize("change", changes(), ids=lambda f: f.__name__)
def test_a_change_is_seen(change):
    x, weight, styles = tensors()
    weight = torch.nn.Parameter(weight)
    with torch.no_grad():
        for _ in range(2):
            call(x, weight, styles)
    change(weight)
    with torch.no_grad():
        assert_close(call(x, weight, styles), oracle(x, weight, styles), torch.float32, FORWARD)
        assert packed_weights.info().packs == 0
        for _ in range(3):  # twice as many calls as before the first pack
            y = call(x, weight, styles)
    assert packed_weights.info().packs == 1
    assert_close(y, oracle(x, weight, styles), torch.float32, FORWARD)


def test_training_packs_nothing():
    x, weight, styles = tensors()
    weight = torch.nn.Parameter(weight)
    for _ in range(4):
        call(x, weight, styles).square().mean().backward()
        weight.data = weight.data - weight.grad
        assert packed_weights.info().packs == 0


def test_packed_in_inference_mode_and_differentiated_later():
    x, weight, styles = tensors()
    with torch.inference_mode():
        for _ in range(2):
            call(x, weight, styles)
    assert packed_weights.info().packs == 1
    call(x, weight, styles.requires_grad_()).sum().backward()
    assert styles.grad.isfinite().all()


def test_bits_that_depend_on_no_call_before():
    given = tensors()
    first = call(*given)
    try:
        torch.use_deterministic_algorithms(True)
        assert all(torch.equal(call(*given), first) for _ in range(3))
    finally:
        torch.use_deterministic_algorithms(False)
    with without_packing():
        assert all(torch.equal(call(*given), first) for _ in range(3))
    assert packed_weights.info().packs == 0
    call(*given)
    assert packed_weights.info().packs == 1
    with without_packing():
        assert torch.equal(call(*given), first)


def test_what_is_not_packed(monkeypatch):
    x, weight, styles = tensors()
    narrow, half = tensors(i=3, o=4), [t.half() for t in (x, weight, styles)]
    with torch.inference_mode():
        untracked = weight.clone()
    for _ in range(3):
        call(*narrow)
        call(*half)
        call(x[:, :, :4, :4], weight, styles)
        call(x[:1, :, :4, :4], weight, styles[:1])
        call(x, untracked, styles)
        call(x, weight.mT, styles)
        call(x, weight, styles, backend="reference")
        torch.vmap(lambda s: modulated_conv2d(x[:1], weight, s[None], padding=1))(styles)
        assert call(x[:0], weight, styles[:0]).shape == (0, 18, 9, 14)
    assert packed_weights.info().packs == 0
    monkeypatch.setattr(packed_weights, "MOST_BYTES", 100)
    for _ in range(3):
        call(x, weight, styles)
    assert packed_weights.info().packs == 0


def test_a_copy_of_a_network_has_its_own():
    x, weight, styles = tensors()
    for _ in range(2):
        call(x, weight, styles)
    other = copy.deepcopy(weight).mul_(2)
    for _ in range(2):
        y = call(x, other, styles, demodulate=False, noise=False)
    assert_close(y, 2 * oracle(x, weight, styles, demodulate=False, noise=False), torch.float32, FORWARD)
    assert packed_weights.info().packs == 2


def test_threads():
    given = tensors()
    expected = oracle(*given)
    with ThreadPoolExecutor(4) as pool:
        for y in pool.map(lambda _: call(*given), range(12)):
            assert_close(y, expected, torch.float32, FORWARD)
    assert packed_weights.info().packs == 1


@pytest.mark.parametrize("up", (1, 2))
def test_nan_stays(up):
    x, weight, styles = tensors()
    x[0, 3, 5, 13] = torch.nan
    expected = call(x, weight, styles, up)
    y = call(x, weight, styles, up)
    assert y[0].isnan().any() and not y[1].isnan().any()
    assert not (expected.isnan() & ~y.isnan()).any()
    weight[2, 0, 1, 1] = torch.nan
    for _ in range(4):
        y = call(x[1:], weight, styles[1:], up)
    assert packed_weights.info().packs == 1 and (y.isnan().all((0, 2, 3)).nonzero() == 2).all()


def test_fingerprint():
    """It depends on every float and on its place, and on no number of threads."""
    values = torch.randn(600_001)
    before, threads = packed_weights._fingerprint(values), torch.get_num_threads()
    for place in (0, 299_999, 600_000):
        values[place] = -values[place]
        assert packed_weights._fingerprint(values) != before
        values[place] = -values[place]
    swapped = values.clone()
    swapped[16:32], swapped[32:48] = values[32:48], values[16:32]
    assert packed_weights._fingerprint(swapped) != before
    try:
        torch.set_num_threads(3)
        assert packed_weights._fingerprint(values) == before
    finally:
        torch.set_num_threads(threads)
    seen = {packed_weights._fingerprint(values[:size]) for size in range(40)}
    assert len(seen) == 40
