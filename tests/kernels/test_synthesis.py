"""The compiled synthesis program against the generator in float64, on every instruction set that runs here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cagc.models import Generator, GeneratorConfig
from cagc.models.stylegan2_config import layer_names
from cagc.runtime.program import program
from cagc_kernels import native
from cagc_kernels.native import synthesis
from cagc_kernels.native.synthesis import Program
from cagc_kernels.synthesis import STORAGE, Storage

pytestmark = pytest.mark.skipif(native.REASON is not None, reason=str(native.REASON))

INSTRUCTIONS = [] if native.REASON else synthesis.instruction_sets()
WIDTHS = (37, 3, 77, 1, 154, 39, 8, 20)
FORCED = ("transformed", "plain")


def make(resolution: int, shift: int = 0, seed: int = 0, **options) -> Generator:
    """Random weights, biases and noise strengths; odd widths that differ from layer to layer."""
    torch.manual_seed(seed)
    names = layer_names(resolution)
    channels = {name: WIDTHS[(i + shift) % len(WIDTHS)] for i, name in enumerate(names)}
    options = {"style_dim": 20, "mapping_layers": 2} | options
    generator = Generator(GeneratorConfig(resolution, channels, **options)).requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith(("bias", "noise_strength")):
            parameter += 0.3 * torch.randn_like(parameter)
    return generator


def run(compiled: synthesis.Program, generator: Generator, z, noise) -> torch.Tensor:
    ws = compiled.map(z)[:, None].expand(-1, generator.config.num_ws, -1)
    return compiled.images(ws, noise)


def expect_equal(generator: Generator, compiled: synthesis.Program, batch: int, noise=None) -> None:
    z = torch.randn(batch, generator.config.style_dim)
    noise = generator.make_noise(batch, seed=1) if noise is None else noise
    images = run(compiled, generator, z, noise)
    expected = generator.double()(z.double(), noise=[n.double() for n in noise])
    generator.float()
    assert images.dtype == torch.float32 and images.shape == expected.shape
    if batch:
        torch.testing.assert_close(images.double(), expected, rtol=0, atol=2e-5 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("algorithms", ["cheaper", *FORCED])
@pytest.mark.parametrize("shift", [0, 3, 6])
def test_odd_widths(instructions, algorithms, shift):
    generator = make(16, shift, seed=shift)
    expect_equal(generator, Program(generator.frozen_weights(), 3, instructions, algorithms), batch=3)


def stored(weight: torch.Tensor, storage: str) -> torch.Tensor:
    """``weight`` [O, I] as it is after it was stored: int8 has one scale per row."""
    if storage != "int8":
        return weight.to(getattr(torch, storage)).to(weight.dtype)
    scale = (weight.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-30)
    return (weight / scale).round() * scale


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("storage", STORAGE)
def test_stored_weights(instructions, storage):
    """Images are those of the generator whose weights have been rounded, for one row and for several."""
    generator = make(16, style_dim=21)
    compiled = program(generator, 1, instructions)
    generator.mapping.fc1.weight[3] = 0  # a row without a scale
    compiled.store(generator.frozen_weights(), Storage(storage, storage))
    before = [compiled.dense_bytes, compiled.styles_cost(1)[1], compiled.mapping_cost(1)[1]]
    for name, parameter in generator.named_parameters():
        if name.startswith("mapping.fc") and name.endswith("weight") or name.endswith("affine.weight"):
            owner = generator.get_submodule(name.removesuffix(".weight"))
            gain = owner.weight_gain * (2**0.5 if name.startswith("mapping") else 1)
            parameter.copy_(stored(parameter * gain, storage) / gain)
    for batch in (1, 7):
        expect_equal(generator, compiled, batch)
    compiled.store(generator.frozen_weights(), Storage())
    after = [compiled.dense_bytes, compiled.styles_cost(1)[1], compiled.mapping_cost(1)[1]]
    assert (before < after) == (storage != "float32")


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_float16_keeps_weights_that_are_float16_but_for_their_gain(instructions):
    generator = make(16, style_dim=21)
    for name, parameter in generator.named_parameters():
        if name.startswith("mapping.fc") or "affine" in name:
            parameter.mul_(torch.rand_like(parameter) < 0.7)  # zeros are numbers of any scale
            parameter.copy_((0.3 * parameter if "fc1" in name else parameter / 40).half())
    compiled = program(generator, 1, instructions)
    z = torch.randn(3, 21)
    expected = compiled.map(z).clone()
    compiled.store(generator.frozen_weights(), Storage("float16", "float16"))
    assert torch.allclose(compiled.map(z), expected, rtol=1e-5, atol=1e-6)
    expect_equal(generator, compiled, 3)
    generator.mapping.fc1.weight.mul_(1 + 1e-4 * torch.rand_like(generator.mapping.fc1.weight))
    close = program(generator, 1, instructions).map(z)
    compiled.store(generator.frozen_weights(), Storage("float16", "float16"))
    assert 1e-6 < ((compiled.map(z) - close).abs().max() / close.abs().max()) < 1e-3


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_batches_other_than_the_compiled_one(batch):
    generator = make(8)
    expect_equal(generator, program(generator, 2), batch)


@pytest.mark.parametrize("resolution", [4, 8, 32, 64])
def test_resolutions(resolution):
    generator = make(resolution, shift=1)
    expect_equal(generator, program(generator), batch=2)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator = make(32, shift=2)
        compiled = program(generator)
        expect_equal(generator, compiled, batch=1)
        assert compiled._compiled[0] == (1, threads)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("forced", FORCED)
def test_rows_of_the_transposed_convolution_reuse_their_memory(forced):
    """The layers are so wide that the ring buffer does not hold all rows of a sample."""
    torch.manual_seed(0)
    channels = dict.fromkeys(layer_names(64), 8) | {"b64.conv0": 154}
    generator = Generator(GeneratorConfig(64, channels, style_dim=8, mapping_layers=1)).requires_grad_(False)
    expect_equal(generator, Program(generator.frozen_weights(), algorithms=forced), batch=5)


def in_strips(resolution: int, shift: int = 0, **options) -> tuple[Generator, dict[str, int]]:
    """A generator whose layers from 64 px on are in strips, and the lanes of each instruction set."""
    generator = make(resolution, shift, seed=shift, **options)
    return generator, {name: native._C.lanes(name) for name in INSTRUCTIONS}


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("shift", [0, 3, 5])
def test_odd_widths_in_strips(instructions, shift):
    generator, lanes = in_strips(128, shift, resample_filter=(1, 2, 4, 3))
    compiled = program(generator, 1, instructions)
    assert compiled.strips[-3:] == [lanes[instructions]] * 3 and compiled.strips[:5] == [1] * 5
    assert compiled.widths[-1] == tuple(generator.config.channels[name] for name in ("b128.conv0", "b128.conv1"))
    expect_equal(generator, compiled, batch=1)


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_parts_of_the_image_in_strips(threads, batch):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator, _ = in_strips(128, shift=1, conv_clamp=0.7)
        expect_equal(generator, program(generator, batch), batch)
    finally:
        torch.set_num_threads(before)


def test_strips_give_the_images_of_channels():
    generator, _ = in_strips(128, shift=2)
    z, noise = torch.randn(2, 20), [None] * len(generator.synthesis.noise_shapes())
    images = run(program(generator), generator, z, noise)
    other = Program(generator.frozen_weights(), strips=False)
    assert set(other.strips) == {1}
    torch.testing.assert_close(images, run(other, generator, z, noise), rtol=0, atol=2e-5 * images.abs().max().item())


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_strips_begin_where_they_are_faster(instructions):
    def strips(keep: float) -> list[int]:
        full = GeneratorConfig.uniform(256).channels
        channels = {name: round(keep * width) for name, width in full.items()}
        generator = Generator(GeneratorConfig(256, channels, style_dim=8, mapping_layers=1))
        return program(generator, 1, instructions).strips

    lanes = native._C.lanes(instructions)
    assert strips(0.3) == [1] * 8 + [lanes] * 5  # from b64.conv1 on
    assert strips(0.2) == ([1] * 8 + [16] * 5 if lanes == 16 else [1] * 6 + [lanes] * 7)  # four columns a strip
    assert strips(1) == [1] * 13  # one layer is not worth the change


def test_explain_and_costs_of_strips():
    generator, lanes = in_strips(128)
    compiled = program(generator)
    wide = lanes[compiled.instructions]
    assert compiled.layouts[-1] == f"NHCW in {wide} strips" and compiled.layouts[0] == "NHWC"
    inputs, out = compiled.widths[-2]
    multiplications, moved = compiled.conv_cost(len(compiled.widths) - 2, 1)
    assert multiplications == 81 * 16 * 17 * inputs * out
    assert moved == 4 * (36 * inputs * out + 64 * 64 * inputs)  # what follows takes its output from the cache
    # 14 transforms per tile and channel before the products, 17 after them; then the filter and the epilogue.
    assert compiled.elementwise_cost(len(compiled.widths) - 2, 1) == (
        16 * 17 * (14 * 9 * inputs + 17 * 8 * out) + 128**2 * out * (8 + 7)
    )
    inputs, out = compiled.widths[0]
    assert compiled.elementwise_cost(0, 2) == 2 * 4**2 * (out * (7 + 3) + 21)


def test_asymmetric_filter_clamp_and_no_mapping():
    generator = make(16, resample_filter=(1, 2, 4, 3), conv_clamp=0.7, mapping_layers=0)
    expect_equal(generator, Program(generator.frozen_weights(mapping=False)), batch=2)


def test_noise_shared_by_the_batch():
    generator = make(8)
    expect_equal(generator, program(generator), batch=3, noise=generator.make_noise(1, seed=2))


def test_a_w_per_layer():
    generator = make(16)
    ws = torch.randn(2, generator.config.num_ws, generator.config.style_dim)
    for strided in (ws, torch.stack([ws, ws], dim=-1)[..., 0]):
        images = program(generator).images(strided, [None] * len(generator.synthesis.noise_shapes()))
        torch.testing.assert_close(images, generator.synthesis(ws, noise="none"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("forced, resolution", [("transformed", 16), ("plain", 16), ("transformed", 128)])
def test_workspace_is_kept_to_and_written_before_it_is_read(instructions, forced, resolution):
    generator = make(resolution)
    compiled = Program(generator.frozen_weights(), 3, instructions, forced)
    key = 3, torch.get_num_threads()
    compiled._run(3)
    size, guard = compiled._compiled[2].numel(), 4096
    memory = torch.full([size + 2 * guard], torch.nan)
    compiled._compiled = key, compiled._compiled[1], memory[guard:-guard]
    expect_equal(generator, compiled, batch=3)
    assert memory[:guard].isnan().all() and memory[-guard:].isnan().all()


def test_unknown_instructions_are_refused():
    with pytest.raises(ValueError, match="instructions.*sse9.*generic"):
        program(make(4), instructions="sse9")


def test_null_pointers_are_refused():
    weights = make(4).frozen_weights()
    empty = torch.empty(0, dtype=torch.float64)  # whose address is null
    conv = replace(weights.convs[0], bias=empty)
    for broken in (replace(weights, constant=empty), replace(weights, convs=[conv])):
        with pytest.raises(ValueError, match="null"):
            Program(broken)


@pytest.mark.parametrize(
    "index, changes, message",
    [
        (1, {"up": 1}, "up: expected"),
        (2, {"resolution": 24}, "resolution: expected"),
        (1, {"to_rgb": "first"}, "toRGB: expected"),
        (2, {"weight": torch.zeros(8, 4, 3, 3)}, "channels: expected the output"),
    ],
)
def test_networks_of_other_shapes_are_refused(index, changes, message):
    weights = make(16).frozen_weights()
    changes = {name: weights.convs[0].to_rgb if value == "first" else value for name, value in changes.items()}
    convs = [replace(c, **changes) if i == index else c for i, c in enumerate(weights.convs)]
    with pytest.raises(ValueError, match=message):
        Program(replace(weights, convs=convs))
    with pytest.raises(ValueError, match="odd number"):
        Program(replace(weights, convs=weights.convs[:2]))
