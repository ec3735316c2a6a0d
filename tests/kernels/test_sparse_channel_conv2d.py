"""Sparse-channel convolution against the definition: slice the weight, scale it per sample, convolve in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cagc_kernels import backend as backends
from cagc_kernels import modulated_conv2d, setup_filter, sparse_channel_conv2d, use_backend
from cagc_kernels.tolerances import TOLERANCES, assert_close

OP = "sparse_channel_conv2d"
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))
    for name in ("reference", "native")
    for reason in [backends.refusal(name, OP)]
]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
FILTER = setup_filter([1, 3, 3, 1])


def some(count: int, full: int) -> torch.Tensor:
    """``count`` ascending indices below ``full``."""
    return torch.randperm(full)[:count].sort().values


def tensors(n=2, i=6, o=5, k=3, size=(8, 8), dtype=torch.float32, kept=0.5):
    """x, weight, in_channels, out_channels, styles; i and o are the chosen widths, kept their share of the full."""
    full_i, full_o = (max(c, round(c / kept)) for c in (i, o))
    shapes = (n, i, *size), (full_o, full_i, k, k), (n, i)
    x, weight, styles = (torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes)
    return x, weight, some(i, full_i), some(o, full_o), styles


def definition(x, weight, in_channels, out_channels, styles=None, demodulate=True, padding=None, flip_weight=True):
    """StyleGAN2, equations 1 and 3, over the slice, one sample at a time in float64."""
    sliced = weight.double()[out_channels][:, in_channels]
    sliced = sliced if flip_weight else sliced.flip(2, 3)
    padding = weight.shape[-1] // 2 if padding is None else padding
    if styles is None:
        return F.conv2d(x.double(), sliced, padding=padding)
    images = []
    for image, style in zip(x.double(), styles.double(), strict=True):
        w = sliced * style[None, :, None, None]
        if demodulate:
            w = w * (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        images.append(F.conv2d(image[None], w, padding=padding))
    return torch.cat(images)


@every_backend
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("i,o", ((1, 37), (3, 154), (37, 1), (77, 3), (154, 77)))
def test_definition(i, o, dtype, backend):
    # Small images and larger ones are read by different loops.
    *arguments, styles = tensors(i=i, o=o, size=(8, 8) if i < o else (9, 21), dtype=dtype, kept=0.3)
    for given, demodulate in ((None, True), (styles, False), (styles, True)):
        got = sparse_channel_conv2d(*arguments, given, demodulate, backend=backend)
        # x·s, the weights and the demodulated sum are each rounded once.
        assert_close(got, definition(*arguments, given, demodulate), dtype, factor=3)


@every_backend
@pytest.mark.parametrize("n,size", ((5, (4, 4)), (1, (1, 1)), (2, (3, 50)), (1, (33, 17)), (5, (16, 64))))
@pytest.mark.parametrize("k,padding,flip", ((3, None, True), (1, None, False), (3, 0, False), (5, 6, False)))
def test_shapes(k, padding, flip, n, size, backend):
    if min(size) + 2 * (k // 2 if padding is None else padding) < k:
        return
    arguments = tensors(n, 5, 14, k, size)
    got = sparse_channel_conv2d(*arguments, padding=padding, flip_weight=flip, backend=backend)
    assert_close(got, definition(*arguments, padding=padding, flip_weight=flip), torch.float32, factor=3)


@every_backend
@pytest.mark.parametrize("up", (1, 2, 3))
@pytest.mark.parametrize("f", (FILTER, None), ids=("filter", "none"))
@pytest.mark.parametrize("k,flip", ((3, False), (3, True), (1, True), (5, False)))
def test_full_index_sets_equal_modulated_conv2d(k, flip, f, up, backend):
    x, weight, _, _, styles = tensors(i=6, o=13, k=k, size=(9, 7), dtype=torch.float64, kept=1)
    everything = torch.arange(6), torch.arange(13)
    got = sparse_channel_conv2d(x, weight, *everything, styles, flip_weight=flip, up=up, resample_filter=f,
                                backend=backend)  # fmt: skip
    want = modulated_conv2d(x, weight, styles, None, up, 1, k // 2, f, True, flip, backend="reference")
    assert_close(got, want, torch.float64, factor=3)


@every_backend
@pytest.mark.parametrize("up", (1, 2))
def test_scatter(up, backend):
    x, weight, ins, outs, styles = tensors(i=7, o=9)
    options = {"up": up, "resample_filter": FILTER if up > 1 else None, "backend": backend}
    compact = sparse_channel_conv2d(x, weight, ins, outs, styles, **options)
    full = sparse_channel_conv2d(x, weight, ins, outs, styles, scatter=True, **options)
    assert full.shape == (2, 18, 8 * up, 8 * up)
    assert torch.equal(full[:, outs], compact)
    removed = torch.ones(18, dtype=torch.bool)
    removed[outs] = False
    assert not full[:, removed].any()


@every_backend
@pytest.mark.parametrize("height,width", ((6, 10), (9, 21)))
def test_layouts_agree(height, width, backend):
    x, weight, ins, outs, styles = tensors(i=7, o=9, size=(height, width))
    want = sparse_channel_conv2d(x, weight, ins, outs, styles, backend=backend)
    last = x.contiguous(memory_format=torch.channels_last)
    views = {
        "channels_last": last,
        "permuted": x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
        "sliced": torch.randn(4, 9, height + 2, 2 * width)[::2, 1:8, 1:-1, ::2].copy_(x),
        "repeated rows": x[:, :, :1].expand(-1, -1, height, -1),
    }
    for name, view in views.items():
        for scatter in (False, True):
            got = sparse_channel_conv2d(view, weight, ins, outs, styles, scatter=scatter, backend=backend)
            if name == "channels_last":
                assert got.is_contiguous(memory_format=torch.channels_last)
            if name != "repeated rows":
                torch.testing.assert_close(got[:, outs] if scatter else got, want, rtol=1e-5, atol=1e-5)
        assert_close(got[:, outs], definition(view, weight, ins, outs, styles), torch.float32, factor=3)
    transposed = weight.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(sparse_channel_conv2d(x, transposed, ins, outs, styles, backend=backend), want)


@every_backend
def test_empty_batch(backend):
    arguments = tensors(n=0)
    assert sparse_channel_conv2d(*arguments, backend=backend).shape == (0, 5, 8, 8)
    got = sparse_channel_conv2d(*arguments, up=2, resample_filter=FILTER, scatter=True, backend=backend)
    assert got.shape == (0, 10, 16, 16)


@every_backend
@pytest.mark.parametrize("mode", ("plain", "modulated", "demodulated"))
@pytest.mark.parametrize("up,flip,scatter", ((1, True, False), (1, False, True), (2, True, True)))
def test_gradients(up, flip, scatter, mode, backend):
    x, weight, ins, outs, styles = tensors(2, 2, 2, size=(3, 4), dtype=torch.float64, kept=0.7)
    if backend == "reference" and mode != "demodulated":
        return  # PyTorch's own derivatives, whatever the mode

    def function(x, weight, styles=None):
        f = FILTER if up > 1 else None
        return sparse_channel_conv2d(x, weight, ins, outs, styles, mode == "demodulated", None, flip, scatter, up, f,
                                     backend=backend)  # fmt: skip

    given = [t.requires_grad_() for t in (x, weight, styles)[: 2 if mode == "plain" else 3]]
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given, fast_mode=True)


@every_backend
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16), ids=str)
def test_gradients_of_one_tensor_at_a_time(dtype, backend):
    x, weight, ins, outs, styles = tensors(i=37, o=14, dtype=dtype)
    wide = [t.double().requires_grad_() for t in (x, weight, styles)]
    oracle = sparse_channel_conv2d(wide[0], wide[1], ins, outs, wide[2], backend="reference")
    g = torch.randn(oracle.shape).to(dtype)
    want = torch.autograd.grad(oracle, wide, g.double())
    for position in range(3):
        leaves = [t.clone().requires_grad_(i == position) for i, t in enumerate((x, weight, styles))]
        y = sparse_channel_conv2d(leaves[0], leaves[1], ins, outs, leaves[2], backend=backend)
        (got,) = torch.autograd.grad(y, leaves[position], g)
        if backend == "native" or dtype == torch.float32:
            assert_close(got, want[position], dtype, factor=6)
        assert got.dtype == dtype


def test_float16_does_not_overflow():
    x, weight, ins, outs, styles = tensors(i=64, size=(4, 4))
    want = definition(x, weight * 200, ins, outs, styles * 300)
    got = sparse_channel_conv2d(x.half(), (weight * 200).half(), ins, outs, (styles * 300).half())
    assert_close(got, want, torch.float16, factor=3)


@every_backend
def test_same_result_every_time(backend):
    arguments = tensors(i=77, o=39, size=(16, 16))
    first = sparse_channel_conv2d(*arguments, backend=backend)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            got = sparse_channel_conv2d(*arguments, backend=backend)
            assert torch.equal(got, first) or backend == "reference"
    finally:
        torch.set_num_threads(threads)


def test_index_tensors_are_looked_at_again_when_they_change():
    x, weight, ins, outs, styles = tensors()
    sparse_channel_conv2d(x, weight, ins, outs, styles)
    ins[0] = weight.shape[1]
    with pytest.raises(ValueError, match="in_channels: got"):
        sparse_channel_conv2d(x, weight, ins, outs, styles)
    with torch.inference_mode():
        inside = outs.clone()
        sparse_channel_conv2d(x, weight, some(6, 12), inside, styles)
        inside[0] = -1
        with pytest.raises(ValueError, match="out_channels: got -1, expected 0 to 9"):
            sparse_channel_conv2d(x, weight, some(6, 12), inside, styles)


def test_use_backend_is_honoured():
    arguments = tensors(dtype=torch.float64)
    with use_backend("reference"):
        assert_close(sparse_channel_conv2d(*arguments), definition(*arguments), torch.float64)


@every_backend
@pytest.mark.parametrize("up", (1, 2))
def test_half_precision_beside_float32_weights(up, backend):
    x, weight, ins, outs, styles = tensors(i=9, o=7)
    options = {"up": up, "resample_filter": FILTER if up > 1 else None, "backend": backend}
    half = x.bfloat16()
    want = sparse_channel_conv2d(half.double(), weight.double(), ins, outs, styles.double(), **options)
    leaves = weight.clone().requires_grad_(), styles.clone().requires_grad_()
    got = sparse_channel_conv2d(half, leaves[0], ins, outs, leaves[1], **options)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sparse_channel_conv2d(x, weight, ins, outs, styles, **options), got)
    assert got.dtype == torch.bfloat16
    assert_close(got, want, torch.bfloat16, factor=3)
    assert {g.dtype for g in torch.autograd.grad(got.sum(), leaves)} == {torch.float32}


native = pytest.mark.skipif(backends.refusal("native", OP) is not None, reason=str(backends.refusal("native", OP)))


@native
@pytest.mark.parametrize("layout", ("channels_last", "sliced"))
def test_opcheck(layout):
    x, weight, ins, outs, styles = tensors(i=3, o=4, size=(5, 6))
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    else:
        x, weight = torch.randn(2, 5, 7, 6)[:, 1:4, ::2], weight.transpose(2, 3)
    x, weight, styles = (t.requires_grad_() for t in (x.detach(), weight, styles))
    op = torch.ops.cagc.sparse_channel_conv2d.default
    for given, demodulate, padding, up, scatter in ((styles, True, 1, 1, True), (None, False, 2, 2, False)):
        torch.library.opcheck(op, (x, weight, ins, outs, given, demodulate, True, padding, up, scatter, "native"))


def test_compiles_into_one_graph():
    def layer(x, weight, ins, outs, styles):
        y = sparse_channel_conv2d(x, weight, ins, outs, styles, up=2, flip_weight=False, resample_filter=FILTER)
        return y.square().mean()

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (2, 3):
        x, weight, ins, outs, styles = tensors(n)
        got, want = [], []
        for function, out in ((compiled, got), (layer, want)):
            leaves = [t.clone().requires_grad_() for t in (x, weight, styles)]
            y = function(leaves[0], leaves[1], ins, outs, leaves[2])
            out += [y, *torch.autograd.grad(y, leaves)]
        for a, e in zip(got, want, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)


@native
def test_a_compiled_graph_refuses_bad_indices():
    x, weight, ins, outs, styles = tensors()
    torch._dynamo.reset()
    compiled = torch.compile(sparse_channel_conv2d, fullgraph=True, backend="eager")
    compiled(x, weight, ins, outs, styles)
    with pytest.raises(ValueError, match="out_channels: got 10, expected 0 to 9"):
        compiled(x, weight, ins, torch.cat([outs[:-1], torch.tensor([10])]), styles)


@every_backend
@pytest.mark.parametrize("which", (2, 3), ids=("in_channels", "out_channels"))
def test_indices_written_behind_autograd(which, backend):
    """Through numpy, which no version tells: refused by the next call, and not read by derivatives of the last one."""
    arguments = [t.double() if t.is_floating_point() else t for t in tensors()]
    x, weight, *_, styles = (t.requires_grad_() if t.is_floating_point() else t for t in arguments)

    def second_gradient(between):
        y = sparse_channel_conv2d(*arguments, backend=backend)
        first = torch.autograd.grad(y.square().sum(), (x, weight, styles), create_graph=True)
        between()
        return torch.autograd.grad(sum(g.square().sum() for g in first), (x, weight, styles))

    index = arguments[which]
    before = second_gradient(lambda: None)
    after = second_gradient(lambda: index.numpy().__setitem__(-1, 10**9))
    assert all(map(torch.equal, after, before))
    name = ("in_channels", "out_channels")[which - 2]
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=f"{name}: got 1000000000, expected 0 to"):
            sparse_channel_conv2d(*arguments, backend=backend)
    index.data[-1] = index[-2] + 1
    got = sparse_channel_conv2d(*arguments, backend=backend)
    torch.testing.assert_close(got, definition(*arguments))
