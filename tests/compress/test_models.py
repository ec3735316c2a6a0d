from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cagc import runtime
from cagc.metrics.macs import count_macs, count_parameters, total_macs
from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, SNGANConfig, SNGANGenerator
from cagc.models.stylegan2_config import layer_names


def small(resolution: int = 16, **options) -> Generator:
    widths = {name: 5 + i for i, name in enumerate(layer_names(resolution))}
    return Generator(GeneratorConfig(resolution, widths, style_dim=12, mapping_layers=2, **options))


@pytest.mark.parametrize("resolution", [4, 8, 16, 32, 64, 128, 256, 512, 1024])
def test_every_resolution_draws_images_of_its_size(resolution):
    g = Generator(GeneratorConfig.uniform(resolution, channel_base=2 * resolution, channel_max=4, style_dim=8))
    d = Discriminator(DiscriminatorConfig.uniform(resolution, channel_base=2 * resolution, channel_max=4))
    with torch.inference_mode():
        images = g(torch.randn(1, 8))
        assert images.shape == (1, 3, resolution, resolution)
        assert d(images).shape == (1, 1)


def test_noise_modes():
    g = small()
    for layer in (m for m in g.modules() if hasattr(m, "noise_strength")):
        layer.noise_strength.data.fill_(0.5)
    z = torch.randn(2, 12)
    assert not torch.equal(g(z, noise="random"), g(z, noise="random"))
    assert torch.equal(g(z, noise="const"), g(z, noise="const"))
    shared = g.make_noise(seed=3)
    assert torch.equal(g(z, noise=shared), g(z, noise=g.make_noise(seed=3)))
    assert torch.equal(g(z, noise="none"), g(z, noise=[torch.zeros_like(n) for n in shared]))
    per_sample = g.make_noise(batch=2, seed=4)
    torch.testing.assert_close(g(z, noise=per_sample)[1:], g(z[1:], noise=[n[1:] for n in per_sample]))


def test_mixing_takes_the_second_latent_from_its_index_on():
    g = small()
    z, z_mix = torch.randn(2, 3, 12)
    ws = g.ws(z, z_mix, mixing_index=2)
    assert torch.equal(ws[:, :2], g.ws(z)[:, :2])
    assert torch.equal(ws[:, 2:], g.ws(z_mix)[:, 2:])


def test_truncation_pulls_towards_the_mean():
    g = small()
    g.estimate_w_avg(2000)
    z = torch.randn(3, 12)
    torch.testing.assert_close(g.ws(z, truncation=0.0), g.w_avg.expand(3, g.num_ws, 12))
    halfway = (g.ws(z) + g.w_avg) / 2
    torch.testing.assert_close(g.ws(z, truncation=0.5), halfway)


def test_rgbs_end_in_the_image_and_features_are_named():
    g = small()
    ws, features = g.ws(torch.randn(2, 12)), {}
    rgbs = g.synthesis(ws, "none", return_rgbs=True)
    image = g.synthesis(ws, "none", features=features)
    assert [rgb.shape[-1] for rgb in rgbs] == [4, 8, 16]
    assert torch.equal(rgbs[-1], image)
    assert {name: f.shape[1] for name, f in features.items()} == g.config.channels


def test_empty_batch():
    g = small()
    assert g(torch.randn(0, 12)).shape == (0, 3, 16, 16)
    d = Discriminator(DiscriminatorConfig.uniform(16, 32, 8))
    assert d(torch.randn(0, 3, 16, 16)).shape == (0, 1)


def test_minibatch_std_takes_any_batch():
    d = Discriminator(DiscriminatorConfig.uniform(8, 32, 8))
    for batch in (1, 2, 3, 4, 5, 6, 7):
        assert d(torch.randn(batch, 3, 8, 8)).shape == (batch, 1)


