"""``cagc evaluate``: its metrics, their inputs, and its refusals."""

from __future__ import annotations

import json
import math
import sys
import types

import pytest
import torch

import cagc
from cagc import evaluation
from cagc.checkpoints import load_generator, save_generator
from cagc.cli import main
from cagc.content import load as load_parser
from cagc.data.dataset import ImageDataset
from cagc.metrics.fidelity import evaluate_pair
from cagc.metrics.frechet import generator_statistics
from cagc.metrics.kid import kernel_distance
from cagc.metrics.ppl import perceptual_path_length
from cagc.metrics.precision_recall import density_coverage, precision_recall
from cagc.metrics.reference import reference_statistics
from cagc.metrics.sampling import draw

FEATURES = "efficientnet-lite0@32"


def refused(capsys, *args) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in args])
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


@pytest.fixture(scope="module")
def student(tmp_path_factory, small_teacher):
    teacher = load_generator(small_teacher)
    scores = cagc.score_channels(teacher, "random", samples=1)
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    save_generator(cagc.prune(teacher, cagc.plan_channels(teacher, scores, keep=0.5)), path)
    return path


@pytest.fixture(scope="module")
def measured(student, small_teacher, small_images, tmp_path_factory):
    """Every metric, through the command line."""
    path = tmp_path_factory.mktemp("measured") / "figures.json"
    common = ("--student", student, "--teacher", small_teacher, "--data", small_images, "--content", "everything")
    # Leakage needs surroundings, which "everything" does not leave.
    metrics = [name for name in evaluation.METRICS if name != "leakage"]
    options = ("--samples", 20, "--pairs", 2, "--features", FEATURES, "--json", path)
    main([str(a) for a in ("evaluate", *common, "--metrics", *metrics, *options)])
    return json.loads(path.read_text())


def test_every_metric_is_what_its_function_says(measured, student, small_teacher, small_images):
    teacher, g = load_generator(small_teacher), load_generator(student)
    extractor = evaluation.feature_registry.load(FEATURES)
    real = reference_statistics(ImageDataset(small_images, 16), 20, extractor, keep=True)
    drawn = generator_statistics(g, 20, features=extractor, keep=True)
    sets = precision_recall(real.vectors, drawn.vectors, 3) | density_coverage(real.vectors, drawn.vectors, 5)
    sets |= {"frechet_distance": drawn.distance(real)}
    sets |= {"kernel_distance": kernel_distance(real.vectors, drawn.vectors).mean}
    found = measured["Student"]
    for name, value in sets.items():
        assert found[f"{name}[{FEATURES}]"] == pytest.approx(value, rel=1e-4), name
    pair = evaluate_pair(g, teacher, load_parser("everything"), 2)
    assert found["content_psnr_db"] == pytest.approx(pair["content_psnr"]) == found["image_psnr_db"]
    distance = evaluation.load_perceptual("efficientnet-lite0")
    # A step of 1e-4 in single precision.
    length = perceptual_path_length(g, distance, 2, space="z", sampling="end")
    assert found["ppl_zend[efficientnet-lite0]"] == pytest.approx(length, rel=0.05)
    assert 0 < found["ppl_authors[efficientnet-lite0]"] < found["ppl_wfull[efficientnet-lite0]"]
    assert found["image_ssim"] == found["content_ssim"] < 1
    assert 0 < found["image_perceptual[efficientnet-lite0]"] < 2 and 1 <= found["separability"]


def test_images_of_the_compiled_program_are_the_generators(student):
    g = load_generator(student).eval()
    drawing = evaluation.drawing(g)
    assert type(drawing) is not type(g) and evaluation.drawing(g.train()) is g
    for noise in ("random", "const"):
        torch.testing.assert_close(draw(drawing, [1, 5], noise), draw(g, [1, 5], noise), rtol=0, atol=1e-4)


def test_a_teacher_is_not_compared_with_itself(measured):
    only_student = set(measured["Student"]) - set(measured["Teacher"])
    assert {name.partition("_")[0] for name in only_student} == {"content", "image"}


