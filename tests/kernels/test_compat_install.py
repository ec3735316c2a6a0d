"""One call replaces copies of the ops in any folder: small code bases of the known layouts are written and run."""

from __future__ import annotations

import importlib
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F

import cagc_kernels
import cagc_kernels.compat as compat
from cagc_kernels.compat import __main__ as command
from cagc_kernels.compat import gradfix, rosinality

from .code_bases import CALLS, FUSED_ACT, KERNEL, PAIR, UPFIRDN, op_package


@pytest.mark.parametrize("folder", ("op", "models/stylegan2/op", "torch_utils/op_edit"))
def test_a_copy_of_rosinality_anywhere(write, folder):
    package = folder.replace("/", ".")
    write(op_package(folder))
    with compat.install():
        op = importlib.import_module(package)
        layer = op.FusedLeakyReLU(3, 0.1).double()
        torch.nn.init.normal_(layer.bias)
        x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
        torch.testing.assert_close(layer(x), F.leaky_relu(x + layer.bias[:, None, None], 0.1) * 2**0.5)
        kernel = torch.rand(3, 3, dtype=torch.float64)
        want = F.conv2d(F.pad(x, (1, 1, 1, 1)), kernel.flip(0, 1).expand(3, 1, 3, 3), groups=3)
        torch.testing.assert_close(op.upfirdn2d(x, kernel, pad=(1, 1)), want)
        assert op.helper() == "theirs" and torch.load is not None
        told = compat.explain_install()
        assert f"{package}.upfirdn2d" in told and "replaced: upfirdn2d(input, kernel, up=1, down=1, pad=(0, 0))" in told
    assert f"{package}.fused_act" not in sys.modules and compat.explain_install().endswith("not installed")
    with pytest.raises((OSError, RuntimeError)):  # theirs again: no compiler, or no such source
        importlib.import_module(f"{package}.fused_act")


def test_a_copy_that_is_imported_already(write):
    write(
        {
            "mine/ops/fused_act.py": FUSED_ACT.replace('load("fused", sources=["fused.cu"])', "None").format(
                forward=CALLS, body="return 'theirs'"
            ),
            "mine/ops/upfirdn2d.py": f"def upfirdn2d({PAIR}): return 'theirs'",
            "mine/model.py": "from mine.ops.upfirdn2d import upfirdn2d as up\nfrom mine.ops import fused_act",
        }
    )
    model = importlib.import_module("mine.model")
    layer, up = model.fused_act.FusedLeakyReLU(2), model.up
    x = torch.ones(1, 2, 2, 2)
    with compat.install(), compat.install():
        assert layer(x).shape == x.shape and model.up(x, torch.ones(1, 1)).equal(x)
    assert layer(x) == "theirs" and model.up is up and sys.modules["mine.ops.upfirdn2d"].upfirdn2d is up


NVLABS = {
    "torch_utils/ops/bias_act.py": """
        import dnnlib_that_is_absent
        activation_funcs = {"lrelu": {"def_gain": 2 ** 0.5}}
        def bias_act(x, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='cuda'): return "theirs"
    """,
    "torch_utils/ops/upfirdn2d.py": "def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1): pass",
    "torch_utils/ops/grid_sample_gradfix.py": """
        from pkg_resources_that_is_absent import parse_version
        new = parse_version("1") > parse_version("2")
        enabled = False
        def grid_sample(input, grid): return "theirs"
    """,
    "torch_utils/ops/filtered_lrelu.py": """
        def filtered_lrelu(x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=2 ** 0.5, slope=0.2, clamp=None,
                           flip_filter=False, impl='cuda'): return "theirs"
    """,
    "torch_utils/ops/conv2d_resample.py": "def conv2d_resample(x): return 'theirs'",
}