def test_parameter_table_is_the_parameters():
    g = small()
    table = count_parameters(g)
    for name, count in table.items():
        prefix = f"{name}." if name == "mapping" else f"synthesis.{name}"
        own = [p for key, p in g.named_parameters() if key == prefix or key.startswith(prefix)]
        if not name.endswith(".affine") and name not in ("mapping", "b4.const"):
            own = [p for key, p in g.named_parameters() if key.startswith(f"{prefix}.") and ".affine." not in key]
        assert sum(p.numel() for p in own) == count, name
    assert sum(table.values()) == sum(p.numel() for p in g.parameters())


def test_macs_are_the_published_ones():
    assert total_macs(GeneratorConfig.uniform(256)) == 45_124_673_536
    # 8 channels at 8 px to 4 at 16 px: counted where they come from.
    assert count_macs(GeneratorConfig.uniform(16, 64, 8))["b16.conv0"] == 9 * 8 * 4 * 8**2


def test_macs_fall_with_the_square_of_the_width():
    full = total_macs(GeneratorConfig.uniform(256, mapping_layers=0, style_dim=1))
    half = total_macs(GeneratorConfig.uniform(256, 16384, 256, mapping_layers=0, style_dim=1))
    assert 3.9 < full / half < 4.0


def test_groups_cover_every_axis_that_runs_over_channels():
    g = small()
    state, axes = g.state_dict(), set()
    for group in g.channel_groups():
        assert f"{group.producer}" == f"synthesis.{group.name}"
        for axis in group.axes:
            assert state[axis.tensor].shape[axis.dim] == group.width
            axes.add((axis.tensor, axis.dim))
    fixed = {"weight": 2, "affine.weight": 1}
    convs = [n for n in state if n.startswith("synthesis") and n.endswith("weight")]
    expected = sum(fixed["affine.weight" if "affine" in n else "weight"] - ("to_rgb.weight" in n) for n in convs)
    assert sum(t.endswith("weight") for t, _ in axes) == expected


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda g: g(torch.randn(2, 11)), r"z: got shape \[2, 11\], expected \[N, 12\]"),
        (lambda g: g.ws(torch.randn(2, 12), torch.randn(2, 12)), "mixing_index: got None"),
        (lambda g: g.ws(torch.randn(2, 12), torch.randn(2, 12), 6), "mixing_index: got 6, expected 1 to 5"),
        (lambda g: g.ws(torch.randn(2, 12), torch.randn(3, 12), 2), "z_mix: got 3 latents, expected 2 as z"),
        (lambda g: g(torch.randn(2, 12), truncation_psi=float("nan")), "truncation_psi: got nan, expected a finite"),
        (lambda g: g(torch.randn(2, 12), truncation_psi=None), "truncation_psi: got None, expected a finite"),
        (lambda g: g(torch.randn(2, 12), noise="loud"), "noise: got 'loud'"),
        (
            lambda g: g(torch.randn(2, 12), torch.zeros(2, 3)),
            r"c: got shape \[2, 3\], expected None: the network takes no labels",
        ),
        (lambda g: g.mapping(torch.randn(2, 12), truncation_cutoff=-1), "truncation_cutoff: got -1"),
        (lambda g: g(torch.randn(2, 12), fp32=True), "fp32: got an unknown option"),
        (lambda g: g(torch.randn(2, 12), noise=[]), "noise: got 0 tensors, expected 5"),
        (lambda g: g(torch.randn(2, 12), noise=g.make_noise(3)), r"noise\[0\]: got shape \[3, 1, 4, 4\]"),
        (lambda g: g.synthesis(torch.randn(2, 12)), r"ws: got shape \[2, 12\], expected \[N, 6, 12\]"),
        (lambda g: GeneratorConfig(24, {}), "resolution: got 24"),
        (lambda g: GeneratorConfig(8, {"b4.const": 3}), "channels: got layers"),
        (
            lambda g: replace(g.config, channels=dict.fromkeys(g.config.channels, 2.5)),
            "channels of b4.const: got 2.5, expected an int",
        ),
        (lambda g: replace(g.config, style_dim=0), "style_dim: got 0, expected at least 1"),
        (lambda g: replace(g.config, mapping_layers=-1), "mapping_layers: got -1, expected at least 0"),
        (lambda g: SNGANConfig.uniform(z_dim=0), "z_dim: got 0, expected at least 1"),
        (lambda g: Discriminator(DiscriminatorConfig.uniform(8))(torch.zeros(1, 3, 4, 4)), "images: got shape"),
        (lambda g: DiscriminatorConfig(8, {4: 3}), "channels: got resolutions"),
    ],
)
def test_bad_input_names_the_argument(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(small())


@pytest.mark.parametrize("make", (small, lambda: SNGANGenerator(SNGANConfig.uniform(8, 4, z_dim=12)).eval()))
@pytest.mark.parametrize("compiled", (False, True))
def test_takes_the_place_of_nvlabs_generators(make, compiled):
    """Their scripts pass empty labels, a truncation cutoff, and options of their synthesis network."""
    g = make().requires_grad_(False)
    g.w_avg.normal_()
    expected, g = g, runtime.compile(g, weights="float32") if compiled else g
    assert (g.z_dim, g.c_dim, g.w_dim, g.img_resolution, g.img_channels) == (12, 0, 12, g.config.resolution, 3)
    z, c = torch.randn(2, g.z_dim), torch.zeros(2, g.c_dim)
    ws = g.mapping(z, c, truncation_psi=0.5, truncation_cutoff=1)
    assert ws.shape == (2, g.num_ws, g.w_dim)
    torch.testing.assert_close(ws[:, 1:], expected.mapping(z)[:, 1:])
    torch.testing.assert_close(ws[:, :1], expected.mapping(z, truncation_psi=0.5)[:, :1])
    image = g.synthesis(ws, noise_mode="const", force_fp32=True, update_emas=False)
    assert torch.equal(image, g(z, c, truncation_psi=0.5, truncation_cutoff=1, noise_mode="const"))
    torch.testing.assert_close(image, g(z, truncation=0.5, truncation_cutoff=1, noise="const"))
    torch.testing.assert_close(image, expected.synthesis(ws, noise_mode="const"), rtol=0, atol=1e-4)
    assert g.w_avg.shape == (12,)


@pytest.mark.parametrize("kind", ("forward", "forward_pre"))
def test_hooks_see_what_the_layers_name_says(kind):
    """A hook sees the output of a layer before it is multiplied by the next layer's styles."""
    g, seen, features = small(), {}, {}
    ws = g.mapping(torch.randn(2, 12))
    image = g.synthesis(ws, "none", features=features)
    layer = g.synthesis.b8.conv0 if kind == "forward" else g.synthesis.b8.conv1
    hook = getattr(layer, f"register_{kind}_hook")(lambda *a: seen.update(x=a[2] if kind == "forward" else a[1][0]))
    torch.testing.assert_close(g.synthesis(ws, "none"), image)
    torch.testing.assert_close(seen["x"], features["b8.conv0"])
    hook.remove()


def test_shapes_on_the_meta_device():
    generator, discriminator = Generator(GeneratorConfig.uniform(8)), Discriminator(DiscriminatorConfig.uniform(8))
    images = generator.to("meta")(torch.empty(2, 512, device="meta"))
    assert images.is_meta and images.shape == (2, 3, 8, 8)
    assert discriminator.to("meta")(images).shape == (2, 1)


def test_built_on_the_meta_device_and_filled_from_a_state():
    g, z = small(), torch.randn(2, 12)
    with torch.device("meta"):
        empty = Generator(g.config)
        Discriminator(DiscriminatorConfig.uniform(8, channel_base=16))
    assert all(p.is_meta for p in empty.parameters())
    empty.load_state_dict(g.state_dict(), assign=True)
    assert torch.equal(empty(z, noise="const"), g(z, noise="const"))
