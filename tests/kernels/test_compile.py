"""The public ops under torch.compile, torch.export and functional transforms."""

from __future__ import annotations

import pytest
import torch

from cagc_kernels import (
    bias_act,
    downsample2d,
    filter2d,
    modulated_conv2d,
    setup_filter,
    sparse_channel_conv2d,
    styled_conv2d,
    upfirdn2d,
    upsample2d,
    use_backend,
)

WEIGHT, FILTER = torch.randn(5, 3, 3, 3), setup_filter([1, 3, 3, 1])


def layer(x, weight, styles, bias, f):
    y = styled_conv2d(x, weight, styles, bias, up=2, resample_filter=f, clamp=256.0)
    return upfirdn2d(y, f, down=2, padding=1)


def inputs(n=2):
    shapes = (n, 3, 8, 8), (5, 3, 3, 3), (n, 3), (5,)
    return *map(torch.randn, shapes), setup_filter([1, 3, 3, 1])


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()


@pytest.mark.parametrize("dynamic", (False, True))
def test_fullgraph(dynamic):
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n in (2, 3):
        arguments = inputs(n)
        got, want = [], []
        for function, out in ((compiled, got), (layer, want)):
            leaves = [t.clone().requires_grad_() for t in arguments[:4]]
            y = function(*leaves, arguments[4])
            out += [y, *torch.autograd.grad(y.square().sum(), leaves)]
        for a, e in zip(got, want, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)


def test_inductor_keeps_the_op_as_one_node():
    # Scalar code, compiled once: what takes inductor long says nothing about the op.
    quick = {"cpp.vec_isa_ok": False, "cpp_cache_precompile_headers": False, "compile_threads": 1}
    options = {name: value for name, value in quick.items() if name in torch._inductor.list_options()}
    compiled = torch.compile(lambda x, b: bias_act(x * 2, b, act="lrelu"), fullgraph=True, options=options)
    x = torch.randn(2, 3, 4, 5).permute(0, 1, 3, 2)
    b = torch.randn(3)
    torch.testing.assert_close(compiled(x, b), bias_act(x * 2, b, act="lrelu"))


def test_preferred_backend_is_guarded():
    seen = []

    def spy(graph, _):
        seen.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    compiled = torch.compile(lambda x: bias_act(x, act="lrelu"), fullgraph=True, backend=spy)
    x = torch.randn(2, 3, 4, 4)
    with use_backend("reference"):
        compiled(x)
    with use_backend("native"):
        compiled(x)
    assert len(seen) == 2


def test_export():
    class Layer(torch.nn.Module):
        def forward(self, *arguments):
            return layer(*arguments)

    arguments = inputs()
    program = torch.export.export(Layer(), arguments)
    torch.testing.assert_close(program.module()(*arguments), layer(*arguments))


def test_meta_and_fake_tensors():
    y = bias_act(torch.empty(2, 3, 4, 4, device="meta"), act="lrelu", backend="reference")
    assert y.device.type == "meta" and y.shape == (2, 3, 4, 4)
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(2, 4, 4, 3).permute(0, 3, 1, 2)
        assert bias_act(x, act="lrelu").stride() == x.stride()
        y = upfirdn2d(x, None, 2)
        assert y.shape == (2, 3, 8, 8) and y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("function", (filter2d, upsample2d, downsample2d), ids=lambda function: function.__name__)
def test_trace(function):
    f = setup_filter([1, 3, 3, 1])
    traced = torch.jit.trace(lambda x: function(x, f), (torch.randn(1, 3, 8, 8),))
    x = torch.randn(2, 3, 10, 6)
    torch.testing.assert_close(traced(x), function(x, f))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "layer",
    (
        lambda x, s: modulated_conv2d(x, WEIGHT, s, down=2, padding=1, resample_filter=FILTER),
        lambda x, s: styled_conv2d(x, WEIGHT, s, torch.ones(5), up=2, resample_filter=FILTER),
        lambda x, s: sparse_channel_conv2d(x, WEIGHT, torch.arange(3), torch.tensor([1, 4]), s, up=2),
    ),
)
def test_trace_of_layers(layer):
    traced = torch.jit.trace(layer, (torch.randn(1, 3, 8, 8), torch.randn(1, 3)))
    given = torch.randn(2, 3, 8, 8), torch.randn(2, 3)
    torch.testing.assert_close(traced(*given), layer(*given))