def test_nvlabs_ops_and_what_is_left_alone(write):
    write(NVLABS)
    with compat.install():
        import torch_utils.ops.bias_act  # with attribute access, as code bases write it

        ops = torch_utils.ops
        x, b = torch.randn(2, 3).half(), torch.randn(3)
        got = ops.bias_act.bias_act(x, b, act="lrelu", gain=torch.tensor(1.0), clamp=256)
        torch.testing.assert_close(got, F.leaky_relu(x + b.half(), 0.2))
        assert ops.bias_act.activation_funcs["lrelu"]["def_gain"] == 2**0.5
        assert (
            importlib.import_module("torch_utils.ops.grid_sample_gradfix")
            .grid_sample(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 1, 2))
            .equal(torch.ones(1, 1, 1, 1))
        )
        filtered = importlib.import_module("torch_utils.ops.filtered_lrelu").filtered_lrelu
        f, x, options = torch.rand(12), torch.randn(1, 3, 5, 5), {"up": 2, "down": 2, "padding": 9}
        want = cagc_kernels.filtered_lrelu(x, f, f, b, **options)
        assert torch.equal(filtered(x, f, f, b.double(), **options), want)
        assert importlib.import_module("torch_utils.ops.conv2d_resample").conv2d_resample(0) == "theirs"
        told = compat.explain_install()
    assert "conv2d_resample\n    left alone: it is made of upfirdn2d and conv2d_gradfix" in told
    assert "passed over line 2: ModuleNotFoundError" in told


def test_basicsr_and_mmcv(write):
    fused = FUSED_ACT.format(forward=CALLS, body=KERNEL)
    write(
        {
            "basicsr/ops/fused_act/__init__.py": "from .fused_act import FusedLeakyReLU, fused_leaky_relu",
            "basicsr/ops/fused_act/fused_act.py": fused,
            "basicsr/ops/upfirdn2d/upfirdn2d.py": UPFIRDN.format(signature=PAIR),
            "mmcv/ops/__init__.py": "from .roi import roi\nfrom .fused_bias_leakyrelu import FusedBiasLeakyReLU",
            "mmcv/ops/roi.py": "from ._ext_that_is_absent import ext\ndef roi(): return ext.run()",
            "mmcv/ops/fused_bias_leakyrelu.py": fused.replace("FusedLeaky", "FusedBiasLeaky")
            .replace("fused_leaky_relu", "fused_bias_leakyrelu")
            .replace("channel", "num_channels"),
            "mmcv/ops/upfirdn2d.py": "def upfirdn2d(input, filter, up=1, down=1, padding=0, flip_filter=False, gain=1,"
            " use_custom_op=True): pass",
        }
    )
    x = torch.randn(1, 2, 3, 3)
    with compat.install():
        op = importlib.import_module("basicsr.ops.fused_act")
        torch.testing.assert_close(op.FusedLeakyReLU(2)(x), F.leaky_relu(x, 0.2) * 2**0.5)
        assert importlib.import_module("basicsr.ops.upfirdn2d.upfirdn2d").upfirdn2d(x, torch.ones(1, 1)).equal(x)
        op = importlib.import_module("mmcv.ops")
        assert op.FusedBiasLeakyReLU(num_channels=2)(x).shape == x.shape
        upfirdn2d = importlib.import_module("mmcv.ops.upfirdn2d").upfirdn2d
        assert upfirdn2d(x, torch.ones(1), padding=1, use_custom_op=False).shape == (1, 2, 5, 5)
        with pytest.raises(RuntimeError, match="mmcv.ops.roi.ext: not there .* line 1: ModuleNotFoundError"):
            op.roi()


LAST = "return input + bias.view(1, 1, -1) if input.ndim == 3 else input"


@pytest.mark.parametrize(("body", "axis", "want"), [(KERNEL, None, 1), (LAST, None, 2), (KERNEL, -1, 2), (LAST, 1, 1)])
def test_the_bias_of_three_dimensions_follows_the_copy(write, body, axis, want):
    write(op_package("op", body=body))
    x, b = torch.randn(2, 3, 3), torch.randn(3)
    with compat.install("op", bias_axis=axis):
        op = importlib.import_module("op")
        expected = F.leaky_relu(x + (b if want == 2 else b[:, None]), 0.2) * 2**0.5
        torch.testing.assert_close(op.fused_leaky_relu(x, b), expected)
        if axis is None:  # where only the last axis fits there is no doubt
            assert op.fused_leaky_relu(x[:, :2], b).shape == (2, 2, 3)


