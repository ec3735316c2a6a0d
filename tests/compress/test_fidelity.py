"""Content-region L1 and PSNR."""

import math

import pytest
import torch

from cagc.common.errors import CagcError
from cagc.common.seeds import z_batch
from cagc.metrics.disentanglement import linear_separability
from cagc.metrics.fidelity import content_l1, content_psnr, evaluate_pair
from cagc.metrics.frechet import generator_statistics
from cagc.metrics.ppl import perceptual_path_length
from cagc.models.stylegan2 import Generator, GeneratorConfig


@pytest.fixture
def pair():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.rand(3, 3, 8, 8, generator=rng) * 2 - 1 for _ in range(2))
    mask = torch.zeros(3, 1, 8, 8)
    mask[0, :, :2], mask[1, :, :, 5:], mask[2] = 1, 1, 1
    return a, b, mask


def test_figures_equal_a_loop_over_the_masked_pixels(pair):
    a, b, mask = pair
    l1, psnr = [], []
    for x, y, m in zip(a.double(), b.double(), mask[:, 0].bool()):
        difference = (x[:, m] - y[:, m]).flatten()
        l1.append(float(difference.abs().mean()))
        psnr.append(10 * math.log10(4 / float(difference.square().mean())))
    assert float(content_l1(a, b, mask)) == pytest.approx(sum(l1) / 3, rel=1e-12)
    assert float(content_psnr(a, b, mask)) == pytest.approx(sum(psnr) / 3, rel=1e-12)
    torch.testing.assert_close(content_psnr(a, b, mask, "none"), torch.tensor(psnr, dtype=torch.double))


def test_psnr_is_scikit_images():
    skimage = pytest.importorskip("skimage.metrics")
    a, b = (torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(s)) * 2 - 1 for s in (0, 1))
    theirs = [
        skimage.peak_signal_noise_ratio(x, y, data_range=2) for x, y in zip(a.double().numpy(), b.double().numpy())
    ]
    assert content_psnr(a, b, torch.ones(2, 1, 9, 7), "none").tolist() == pytest.approx(theirs, rel=1e-12)


def test_pixels_outside_the_content_do_not_count(pair):
    a, b, mask = pair
    changed = torch.where(mask.bool(), b, -b * 100)
    assert torch.equal(content_l1(a, changed, mask), content_l1(a, b, mask))


def test_the_area_of_the_content_does_not_scale_the_figure():
    a, b = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.5)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, 0, 0], mask[1] = 1, 1
    assert content_l1(a, b, mask, "none").tolist() == [0.5, 0.5]


def test_negative_differences_do_not_wrap():
    """An 8-bit subtraction would see 255 - 1 levels here."""
    a, b = torch.full((1, 3, 4, 4), -1.0), torch.full((1, 3, 4, 4), -1 + 2 / 255)
    mask = torch.ones(1, 1, 4, 4)
    assert float(content_psnr(a, b, mask)) == pytest.approx(20 * math.log10(255), rel=1e-4)
    assert float(content_psnr(a, a, mask)) == math.inf


def test_samples_without_content_are_left_out(pair):
    a, b, mask = pair
    mask = mask.clone()
    mask[1] = 0
    assert content_l1(a, b, mask, "none").isnan().tolist() == [False, True, False]
    assert torch.equal(content_l1(a, b, mask), content_l1(a[[0, 2]], b[[0, 2]], mask[[0, 2]]))
    with pytest.raises(CagcError, match="empty for every sample"):
        content_psnr(a, b, torch.zeros_like(mask))


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 3, 8, 8), (1, 1, 8, 8), (3, 1, 4, 4)])
def test_a_mask_of_another_shape_is_refused(pair, shape):
    with pytest.raises(ValueError, match=r"mask: got .*, expected \[3, 1, 8, 8\]"):
        content_l1(pair[0], pair[1], torch.ones(shape))
    with pytest.raises(ValueError, match=r"b: got shape .*, expected .* as a"):
        content_l1(pair[0], pair[1][:1], pair[2])


