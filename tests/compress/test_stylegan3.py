"""StyleGAN3 through the code paths of StyleGAN2: images, scores, plans, pruning, compression, export."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import cagc
from cagc.checkpoints import load_generator, save_generator
from cagc.export import export_onnx
from cagc.metrics.macs import count_macs, total_macs, total_parameters
from cagc.metrics.sampling import draw
from cagc.models import StyleGAN3Config, StyleGAN3Generator, build_generator, new_discriminator
from cagc.pruning.scores import METRICS
from cagc_kernels import native

from . import stylegan3_networks as networks
from .commands import run

SIZES = {"channel_base": 256, "channel_max": 12, "num_layers": 6, "style_dim": 16}


def small(resolution: int = 32, **options) -> StyleGAN3Generator:
    """Weights of no layer are zero, and no magnitude is one."""
    torch.manual_seed(0)
    generator = StyleGAN3Generator(StyleGAN3Config.uniform(resolution, **{**SIZES, **options}))
    for name, tensor in (*generator.named_parameters(), *generator.named_buffers()):
        if name.endswith(("bias", "input.affine.weight")):
            tensor.data += torch.randn_like(tensor) / 4
        elif name.endswith("magnitude_ema"):
            tensor.uniform_(0.5, 2)
    return generator.eval().requires_grad_(False)


@pytest.mark.parametrize("case", networks.CASES)
def test_images_of_nvlabs_code(case):
    golden, (z, c, turn) = np.load(networks.GOLDEN), networks.inputs(case)
    generator = networks.generator(case)
    for name, image in (("image", generator(z, c, 0.7, 3)), ("turned", generator(z, c, transform=turn))):
        expected = torch.from_numpy(golden[f"{case} {name}"])
        torch.testing.assert_close(image[:, :, ::2, ::2], expected, rtol=1e-4, atol=1e-4)


def test_published_sizes():
    """28.5 M parameters at 256 px, 22.3 M at 1024 px; 15.8 M of configuration R there."""
    sizes = [StyleGAN3Config.uniform(256), StyleGAN3Config.uniform(1024), StyleGAN3Config.rotation(1024)]
    assert [round(total_parameters(config) / 1e6, 1) for config in sizes] == [28.5, 22.3, 15.1]
    assert list(sizes[0].channels.values()) == [512] * 10 + [362, 256, 181, 128, 128]
    assert [plan.out_size[0] for plan in sizes[0].plans()] == [
        36, 36, 36, 52, 52, 84, 84, 148, 148, 148, 276, 276, 276, 256, 256,
    ]  # fmt: skip


def test_costs_are_those_of_the_layers():
    generator = small(c_dim=3)
    assert total_parameters(generator) == sum(p.numel() for p in generator.parameters())
    names = [*generator.config.channels, "to_rgb"]
    assert list(count_macs(generator)) == ["mapping", *(f"{n}{part}" for n in names for part in ("", ".affine"))]


def test_features_are_the_layers_outputs():
    """Where they are looked at, no layer's gain is folded into the filter before it."""
    generator, features = small(), {}
    ws = generator.ws(torch.randn(2, 16))
    (image,) = generator.synthesis(ws, return_rgbs=True, features=features)
    torch.testing.assert_close(image, generator.synthesis(ws, "random"))
    assert {name: f.shape[1] for name, f in features.items()} == generator.config.channels
    sizes = {spec.name: spec.size for spec in generator.config.layers()}
    assert all(tuple(f.shape[2:]) == sizes[name] for name, f in features.items())