def test_a_class_that_slices_its_bias_and_calls_its_kernel(write):
    write(op_package("op", forward="fused.run(input, self.bias[:input.shape[1]], self.negative_slope, self.scale)"))
    with compat.install():
        layer = importlib.import_module("op").FusedLeakyReLU(4, scale=1)
        torch.nn.init.normal_(layer.bias)
        x = torch.randn(2, 3, 2, 2)
        torch.testing.assert_close(layer(x), F.leaky_relu(x + layer.bias[:3, None, None], 0.2))


def test_numbers_as_code_bases_give_them():
    np = pytest.importorskip("numpy")
    x, kernel = torch.randn(1, 2, 4, 4), torch.rand(2, 2)
    want = rosinality.upfirdn2d(x, kernel, 2, 1, (1, 0, 1, 0))
    assert rosinality.upfirdn2d(x, kernel, 2.0, np.int64(1), torch.tensor([1, 0, 1, 0])).equal(want)
    assert rosinality.upfirdn2d(x, kernel, (np.int64(2), torch.tensor(2)), pad=np.array([1, 0])).equal(want)
    assert rosinality.upfirdn2d(x, kernel, pad=1).shape == (1, 2, 5, 5)
    with pytest.raises(ValueError, match=r"up: got 1\.5, expected a whole number"):
        rosinality.upfirdn2d(x, kernel, 1.5)
    with pytest.raises(TypeError, match="bias: got float, expected True or False"):
        rosinality.FusedLeakyReLU(8, 0.1)
    assert rosinality.fused_leaky_relu(x.half(), torch.zeros(4)[:2], torch.tensor(0.5)).dtype == torch.float16


@pytest.mark.parametrize("inputs", ("both", "input", "grid"))
def test_second_gradients_of_grid_sample(inputs):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, 4, 3, generator=generator, dtype=torch.float64, requires_grad=inputs != "grid")
    grid = torch.rand(2, 3, 2, 2, generator=generator, dtype=torch.float64) * 2.6 - 1.3
    grid.requires_grad_(inputs != "input")
    y, want = gradfix.grid_sample(x, grid), F.grid_sample(x, grid, align_corners=False)
    leaves = [t for t in (x, grid) if t.requires_grad]
    assert y.equal(want)
    for again in (False, True):
        found = torch.autograd.grad(y.square().sum(), leaves, create_graph=again, retain_graph=True)
        torch.testing.assert_close(found, torch.autograd.grad(want.square().sum(), leaves, retain_graph=True))
    assert torch.autograd.gradgradcheck(gradfix.grid_sample, (x, grid))
    with pytest.raises(ValueError, match=r"grid: got shape \[2\], expected \[N, H', W', 2\]"):
        gradfix.grid_sample(x, torch.zeros(2))


@pytest.mark.parametrize("dynamo", (True, False))
def test_export_to_onnx_has_no_op_of_ours(tmp_path, dynamo):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")

    class Model(torch.nn.Module):
        def forward(self, x):
            return rosinality.fused_leaky_relu(rosinality.upfirdn2d(x, torch.ones(2, 2), up=2, pad=(1, 0)))

    with pytest.warns():  # PyTorch's own, about the older exporter among others
        import warnings

        warnings.warn("one at least", stacklevel=1)
        torch.onnx.export(Model().eval(), (torch.randn(1, 2, 4, 4),), tmp_path / "m.onnx", dynamo=dynamo)
    assert {node.domain for node in onnx.load(tmp_path / "m.onnx").graph.node} <= {""}


def test_the_second_gradient_of_a_clamped_linear_bias_is_none():
    """As in NVlabs' code, whose optimiser then does not change the bias of the RGB layers in a path-length step."""
    x, b = torch.randn(2, 3, requires_grad=True), torch.zeros(3, requires_grad=True)
    y = compat.nvlabs.bias_act(x * 2, b, clamp=1)
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    assert torch.autograd.grad((g * x).sum(), b, allow_unused=True)[0] is not None  # by way of y
    y = compat.nvlabs.bias_act(x * 2, b, clamp=1)
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert torch.autograd.grad((g * x).sum(), b, allow_unused=True)[0] is None


