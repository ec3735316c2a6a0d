"""StyleGAN2 of every block architecture, number of channels and shape of its constant: images, pruning, training."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import cagc
from cagc import runtime
from cagc.checkpoints import Checkpoint, generator_hash, load_checkpoint, save_checkpoint
from cagc.common.errors import CagcError
from cagc.data.dataset import ImageDataset, read_image
from cagc.distill.augment import Augment, _resample
from cagc.metrics.macs import total_macs, total_parameters
from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, build_generator
from cagc.models import new_discriminator as new

from . import nvlabs_networks as networks
from .commands import run

TINY = {"style_dim": 8, "mapping_layers": 1}
SHAPES = [
    {"block_architecture": "resnet"},
    {"block_architecture": "orig", "const_size": (4, 2)},
    {"block_architecture": "resnet", "const_size": (2, 4), "img_channels": 1, "activation": "relu"},
    {"const_size": (4, 2), "img_channels": 96, "z_dim": 5},
]


def make(resolution: int = 16, **options) -> Generator:
    torch.manual_seed(0)
    g = Generator(GeneratorConfig.uniform(resolution, 128, 10, **(TINY | options))).double().requires_grad_(False)
    for name, parameter in g.named_parameters():
        if name.endswith(("bias", "noise_strength")):
            parameter.normal_()
    return g


@pytest.mark.parametrize("case", networks.CASES)
def test_golden_images_and_logits_of_nvlabs_code(case):
    golden = np.load(networks.GOLDEN)
    g, d = networks.generator(case), networks.discriminator(case)
    z, c, images = networks.inputs(case, d.config.img_channels)
    drawn = g(z, c if g.c_dim else None, 0.7, 3, noise_mode="const").numpy()
    np.testing.assert_allclose(networks.kept(drawn), golden[f"{case} image"], rtol=1e-4, atol=1e-4)
    logits = d(images, c if d.config.c_dim else None).numpy()
    np.testing.assert_allclose(logits, golden[f"{case} logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", SHAPES, ids=lambda options: "-".join(map(str, options.values())))
def test_sizes_are_those_of_the_layer_list(options):
    g = make(**options)
    z, features = torch.randn(2, g.z_dim).double(), {}
    image = g.synthesis(g.mapping(z), noise_mode="none", features=features)
    height, width = (4 * side for side in options.get("const_size", (4, 4)))
    assert image.shape == (2, options.get("img_channels", 3), height, width) and g.img_size == (height, width)
    assert g.img_resolution == max(height, width)
    specs = {spec.name: spec for spec in g.config.layers()}
    for name, x in features.items():
        assert tuple(x.shape[1:]) == (specs[name].out_width, *specs[name].size)
    assert [tuple(n.shape[2:]) for n in g.make_noise()] == g.synthesis.noise_shapes()
    assert total_parameters(g) == sum(p.numel() for p in g.parameters())
    convs = sum(math.prod(spec.weight_shape) * spec.positions for spec in specs.values() if spec.kind == "conv")
    affine = sum(spec.w_dim * spec.in_width for spec in specs.values() if spec.w is not None)
    rgb = sum(spec.in_width * spec.out_width * math.prod(spec.size) for spec in specs.values() if spec.kind == "to_rgb")
    assert total_macs(g) == convs + affine + rgb + g.z_dim * 8
    assert build_generator(json.loads(json.dumps(g.config.to_dict()))).config == g.config


@pytest.mark.parametrize("options", SHAPES, ids=lambda options: "-".join(map(str, options.values())))
def test_scores_pruning_and_views(options):
    """A channel that nothing reads may be removed without changing the image."""
    g = make(**options)
    scores = cagc.score_channels(g, "content-aware", "everything", samples=2)
    plan = cagc.plan_channels(g, scores, keep=0.5, round_to=1)
    assert all(score.std() > 0 for score in scores.scores.values())
    silent, state = make(**options), g.state_dict()
    for group in g.channel_groups():
        gone = sorted(set(range(group.width)) - set(plan.kept[group.name]))
        for axis in group.axes:
            if axis.dim == 1:
                state[axis.tensor][:, gone] = 0
    silent.load_state_dict(state)
    z = torch.randn(2, g.z_dim).double()
    plan = cagc.ChannelPlan.of(silent, plan.kept, plan.rule, scores, generator_hash(silent))
    student, view = cagc.prune(silent, plan), cagc.at(silent, plan)
    expected = silent(z, noise_mode="const")
    torch.testing.assert_close(student(z, noise_mode="const"), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(view(z, noise_mode="const"), student(z, noise_mode="const"))
    assert total_parameters(student) == sum(p.numel() for p in student.parameters())


def test_a_shortcut_keeps_its_scale():
    """Pruning a block's input alone: what the shortcut adds stays the same."""
    g = make(8, block_architecture="resnet", style_dim=8)
    kept = {name: list(range(width)) for name, width in g.config.channels.items()}
    kept["b4.conv1"] = kept["b4.conv1"][:5]
    state = g.state_dict()
    state["synthesis.b8.skip.weight"][:, 5:] = 0
    g.load_state_dict(state)
    x = torch.randn(1, 10, 4, 4).double()
    plan = cagc.ChannelPlan.of(g, kept, {}, cagc.score_channels(g, "random"), generator_hash(g))
    for rescale, factor in (("keep", 1), ("none", math.sqrt(2))):
        student = cagc.prune(g, plan, rescale)
        torch.testing.assert_close(student.synthesis.b8.skip(x[:, :5]), factor * g.synthesis.b8.skip(x))


