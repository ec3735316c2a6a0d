"""Code bases written for rosinality's and NVlabs' op packages run on ours unchanged, until it is undone."""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from cagc_kernels import setup_filter
from cagc_kernels import upfirdn2d as our_upfirdn2d
from cagc_kernels.compat import gradfix, nvlabs, rosinality

# Small code bases in the style of the two families: they know nothing of this package.
ROSINALITY_MODEL = """
    import torch
    from torch import nn
    from op import FusedLeakyReLU, conv2d_gradfix, fused_leaky_relu, upfirdn2d
    from op.upfirdn2d import upfirdn2d_native
    import op.fused_act

    class Layer(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3))
            self.register_buffer("kernel", torch.outer(torch.tensor([1., 3, 3, 1]), torch.tensor([1., 3, 3, 1])) / 64)
            self.activate = FusedLeakyReLU(channels)

        def forward(self, x):
            with conv2d_gradfix.no_weight_gradients():
                x = conv2d_gradfix.conv2d(x, self.weight, padding=1)
            x = upfirdn2d(x, self.kernel * 4, up=2, pad=(2, 1))
            return fused_leaky_relu(self.activate(x))
"""
NVLABS_MODEL = """
    from torch_utils import misc
    from torch_utils.ops import bias_act, conv2d_gradfix, fma, upfirdn2d
    from torch_utils.ops.upfirdn2d import _get_filter_size, _parse_padding

    conv2d_gradfix.enabled = True

    def layer(x, w, b, f):
        x = conv2d_gradfix.conv2d(x, w, padding=1)
        x = fma.fma(x, x.new_ones([1, 1, 1, 1]) * 2, b[:, None, None])
        x = upfirdn2d.upsample2d(x, f, up=2, impl="cuda")
        return bias_act.bias_act(x, b, act="lrelu", gain=bias_act.activation_funcs["lrelu"].def_gain, clamp=1.5)
"""
TREES = {
    "rosinality": {"model.py": ROSINALITY_MODEL, "op/__init__.py": "raise RuntimeError('compiles on import')"},
    "nvlabs": {
        "networks.py": NVLABS_MODEL,
        "torch_utils/__init__.py": "",
        "torch_utils/misc.py": "kept = True",
        "torch_utils/ops/__init__.py": "",
        "torch_utils/ops/bias_act.py": """
            from types import SimpleNamespace
            def bias_act(): return "theirs"
            activation_funcs = {"lrelu": SimpleNamespace(def_gain=2**0.5), "theirs": None}
        """,
        "torch_utils/ops/upfirdn2d.py": "def upsample2d(): return 'theirs'",
    },
}


def roots() -> dict[str, ModuleType]:
    return {k: v for k, v in sys.modules.items() if k.split(".")[0] in ("op", "torch_utils", "model", "networks")}


@pytest.fixture
def code_base(request, tmp_path, monkeypatch):
    """The stand-in of a family on the path; its modules are forgotten afterwards."""
    for name, text in TREES[request.param].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    for name in roots():
        del sys.modules[name]


def gradients(y, *inputs):
    return torch.autograd.grad(y.square().sum(), inputs)


@pytest.mark.parametrize("code_base", ["rosinality"], indirect=True)
def test_rosinality_code_base(code_base):
    with rosinality.install():
        layer = importlib.import_module("model").Layer(3).double()
        assert list(layer.state_dict()) == ["weight", "kernel", "activate.bias"]
        torch.nn.init.normal_(layer.activate.bias)
        x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
        y = layer(x)
    want = F.conv2d(x, layer.weight, padding=1)
    want = our_upfirdn2d(want, setup_filter([1, 3, 3, 1]), 2, padding=[2, 1, 2, 1], gain=4, backend="reference")
    want = F.leaky_relu(want + layer.activate.bias[:, None, None], 0.2) * 2**0.5
    want = F.leaky_relu(want, 0.2) * 2**0.5
    torch.testing.assert_close(y, want)
    inputs = x, layer.weight, layer.activate.bias
    torch.testing.assert_close(gradients(y, *inputs), gradients(want, *inputs))
    assert not set(roots()) - {"model"}


@pytest.mark.parametrize("code_base", ["nvlabs"], indirect=True)
@pytest.mark.parametrize("imported", (False, True))
def test_nvlabs_code_base(code_base, imported):
    if imported:
        theirs = importlib.import_module("torch_utils.ops.bias_act")
        before = dict(vars(theirs))
    with nvlabs.install():
        networks = importlib.import_module("networks")
        x = torch.randn(2, 3, 6, 5, requires_grad=True)
        w, b = torch.randn(3, 3, 3, 3), torch.randn(3, requires_grad=True)
        if imported:
            assert networks.bias_act is theirs and "theirs" in theirs.activation_funcs
        y = networks.layer(x, w, b, setup_filter([1, 3, 3, 1]))
        assert networks.misc.kept and networks._get_filter_size(setup_filter([1, 2, 1])) == (3, 3)
        assert networks._parse_padding([1, 2]) == (1, 1, 2, 2)
    want = F.conv2d(x, w, padding=1) * 2 + b[:, None, None]
    want = our_upfirdn2d(want, setup_filter([1, 3, 3, 1]), 2, padding=[2, 1, 2, 1], gain=4, backend="reference")
    want = (F.leaky_relu(want + b[:, None, None], 0.2) * 2**0.5).clamp(-1.5, 1.5)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(gradients(y, x, b), gradients(want, x, b))
    assert "torch_utils.ops.fma" not in sys.modules
    if imported:
        assert theirs.bias_act is before["bias_act"] and theirs.bias_act() == "theirs"
        assert vars(theirs) == before