def test_folders_that_only_look_like_ops_are_left_alone(write):
    write(
        {
            "look/fused_act.py": "def other(): return 'theirs'",
            "look/upfirdn2d.py": "def unrelated(): return 'theirs'",
            "alone/fma.py": "def fma(a, b, c): return 'theirs'",
        }
    )
    with compat.install():
        assert importlib.import_module("look.fused_act").other() == "theirs"
        assert importlib.import_module("look.upfirdn2d").unrelated() == "theirs"
        assert importlib.import_module("alone.fma").fma(1, 2, 3) == "theirs"
        told = compat.explain_install()
    assert "look.fused_act\n    left alone: it defines none of FusedLeakyReLU, fused_leaky_relu" in told
    assert "alone.fma\n    left alone: no other file of an op package lies beside it" in told


def test_a_signature_that_is_not_served_raises_when_called(write):
    write(op_package("op", signature="input, kernel, dilation=1"))
    with compat.install():
        op = importlib.import_module("op")
        with pytest.raises(TypeError, match=r"op\.upfirdn2d\.upfirdn2d: got the parameter 'dilation' in its signature"):
            op.upfirdn2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1))
        assert "not served: upfirdn2d: got the parameter 'dilation'" in compat.explain_install()


def test_packages_that_cannot_be_reached(write):
    write({"broken/__init__.py": "raise KeyError('no key')", "broken/op/__init__.py": ""})
    before = list(sys.meta_path)
    for package, error, message in (
        ("broken.op", ImportError, r"package: got 'broken.op', which cannot be reached \(KeyError: 'no key'\)"),
        ("absent_package", ModuleNotFoundError, "package: got 'absent_package', expected a package or module"),
        (3, TypeError, "package: got int"),
    ):
        with pytest.raises(error, match=message):
            compat.install(package)
    with pytest.raises(ValueError, match="bias_axis: got 0, expected 1, -1 or None"):
        compat.install("torch", bias_axis=0)
    assert sys.meta_path == before


def test_the_command_runs_a_script(write, monkeypatch, capsys):
    script = "import sys\nfrom op import upfirdn2d, helper\nprint(helper(), sys.argv[1:], __name__)"
    folder = write({**op_package("op"), "script.py": script})
    monkeypatch.setattr(sys, "argv", ["before"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        assert command.main([str(folder / "script.py"), "--seeds", "7"]) == 0
    finally:
        compat.uninstall()
    assert capsys.readouterr().out == "theirs ['--seeds', '7'] __main__\n"
    assert command.main(["absent.py"]) == 2 and "script: got 'absent.py'" in capsys.readouterr().err


NETWORKS = """
    import torch
    from torch_utils.ops import bias_act, {beside}

    def decorated(function):
        return lambda *args, **kwargs: function(*args, **kwargs)

    @decorated
    def modulated_conv2d({signature}):
        return "theirs"
"""
MODULATED = (
    "x, weight, styles, noise=None, up=1, down=1, padding=0, resample_filter=None, demodulate=True, flip_weight=True, "
    "fused_modconv=True"
)


def networks(signature, beside="upfirdn2d"):
    return NETWORKS.format(signature=signature, beside=beside)


def test_modulated_convolution_of_networks(write):
    files = {
        "training/networks.py": networks(MODULATED),
        "training/networks_student.py": networks(MODULATED),
        "training/networks_stylegan2.py": networks("x, kernel, s, demodulate=True"),
    }
    write({**NVLABS, "torch_utils/ops/bias_act.py": "def bias_act(): pass", **files})
    x, weight, styles = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 3, 3), torch.randn(2, 3)
    noise = torch.randn(4, 4)
    with compat.install():
        module = importlib.import_module("training.networks")
        y = module.modulated_conv2d(x=x, weight=weight, styles=styles, noise=noise, padding=1, fused_modconv=False)
        assert importlib.import_module("training.networks_stylegan2").modulated_conv2d(0, 0, 0) == "theirs"
        assert "left alone: modulated_conv2d, which has another signature" in compat.explain_install()
        student = importlib.import_module("training.networks_student")
        torch.testing.assert_close(student.modulated_conv2d(x, weight, styles, noise, padding=1), y)
    w = weight * styles[:, None, :, None, None]
    w = w / (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    want = F.conv2d(x.view(1, 6, 4, 4), w.view(10, 3, 3, 3), padding=1, groups=2).view(2, 5, 4, 4) + noise
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)
    assert module.modulated_conv2d(0, 0, 0) == "theirs"


def test_modulated_convolution_of_stylegan3(write):
    signature = "x, w, s, demodulate=True, padding=0, input_gain=None"
    write({**NVLABS, "torch_utils/ops/bias_act.py": "def bias_act(): pass",
           "torch_utils/ops/filtered_lrelu.py": "def filtered_lrelu(): pass",
           "training/networks_stylegan3.py": networks(signature, "filtered_lrelu")})  # fmt: skip
    x, weight, styles = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 3, 3), torch.randn(2, 3)
    gain, padding = torch.rand(2, 3), [2, 1]
    with compat.install():
        modulated_conv2d = importlib.import_module("training.networks_stylegan3").modulated_conv2d
        y = modulated_conv2d(x, weight, styles, padding=padding, input_gain=gain)
        plain = modulated_conv2d(x, w=weight, s=styles, demodulate=False, input_gain=gain[0, 0])
    w = (weight / weight.square().mean((1, 2, 3), keepdim=True).sqrt())[None]
    w = w * (styles / styles.square().mean().sqrt())[:, None, :, None, None]
    w = w / (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt() * gain[:, None, :, None, None]
    want = F.conv2d(x.view(1, 6, 4, 4), w.view(10, 3, 3, 3), padding=padding, groups=2).view(2, 5, 6, 4)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)
    want = torch.stack([F.conv2d(a * s[:, None, None], weight) for a, s in zip(x, styles, strict=True)]) * gain[0, 0]
    torch.testing.assert_close(plain, want, rtol=1e-4, atol=1e-5)