@pytest.mark.parametrize(
    "options,reason",
    [
        ({"block_architecture": "resnet"}, "runs the skip architecture, not resnet"),
        ({"const_size": (4, 2)}, "draws square images from 4 × 4, not 16 × 8"),
        ({"img_channels": 1}, "draws images of 3 channels, not 1"),
        ({"activation": "relu"}, "has leaky ReLU, not relu"),
    ],
)
def test_the_program_says_why_not(options, reason):
    g = make(**options).float()
    compiled = runtime.compile(g, weights="float32")
    assert reason in compiled.reason and reason in compiled.explain()[0]["why"]
    z = torch.randn(2, 8)
    torch.testing.assert_close(compiled(z), g(z, noise_mode="const"), rtol=0, atol=5e-5)
    assert g.frozen_weights() is None


def test_compress(tmp_path, small_images):
    g = make(block_architecture="resnet", const_size=(2, 4), img_channels=1, activation="relu").float()
    teacher = tmp_path / "teacher.safetensors"
    save_checkpoint(teacher, Checkpoint(g_ema=g, d=new(g.config)))
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted(small_images.glob("*.png"))[:8]:
        image = Image.open(path).resize(g.img_size[::-1])
        (image.convert("L") if g.img_channels == 1 else image).save(images / path.name)
    run(
        "compress", "--teacher", teacher, "--data", images, "--content", "everything", "--samples", 2, "--keep", 0.5,
        "--steps", 1, "--evaluation-samples", 8, "--features", "efficientnet-lite0@32", "--distillation.batch-size", 4,
        "--distillation.target-pool", 4, "--distillation.gan-delay", 0, "--distillation.augment", "ada", "--out",
        tmp_path / "out",
    )  # fmt: skip
    assert load_checkpoint(tmp_path / "out" / "student.safetensors").g_ema.img_size == g.img_size
    picture = tmp_path / "out" / "grids" / "comparison.png"
    assert not picture.exists() or Image.open(picture).size[0] > 0


def test_images_of_other_forms(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 4), np.uint8)
    for name, mode in (("grey", "L"), ("colour", "RGB"), ("alpha", "RGBA")):
        Image.fromarray(pixels).convert(mode).save(tmp_path / f"{name}.png")
    grey, done = read_image(tmp_path / "grey.png", (16, 8), channels=1)
    assert grey.shape == (1, 16, 8) and done == ""
    alpha, done = read_image(tmp_path / "alpha.png", (16, 8), channels=4)
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(alpha, expected)
    with pytest.raises(CagcError, match=r"8 x 16 px, RGB; expected a 2:4 \(height to width\) grey image"):
        read_image(tmp_path / "colour.png", (2, 4), channels=1)
    turned, done = read_image(tmp_path / "colour.png", (2, 4), convert=True, channels=1)
    assert turned.shape == (1, 2, 4) and done == "8 x 16 px, RGB turned into grey, centre-cropped, resized to 2 x 4 px"
    with pytest.raises(CagcError, match="expected a square RGB image"):
        ImageDataset(tmp_path, 8)
    with pytest.raises(ValueError, match="channels: got 96, expected 1, 3, 4"):
        ImageDataset(tmp_path, 8, channels=96)


def test_augmentation_of_rectangles_and_grey_images():
    """A turn by 90° about the centre moves a square inside a rectangle as it moves it inside a square."""
    square = torch.randn(1, 3, 8, 8)
    wide = torch.zeros(1, 3, 8, 16)
    wide[..., 4:12] = square
    turn = torch.tensor([[[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]])
    inner = _resample(wide, turn)[..., 6:10]
    torch.testing.assert_close(inner[..., 2:6, :], _resample(square, turn)[..., 2:6, 2:6], rtol=0.05, atol=0.05)
    augment = Augment(0.6)
    augment.p = 0.9
    for shape in ((4, 1, 16, 8), (4, 4, 8, 16), (4, 96, 8, 8)):
        images = torch.rand(shape) * 2 - 1
        numbers = torch.rand(4, 64)
        assert augment(images, numbers).shape == shape


@pytest.mark.parametrize(
    "call,message",
    [
        (
            lambda: GeneratorConfig.uniform(8, block_architecture="dense"),
            "block_architecture: got 'dense', expected one",
        ),
        (lambda: GeneratorConfig.uniform(8, const_size=(4, 0)), r"const_size: got \(4, 0\), expected numbers from 1"),
        (lambda: GeneratorConfig.uniform(8, const_size=4), "const_size: got 4, expected a height and a width"),
        (lambda: GeneratorConfig.uniform(8, activation="gelu"), "activation: got 'gelu', expected one of linear"),
        (lambda: GeneratorConfig.uniform(8, img_channels=0), "img_channels: got 0"),
        (lambda: DiscriminatorConfig.uniform(8, mbstd_channels=5), "mbstd_channels: got 5, expected a divisor of 512"),
        (
            lambda: Discriminator(DiscriminatorConfig.uniform(8, 64, const_size=(4, 2)))(torch.zeros(1, 3, 8, 8)),
            r"images: got shape \[1, 3, 8, 8\], expected \[N, 3, 8, 4\]",
        ),
    ],
)
def test_bad_options(call, message):
    with pytest.raises((ValueError, CagcError), match=message):
        call()


def test_older_configurations_are_unchanged():
    assert set(GeneratorConfig.uniform(8).to_dict()) == {
        "resolution", "channels", "style_dim", "mapping_layers", "lr_multiplier", "resample_filter",
    }  # fmt: skip
    assert set(DiscriminatorConfig.uniform(8).to_dict()) == {
        "resolution", "channels", "mbstd_group_size", "resample_filter",
    }  # fmt: skip
