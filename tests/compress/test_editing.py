"""Projection, style mixing, morphing and directions."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from cagc.common.errors import CagcError
from cagc.editing.directions import Directions, edited_images, find_directions, mapping_hash
from cagc.editing.mixing import mix_styles, morph, write_animation
from cagc.editing.projection import Projection, ProjectionConfig, project
from cagc.metrics.fidelity import content_psnr
from cagc.models import Generator, GeneratorConfig, SNGANConfig, SNGANGenerator


def generator(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    network = Generator(GeneratorConfig.uniform(16, 64, 8, style_dim=12, mapping_layers=2))
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    return network.eval().requires_grad_(False)


def pixels_only(steps: int, **options) -> ProjectionConfig:
    return ProjectionConfig(steps=steps, perceptual_weight=0.0, **options)


@pytest.mark.parametrize(
    "options", [{"optimizer": "adam"}, {"optimizer": "lbfgs"}, {"noise": False}, {"space": "w"}], ids=str
)
def test_projection_finds_an_image_of_the_generator(options):
    g = generator()
    z = torch.randn(2, 12)
    targets = g(z, noise="none").clamp(-1, 1)
    found = project(g, targets, pixels_only(40, **options))
    images = g.synthesis(found.ws, found.noise)
    start = g.synthesis(g.mapping.w(torch.randn(500, 12)).mean(dim=0).expand(2, g.num_ws, -1), "none")
    everything = torch.ones_like(targets[:, :1])
    gain = content_psnr(images, targets, everything, "none") - content_psnr(start, targets, everything, "none")
    assert gain.min() > 1
    assert found.losses == sorted(found.losses, reverse=True)
    mse = (images - targets).square().mean(dim=(1, 2, 3))
    assert found.losses[-1] == pytest.approx(mse.mean().item(), rel=1e-4)
    if options.get("space") == "w":
        torch.testing.assert_close(found.ws, found.ws[:, :1].expand_as(found.ws))


def test_projection_of_an_image_does_not_depend_on_the_batch():
    g = generator()
    targets = g(torch.randn(2, 12), noise="none").clamp(-1, 1)
    both = project(g, targets, pixels_only(5, noise=False))
    alone = project(g, targets[1:], pixels_only(5, noise=False))
    torch.testing.assert_close(both.ws[1:], alone.ws, rtol=1e-3, atol=1e-4)


def test_projection_sees_the_content_alone():
    g = generator()
    targets = g(torch.randn(1, 12), noise="none").clamp(-1, 1)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    other = targets.clone()
    other[..., 8:] = 1
    config = pixels_only(5)
    torch.testing.assert_close(project(g, targets, config, mask).ws, project(g, other, config, mask).ws)
    assert not torch.equal(project(g, targets, config).ws, project(g, other, config).ws)


def test_projection_uses_the_perceptual_distance():
    g = generator()
    targets = g(torch.randn(1, 12), noise="none").clamp(-1, 1)

    def blind(student, teacher):
        return 0 * student.sum()

    config = ProjectionConfig(steps=2, mse_weight=0.0, patience=5)
    found = project(g, targets, config, perceptual=blind)
    assert found.losses == [0, 0]


def test_projection_keeps_the_best_and_not_the_last():
    g = generator()
    targets = g(torch.randn(1, 12), noise="none").clamp(-1, 1)

    def found(steps: int) -> Projection:
        # Adam asks twice a step: for the gradient, and for what the step came to.
        levels = iter([3, 3, 1, 1, 2, 2])

        def distance(student, teacher):
            return student.sum() - student.sum().detach() + next(levels)

        return project(g, targets, ProjectionConfig(steps=steps, mse_weight=0.0), perceptual=distance)

    one, two, three = map(found, (1, 2, 3))
    assert three.losses == [3, 1, 1]
    assert torch.equal(three.ws, two.ws) and not torch.equal(two.ws, one.ws)
    assert all(torch.equal(a, b) for a, b in zip(three.noise, two.noise, strict=True))


def test_projection_stops_when_it_stalls():
    g = generator()
    mean = project(g, g(torch.randn(1, 12)).clamp(-1, 1), pixels_only(200, patience=3, min_gain=0.5))
    assert mean.stopped == "stalled" and len(mean.losses) < 200


def test_interrupted_projection_keeps_its_best(tmp_path):
    g = generator()
    targets = g(torch.randn(2, 12), noise="none").clamp(-1, 1)

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    found = project(g, targets, pixels_only(50), progress=interrupt)
    assert found.stopped == "interrupted" and len(found.losses) == 3
    torch.testing.assert_close(found.ws, project(g, targets, pixels_only(3)).ws)
    found.save(tmp_path / "p.safetensors")
    loaded = Projection.load(tmp_path / "p.safetensors")
    torch.testing.assert_close(loaded.ws, found.ws)
    assert loaded.losses == found.losses and loaded.stopped == "interrupted"
    assert [n.shape for n in loaded.noise] == [n.shape for n in found.noise]


@pytest.mark.parametrize(
    "options",
    [{"space": "z"}, {"optimizer": "sgd"}, {"steps": 0}, {"mse_weight": 0, "perceptual_weight": 0}, {"min_gain": -1}],
    ids=str,
)
def test_projection_settings(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ProjectionConfig(**options)


def test_projection_shapes():
    g = generator()
    with pytest.raises(ValueError, match="targets: got shape"):
        project(g, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="mask: got shape"):
        project(g, torch.zeros(1, 3, 16, 16), mask=torch.zeros(1, 1, 8, 8))


def test_mixing_takes_the_layers():
    ws, styles = torch.zeros(2, 6, 12), torch.ones(2, 6, 12)
    mixed = mix_styles(ws, styles, [4, 1])
    assert mixed[:, :, 0].tolist() == [[0, 1, 0, 0, 1, 0]] * 2
    assert ws.sum() == 0
    for layers in ([6], [-1], []):
        with pytest.raises(CagcError, match="expected some of 0 to 5"):
            mix_styles(ws, styles, layers)


def test_morph_begins_and_ends_where_it_should(tmp_path):
    g = generator()
    ws = g.ws(torch.randn(2, 12))
    noise = [g.make_noise(1, seed=s) for s in (0, 1)]
    frames = morph(g, ws[0], ws[1], 5, *noise, batch=2)
    for index, end in ((0, 0), (-1, 1)):
        torch.testing.assert_close(
            frames[index : index + 1 or None], g.synthesis(ws[end : end + 1], noise[end]).clamp(-1, 1)
        )
    for name, count in (("m.gif", 8), ("m.webp", 8), ("m.png", 1)):
        write_animation(tmp_path / name, [frames])
        assert getattr(Image.open(tmp_path / name), "n_frames", 1) == count
    with pytest.raises(CagcError, match="expected a name that ends in"):
        write_animation(tmp_path / "m.avi", [frames])
    with pytest.raises(ValueError, match="steps"):
        morph(g, ws[0], ws[1], 1)


def test_noise_between_two_has_unit_variance():
    g = generator()
    w = g.ws(torch.randn(1, 12))[0]
    maps = []
    g.synthesis.forward = lambda ws, noise: maps.append(noise) or torch.zeros(len(ws), 3, 16, 16)
    a, b = (torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    morph(g, w, w, 3, [a], [b])
    ((noise,),) = maps
    torch.testing.assert_close(noise.std(dim=(1, 2, 3)), torch.ones(3), rtol=0.02, atol=0)
    torch.testing.assert_close(noise[1], (a + b)[0] / 2**0.5)


def test_video(tmp_path):
    av = pytest.importorskip("av")
    strip = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 3, 17, 17)
    write_animation(tmp_path / "m.mp4", [strip, strip])
    with av.open(str(tmp_path / "m.mp4")) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(frames) == 8 and frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    levels = [frame[20, 20].mean() for frame in frames]
    assert levels[0] < 10 and levels[4] > 245 and levels[1] == pytest.approx(levels[7], abs=3)


def test_directions_are_the_principal_ones_of_w():
    g = generator()
    found = find_directions(g, count=4, samples=3000)
    w = g.mapping.w(torch.randn(3000, 12, generator=torch.Generator().manual_seed(0)))
    spread = ((w - w.mean(dim=0)) @ found.vectors.T).std(dim=0)
    torch.testing.assert_close(found.spread, spread, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(4), rtol=0, atol=1e-5)
    assert found.spread.tolist() == sorted(found.spread.tolist(), reverse=True)
    assert all(vector[vector.abs().argmax()] > 0 for vector in found.vectors)
    assert spread[0] >= (w @ torch.nn.functional.normalize(torch.randn(12, 50), dim=0)).std(dim=0).max()


def test_directions_of_activations_move_them_most():
    g = generator()
    found = find_directions(g, count=2, samples=400, layer="b8.conv1")
    ws = g.ws(torch.randn(64, 12))

    def activations(ws):
        features = {}
        g.synthesis(ws, "none", features=features)
        return features["b8.conv1"]

    def effect(vector):
        step = 0.2 * torch.nn.functional.normalize(vector, dim=0)
        return (activations(ws + step) - activations(ws)).square().sum().item()

    others = [effect(torch.randn(12)) for _ in range(20)]
    assert effect(found.vectors[0]) > sorted(others)[10]
    assert found.source == "b8.conv1"


def test_directions_apply_to_the_student_that_inherits_the_mapping(tmp_path):
    g = generator()
    found = find_directions(g, count=2, samples=100)
    path = tmp_path / "d.safetensors"
    found.save(path)
    loaded = Directions.load(path)
    torch.testing.assert_close(loaded.vectors, found.vectors)
    student = generator(seed=1)
    student.mapping.load_state_dict(g.mapping.state_dict())
    loaded.check(student)
    images = edited_images({"a": g, "b": student}, loaded, 3, 1, (-2.0, 0.0), [0, 1])
    assert images["a"].shape == (2, 3, 16, 16) and not torch.equal(images["a"], images["b"])
    torch.testing.assert_close(images["a"][0:1], edited_images({"a": g}, loaded, 3, 1, (-2.0,), [0, 1])["a"])
    ws = g.ws(torch.randn(1, 12))
    moved = loaded.apply(ws, 1, 2.0, [0, 3]) - ws
    torch.testing.assert_close(moved[0, 3], 2 * loaded.spread[1] * loaded.vectors[1], rtol=1e-4, atol=1e-5)
    assert moved[0, 1].abs().max() == 0
    with pytest.raises(CagcError, match="mapping network"):
        loaded.check(generator(seed=2))
    with pytest.raises(CagcError, match="index"):
        loaded.apply(ws, 2, 1.0)
    with pytest.raises(CagcError, match="layers"):
        loaded.apply(ws, 0, 1.0, [9])


def test_damaged_files(tmp_path):
    path = tmp_path / "d.safetensors"
    find_directions(generator(), count=1, samples=10).save(path)
    with pytest.raises(CagcError, match="format"):
        Projection.load(path)
    path.write_bytes(path.read_bytes()[:-3])
    for kind in (Directions, Projection):
        with pytest.raises(CagcError, match="truncated"):
            kind.load(path)
        with pytest.raises(CagcError):
            kind.load(tmp_path / "absent.safetensors")


def test_directions_requests():
    with pytest.raises(CagcError, match="layer: got 'b9'"):
        find_directions(generator(), layer="b9")
    with pytest.raises(CagcError, match="count, samples: got 0 and 10000, expected at least 1 and 2"):
        find_directions(generator(), count=0)
    assert len(find_directions(generator(), count=13)) == 12  # the length of w


def test_sngan_has_the_same_tools():
    torch.manual_seed(0)
    g = SNGANGenerator(SNGANConfig.uniform(8, 6, z_dim=5)).eval().requires_grad_(False)
    found = find_directions(g, count=2, samples=50)
    # z has no principal directions: they are those of the first layer, singular vectors of its weight.
    assert found.source == "b4"
    weight = g.synthesis.fc.weight.flatten(0, 2)
    moved = (weight @ find_directions(g, count=2, samples=4000).vectors.T).norm(dim=0)
    torch.testing.assert_close(moved, torch.linalg.svdvals(weight)[:2], rtol=0.02, atol=0)
    assert edited_images({"g": g}, found, 0, 0, (0.0, 1.0))["g"].shape == (2, 3, 8, 8)
    targets = g(torch.randn(1, 5))
    assert project(g, targets, pixels_only(10)).losses[-1] < project(g, targets, pixels_only(1)).losses[-1]
    assert mapping_hash(g) != mapping_hash(SNGANGenerator(dataclasses.replace(g.config, z_dim=6)))