PERSISTENCE = """
    import types
    _src_to_module_dict = {}

    def _src_to_module(src):
        module = _src_to_module_dict.get(src)
        if module is None:
            module = _src_to_module_dict[src] = types.ModuleType(f"_imported_module_{len(_src_to_module_dict)}")
            exec(src, vars(module))
        return module
"""


@pytest.mark.parametrize("imported", (False, True))
def test_networks_that_a_pickle_carries_as_text(write, imported):
    folder = write({**NVLABS, "torch_utils/persistence.py": PERSISTENCE})
    (folder / "torch_utils" / "ops" / "bias_act.py").write_text("def bias_act(): pass")
    texts = [textwrap.dedent(networks(s)) for s in (MODULATED, "x, w, styles")]
    if imported:
        before = importlib.import_module("torch_utils.persistence")._src_to_module(texts[0])
        assert before.modulated_conv2d(0, 0, 0) == "theirs"
    with compat.install():
        persistence = importlib.import_module("torch_utils.persistence")
        carried, other = map(persistence._src_to_module, texts)
        assert persistence._src_to_module(texts[0]) is carried and (not imported or carried is before)
        assert carried.modulated_conv2d(torch.ones(1, 2, 3, 3), torch.ones(4, 2, 1, 1), torch.ones(1, 2)).shape[1] == 4
        assert other.modulated_conv2d(0, 0, 0) == "theirs"
        told = compat.explain_install()
        assert "text that torch_utils.persistence was given" in told and "which has another signature" in told
        assert persistence._src_to_module("x = 1").x == 1
    assert carried.modulated_conv2d(0, 0, 0) == "theirs"
    assert importlib.import_module("torch_utils.persistence")._src_to_module.__module__ == "torch_utils.persistence"


def test_installing_twice_nests(write):
    write(op_package("twice/op"))
    with compat.install():
        module = importlib.import_module("twice.op.fused_act")
        ours = module.fused_leaky_relu
        with compat.install("twice.op", bias_axis=-1):
            assert importlib.import_module("twice.op.fused_act").fused_leaky_relu is ours
        assert module.fused_leaky_relu is ours and "replaced: fused_leaky_relu" in compat.explain_install()
    assert "twice.op.fused_act" not in sys.modules and compat.explain_install().endswith("not installed")