def test_nvlabs_without_its_code_base():
    with nvlabs.install():
        module = importlib.import_module("torch_utils.ops.bias_act")
        x = torch.randn(2, 3)
        for name, spec in module.activation_funcs.items():
            want = (spec.func(x, alpha=0.2) if name == "lrelu" else spec.func(x)) * spec.def_gain
            torch.testing.assert_close(module.bias_act(x, act=name), want)
    assert not roots()


@pytest.mark.parametrize("impl", ("ref", "cuda"))
def test_nvlabs_impl(impl):
    x = torch.randn(1, 2, 5, 5)
    f = setup_filter([1, 3, 3, 1])
    assert nvlabs.bias_act(x, impl=impl).equal(x)
    shapes = [
        getattr(nvlabs, n)(x, f, impl=impl).shape[-1] for n in ("upfirdn2d", "filter2d", "upsample2d", "downsample2d")
    ]
    assert shapes == [2, 5, 10, 2]
    with pytest.raises(ValueError, match="impl: got 'triton', expected one of cuda, ref"):
        nvlabs.bias_act(x, impl="triton")


SIGNATURES = {
    rosinality.fused_leaky_relu: "input, bias=None, negative_slope=0.2, scale=1.4142135623730951",
    rosinality.FusedLeakyReLU: "channel, bias=True, negative_slope=0.2, scale=1.4142135623730951",
    rosinality.upfirdn2d: "input, kernel, up=1, down=1, pad=(0, 0)",
    rosinality.upfirdn2d_native: "input, kernel, up_x, up_y, down_x, down_y, pad_x0, pad_x1, pad_y0, pad_y1",
    nvlabs.bias_act: "x, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='cuda'",
    nvlabs.upfirdn2d: "x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl='cuda'",
    nvlabs.filter2d: "x, f, padding=0, flip_filter=False, gain=1, impl='cuda'",
    nvlabs.upsample2d: "x, f, up=2, padding=0, flip_filter=False, gain=1, impl='cuda'",
    nvlabs.downsample2d: "x, f, down=2, padding=0, flip_filter=False, gain=1, impl='cuda'",
    nvlabs.fma: "a, b, c",
    gradfix.conv2d: "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1",
    gradfix.conv_transpose2d: "input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1",
    gradfix.no_weight_gradients: "disable=True",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f"{f.__module__.split('.')[-1]}-{f.__name__}")
def test_signatures_of_the_peers(function):
    parameters = inspect.signature(function).parameters.values()
    found = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    assert ", ".join(found) == SIGNATURES[function]


@pytest.mark.parametrize("bias", (True, False))
def test_fused_leaky_relu_module(bias):
    module = rosinality.FusedLeakyReLU(4, bias=bias, negative_slope=0.1, scale=1.5)
    assert list(module.state_dict()) == (["bias"] if bias else [])
    x = torch.randn(3, 4)
    torch.testing.assert_close(module(x), F.leaky_relu(x, 0.1) * 1.5)


def test_conv_transpose2d_takes_every_argument():
    x, w = torch.randn(1, 4, 5, 5), torch.randn(4, 2, 3, 3)
    options = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 1}
    torch.testing.assert_close(gradfix.conv_transpose2d(x, w, **options), F.conv_transpose2d(x, w, **options))


def test_bad_input_of_upfirdn2d():
    x, kernel = torch.zeros(1, 1, 4, 4), torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"pad: got \(1, 2, 3\), expected"):
        rosinality.upfirdn2d(x, kernel, pad=(1, 2, 3))
    with pytest.raises(ValueError, match=r"kernel: got shape \[2\], expected \[kh, kw\]"):
        rosinality.upfirdn2d(x, kernel[0])


@pytest.mark.parametrize("family", (rosinality, nvlabs))
def test_installing_nests_and_ends(family):
    before = dict(sys.modules)
    with family.install():
        first = roots()
        assert first
        with family.install():
            assert roots() == first
        assert roots() == first
    assert dict(sys.modules) == before
    with pytest.raises(RuntimeError, match="uninstall without install"):
        family.uninstall()


def test_in_place_and_back(monkeypatch):
    theirs = ModuleType("op")
    theirs.FusedLeakyReLU = theirs.upfirdn2d = theirs.fused_leaky_relu = theirs.extra = object()
    monkeypatch.setitem(sys.modules, "op", theirs)
    before = dict(vars(theirs))
    with rosinality.install():
        assert sys.modules["op"] is theirs and theirs.upfirdn2d is rosinality.upfirdn2d
        assert theirs.extra is before["extra"]
        assert importlib.import_module("op.conv2d_gradfix").conv2d is gradfix.conv2d
    assert vars(theirs) == before and set(roots()) == {"op"}


def test_another_module_of_that_name_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "op", ModuleType("op"))
    with pytest.raises(RuntimeError, match="'op' .* has no FusedLeakyReLU"):
        rosinality.install()
    assert set(roots()) == {"op"} and not vars(sys.modules["op"]).get("upfirdn2d")


def test_a_replaced_installation_is_refused():
    installed = rosinality.install()
    ours = sys.modules["op"]
    try:
        sys.modules["op"] = ModuleType("op")
        for call, what in ((rosinality.install, "install"), (rosinality.uninstall, "uninstall")):
            with pytest.raises(RuntimeError, match=f"cannot {what}: something has replaced 'op' in sys.modules"):
                call()
    finally:
        sys.modules["op"] = ours
        installed.__exit__()
    assert not roots()