def test_half_as_wide_as_high():
    generator = small(square=False)
    image = generator(torch.randn(2, 16))
    assert image.shape == (2, 3, 32, 16) and generator.config.img_size == (32, 16)
    # The same features on half of the columns.
    whole = small()
    x, half = (g.synthesis.input(g.ws(torch.ones(1, 16))[:, 0]) for g in (whole, generator))
    torch.testing.assert_close(x[..., x.shape[3] // 4 : -(x.shape[3] // 4)], half)


def test_moved_image():
    generator = small()
    ws, shift = generator.ws(torch.randn(2, 16)), torch.eye(3)
    assert torch.equal(generator.synthesis(ws, transform=shift), generator.synthesis(ws))
    shift[0, 2] = 0.25
    moved = generator.synthesis(ws, transform=torch.stack([torch.eye(3), shift]))
    torch.testing.assert_close(moved[0], generator.synthesis(ws)[0])
    features: dict[str, torch.Tensor] = {}
    generator.synthesis(ws, features=features)
    still = features["input"]
    generator.synthesis(ws, transform=shift, features=features)
    rate = generator.config.rates()[0]  # a quarter of the image in pixels of the input
    torch.testing.assert_close(features["input"][..., rate // 4 :], still[..., : -(rate // 4)], rtol=1e-3, atol=1e-4)
    generator.synthesis.input.transform.copy_(torch.linalg.inv(shift))  # as NVlabs' scripts set it
    torch.testing.assert_close(generator.synthesis(ws), generator.synthesis(ws, transform=shift))


@pytest.mark.parametrize(
    "transform, message",
    [
        (torch.zeros(3, 3), "expected finite numbers and a last row of 0, 0, 1"),
        (torch.diag(torch.tensor([1.0, 0.0, 1.0])), "which is not invertible"),
        (torch.tensor([[1.0, 2, 0], [2, 4, 0], [0, 0, 1]]), "which is not invertible"),
        (torch.full((3, 3), float("nan")), "expected finite numbers"),
        (torch.eye(2), r"got \[2, 2\], expected a tensor \[3, 3\] or \[N, 3, 3\]"),
        ("turned", "got str, expected a tensor"),
    ],
)
def test_a_transform_that_cannot_be(transform, message):
    generator = small()
    with pytest.raises(ValueError, match=f"transform: .*{message}"):
        generator(torch.zeros(1, 16), transform=transform)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"resolution": 8}, "resolution: got 8, expected a power of two from 16 to 4096"),
        ({"num_layers": 1}, "num_layers: got 1, expected an integer from 2 to 64"),
        ({"num_critical": 6}, "num_critical: got 6, expected an integer from 1 to 5"),
        ({"output_scale": 0}, "output_scale: got 0, expected a finite number above 0"),
        ({"first_stopband": 1.0}, "first_cutoff, first_stopband, last_stopband_rel: got a stopband below its cutoff"),
        ({"last_stopband_rel": 1e300}, "last_stopband_rel: got 1e\\+300, expected a number from 1 to 4"),
        ({"first_cutoff": float("nan")}, "first_cutoff: got nan, expected a number from 1 to 16"),
        ({"square": 1}, "square: got 1, expected true or false"),
        ({"frequencies": 0}, "frequencies: got 0, expected at least 1"),
    ],
)
def test_bad_configuration(options, message):
    with pytest.raises(ValueError, match=message):
        StyleGAN3Config.uniform(**{"resolution": 32, **SIZES, **options})


def test_magnitudes_are_tracked_where_asked_for():
    generator = small()
    ws, before = generator.ws(torch.randn(2, 16)), generator.synthesis.L1.magnitude_ema.clone()
    features: dict[str, torch.Tensor] = {}
    generator.synthesis(ws, features=features, update_emas=True)
    moved = torch.lerp(features["L0"].square().mean(), before, 0.999)
    torch.testing.assert_close(generator.synthesis.L1.magnitude_ema, moved)


@pytest.mark.parametrize("metric", METRICS)
def test_every_score_applies(metric):
    generator = small()
    scores = cagc.score_channels(generator, metric, "everything", samples=2)
    assert {name: len(s) for name, s in scores.scores.items()} == generator.config.channels
    assert all(torch.isfinite(s).all() for s in scores.scores.values())