def test_leakage_and_only_what_was_asked_for(student, small_teacher):
    def left_half(images, seeds=None):
        return (torch.arange(16) < 8).float().expand(len(images), 1, 16, 16)

    g, teacher = load_generator(student), load_generator(small_teacher)
    found = evaluation.evaluate(g, teacher, left_half, samples=20, repeats=1, metrics=("leakage",))
    further = found["Student"].further
    assert set(further) == {"edit_inside", "edit_outside", "edit_leakage"} == set(found["Teacher"].further)
    assert found["Student"].content_l1 is None and found["Student"].frechet is None


def test_perceptual_distance_of_a_sample_without_content_does_not_count(student, small_teacher):
    def second_only(images, seeds):
        return torch.stack([torch.full((1, 16, 16), float(seed == 1)) for seed in seeds])

    g, teacher = load_generator(student), load_generator(small_teacher)
    found = evaluation.evaluate(g, teacher, second_only, repeats=1, pairs=2, metrics=("perceptual",))
    alone = evaluation.evaluate(g, teacher, "everything", repeats=1, pairs=1, seed=1, metrics=("perceptual",))
    name = "content_perceptual[efficientnet-lite0]"
    assert found["Student"].further[name] == pytest.approx(alone["Student"].further[name], rel=1e-4)


def test_inception_and_lpips_where_they_are_installed(student, small_teacher, small_images, monkeypatch):
    """Stand-ins for torch-fidelity and lpips, whose weights need a download: what they are asked, and what is made of
    their answers."""

    class InceptionV3(torch.nn.Module):
        def __init__(self, name, features_list):
            super().__init__()
            assert (name, features_list) == ("inception-v3-compat", ["2048"])

        def forward(self, images):
            assert images.dtype == torch.uint8 and images.shape[1:] == (3, 16, 16)
            return (images.float().mean(dim=(2, 3)),)

    class LPIPS(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            assert net == "vgg"

        def forward(self, a, b):
            return (a - b).square().mean(dim=(1, 2, 3), keepdim=True)

    inner = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    inner.FeatureExtractorInceptionV3, lpips = InceptionV3, types.ModuleType("lpips")
    lpips.LPIPS = LPIPS
    for module in (types.ModuleType("torch_fidelity"), inner, lpips):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    found = evaluation.evaluate(
        load_generator(student), load_generator(small_teacher), "everything", ImageDataset(small_images, 16),
        samples=8, pairs=2, repeats=1, features="inception", perceptual="lpips-vgg",
        metrics=("frechet", "kid", "psnr", "perceptual", "ppl-wend"),
    )["Student"]  # fmt: skip
    assert found.frechet > 0 and found.further["kernel_distance[inception]"] > 0
    mse = found.further["image_perceptual[lpips-vgg]"]
    assert 0 < 10 * math.log10(4 / mse) <= found.image_psnr + 1e-4  # the mean of logarithms is above that of the mean
    assert found.further["ppl_wend[lpips-vgg]"] > 0


@pytest.mark.parametrize(
    "options, message",
    [
        (("--metrics", "fid"), "got 'fid', expected some of frechet, kid,"),
        (("--metrics", "kid"), "kid compares with real images"),
        (("--metrics", "ssim"), "pip install scikit-image"),
        (("--metrics", "perceptual", "--perceptual", "lpips-vgg"), "pip install lpips"),
        (("--metrics", "perceptual", "--perceptual", "taste"), "expected lpips-vgg or efficientnet-lite0"),
        (("--metrics", "frechet", "--features", "inception", "--data", "IMAGES"), "pip install torch-fidelity"),
        (("--metrics", "precision-recall", "--samples", "3", "--data", "IMAGES", "--features", FEATURES), "k: got 3"),
        (("--metrics", "leakage"), "content and surroundings"),
    ],
    ids=str,
)
def test_bad_requests(options, message, student, small_teacher, small_images, monkeypatch, capsys):
    for package in ("lpips", "torch_fidelity"):
        monkeypatch.setitem(sys.modules, package, None)
    find_spec = evaluation.importlib.util.find_spec
    monkeypatch.setattr(
        evaluation.importlib.util, "find_spec", lambda name: None if name == "skimage" else find_spec(name)
    )
    options = [small_images if option == "IMAGES" else option for option in options]
    common = ("--student", student, "--teacher", small_teacher, "--content", "everything")
    assert message in refused(capsys, "evaluate", *common, *options)