def make(seed, **options):
    torch.manual_seed(seed)
    options = {"style_dim": 16, "mapping_layers": 2, "channel_base": 128, "channel_max": 8} | options
    generator = Generator(GeneratorConfig.uniform(options.pop("resolution", 16), **options)).eval()
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.3)
    return generator


def left_half(images, seeds=None):
    mask = torch.zeros_like(images[:, :1])
    mask[..., : images.shape[3] // 2] = 1
    return mask


@pytest.mark.parametrize("noise", ["const", "random", "none"])
def test_a_generator_with_the_same_weights_is_perfect(noise):
    """Only shared noise can give this: the copy's own constant maps are replaced by others."""
    teacher, copy = make(0), make(1)
    own = {n: b for n, b in copy.state_dict().items() if n.endswith("noise_const")}
    copy.load_state_dict(teacher.state_dict() | own)
    result = evaluate_pair(copy, teacher, left_half, samples=5, batch=2, noise=noise)
    assert result["content_l1"] < 1e-6 and result["image_l1"] < 1e-6 and result["content_psnr"] > 100
    assert result["content_coverage"] == 0.5
    assert (result["samples"], result["empty_masks"]) == (5, 0)
    exact = evaluate_pair(copy.double(), teacher.double(), left_half, samples=2, noise=noise)
    assert exact["image_l1"] < 1e-14


def test_result_does_not_depend_on_the_batch_and_the_parser_sees_the_teacher():
    teacher, student = make(0), make(1)
    seen = []

    def parser(images, seeds):
        seen.extend(zip(seeds, images))
        mask = left_half(images)
        mask[[s == 3 for s in seeds]] = 0
        return mask

    one = evaluate_pair(student, teacher, parser, samples=5, seed=2, batch=5)
    assert [seed for seed, _ in seen] == [2, 3, 4, 5, 6]
    with torch.no_grad():
        expected = teacher(z_batch([4], 16), noise="const").clamp(-1, 1)
    torch.testing.assert_close(seen[2][1][None], expected)
    other = evaluate_pair(student, teacher, parser, samples=5, seed=2, batch=2)
    assert one == pytest.approx(other, rel=1e-5)
    assert one["empty_masks"] == 1 and one["content_l1"] > 0.01


def test_generators_that_do_not_match_are_refused():
    with pytest.raises(CagcError, match=r"img_size \(8, 8\), expected .* \(16, 16\)"):
        evaluate_pair(make(0, resolution=8), make(0), left_half)
    with pytest.raises(CagcError, match="w_dim 8, expected .* 16"):
        evaluate_pair(make(0, style_dim=8), make(0), left_half)
    with pytest.raises(CagcError, match="empty for every sample"):
        evaluate_pair(make(0), make(1), lambda images, seeds: torch.zeros_like(images[:, :1]), samples=2)


def test_nan_is_neither_left_out_nor_taken_for_an_empty_mask(pair):
    a, b, mask = pair
    a[1, 0, 0, 7] = torch.nan
    assert content_l1(a, b, mask).isnan() and content_psnr(a, b, mask, "none").isnan().tolist() == [False, True, False]
    broken = make(0)
    broken.synthesis.b16.to_rgb.bias.data[0] = torch.nan
    for student, teacher, name in ((broken, make(1), "student"), (make(1), broken, "teacher")):
        with pytest.raises(CagcError, match=f"{name}: got NaN or infinity in 2 of 2 images, the first of seed 4"):
            evaluate_pair(student, teacher, left_half, samples=2, seed=4)
    with pytest.raises(CagcError, match="generator: got NaN or infinity"):
        generator_statistics(broken, 2, features="efficientnet-lite0@32")
    with pytest.raises(CagcError, match="generator: got NaN or infinity"):
        perceptual_path_length(broken, lambda x, y: (x - y).square().mean(), 2)
    with pytest.raises(CagcError, match="generator: got NaN or infinity"):
        linear_separability(broken, left_half, 2)