@pytest.mark.parametrize("options", [{}, {"conv_kernel": 1, "use_radial_filters": True}], ids=("T", "R"))
def test_pruned_generator_is_the_full_one_without_the_removed_channels(options, tmp_path):
    generator = small(**options).double()
    plan = cagc.plan_channels(generator, cagc.score_channels(generator, "random", samples=2), keep=0.6, round_to=1)
    student = cagc.prune(generator, plan)
    assert student.config.channels == plan.channels() and student.config.frequencies == generator.config.frequencies
    assert total_macs(student) < 0.6 * total_macs(generator)
    state = generator.state_dict()
    for group in generator.channel_groups():
        removed = sorted(set(range(group.width)) - set(plan.kept[group.name]))
        for consumer in group.consumers:
            state[f"{consumer}.weight"][:, removed] = 0
    generator.load_state_dict(state)
    z = torch.randn(3, 16, dtype=torch.float64)
    torch.testing.assert_close(student(z), generator(z), rtol=1e-5, atol=1e-6)
    save_generator(student.float(), tmp_path / "student.safetensors")
    back = load_generator(tmp_path / "student.safetensors")
    assert back.config == student.config
    torch.testing.assert_close(back(z.float()), student(z.float()))
    assert build_generator(student.config.to_dict()).config == student.config


def test_compiled_and_seeded():
    generator = small(c_dim=2)
    compiled = cagc.runtime.compile(generator)
    z, c = torch.randn(2, 16), torch.eye(2)
    expected = generator(z, c, 0.7, 3)
    torch.testing.assert_close(compiled(z, c, 0.7, 3), expected, rtol=1e-4, atol=1e-5)
    rows = compiled.explain()
    assert [row["layer"] for row in rows] == list(generator.config.channels)[1:]
    if native.REASON is None:
        assert all("winograd43 of planes" in row["kernel"] for row in rows)
        profile = compiled.profile(z, repeats=1, c=c)
        macs = sum(spec.macs for spec in generator.config.layers() if spec.kind in ("conv", "to_rgb"))
        assert sum(row["macs"] for row in profile[2:]) == 2 * macs
    with pytest.raises(TypeError, match="transform"):
        compiled.synthesis(generator.mapping(z, c), transform=torch.eye(3))
    other = cagc.runtime.compile(small(conv_kernel=5))
    assert "5x5" in other.reason or native.REASON
    assert len(other.explain()) == 6 and other(z).shape == expected.shape
    generator = small()
    torch.testing.assert_close(draw(generator, [5]), draw(generator, range(4, 7))[1:2])


def test_compress(tmp_path, small_images):
    """End to end on random weights: T at 64 px."""
    teacher = small(64, channel_base=1024, channel_max=32, num_layers=3, margin_size=2)
    save_generator(teacher, tmp_path / "teacher.safetensors")
    judge = new_discriminator(teacher.config)
    assert judge(teacher(torch.randn(2, 16))).shape == (2, 1)
    run(
        "compress", "--teacher", tmp_path / "teacher.safetensors", "--data", small_images, "--content", "everything",
        "--out", tmp_path / "out", "--samples", 2, "--steps", 2, "--distillation.batch-size", 2, "--macs", "1/3",
        "--evaluation-samples", 8, "--features", "efficientnet-lite0@32",
    )  # fmt: skip
    student = load_generator(tmp_path / "out" / "student.safetensors")
    assert student.config.architecture == "stylegan3"
    assert total_macs(student) <= total_macs(teacher) / 3
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["generators"]
    assert metrics["Student"]["macs"] == total_macs(student)
    pruned = load_generator(tmp_path / "out" / "pruned.safetensors")
    assert not torch.equal(student.synthesis.L0.weight, pruned.synthesis.L0.weight)


MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_onnx_draws_the_same_images(tmp_path):
    """A student with both kinds of filters."""
    import onnx
    import onnxruntime

    teacher, z = small(num_layers=3, use_radial_filters=True, num_critical=1), torch.randn(2, 16)
    scores = cagc.score_channels(teacher, "random", samples=1)
    generator = cagc.prune(teacher, cagc.plan_channels(teacher, scores, keep=0.5, round_to=1))
    export_onnx(generator, tmp_path / "g.onnx", batch=2)
    graph = onnx.load(tmp_path / "g.onnx").graph
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"), providers=["CPUExecutionProvider"])
    (image,) = session.run(["image"], {"z": z.numpy()})
    torch.testing.assert_close(torch.from_numpy(image), generator(z), rtol=1e-4, atol=1e-4)
