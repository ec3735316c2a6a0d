"""The report: figures, pictures, and the page itself in a real browser."""

import base64
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
import torch
from PIL import Image

from benchmarks.browser import Browser, find_browser
from cagc.common.errors import CagcError
from cagc.common.seeds import z_batch
from cagc.latency.measure import LatencyResult
from cagc.models.stylegan2 import Generator, GeneratorConfig
from cagc.pictures import comparison_figures, content_overlay, difference, image_grid, interpolation_strip
from cagc.report import Curve, Report, Variant, layer_table, render, training_curves, write_report
from cagc.report.charts import curve_chart

OPTIONS = {"style_dim": 32, "mapping_layers": 2}


def timed(*times):
    return LatencyResult(sorted(times)[len(times) // 2], min(times), max(times), times, {})


def circle(images, seeds=None):
    line = torch.linspace(-1, 1, images.shape[-1])
    mask = (line[:, None] ** 2 + line**2 < 0.6).float()
    return mask.expand(len(images), 1, -1, -1).clone()


@pytest.fixture(scope="module")
def generators():
    torch.manual_seed(3)
    teacher = Generator(GeneratorConfig.uniform(64, channel_base=2048, channel_max=64, **OPTIONS)).eval()
    student = Generator(GeneratorConfig.uniform(64, channel_base=512, channel_max=16, **OPTIONS)).eval()
    return teacher, student


def make_report(generators):
    teacher, student = generators
    losses = [(step, 2 * math.exp(-step / 80) + 0.1 * math.sin(step)) for step in range(0, 400, 2)]
    return Report(
        title="faces64 <compressed> & measured",
        summary="A 64 px generator, pruned by content-aware scores and distilled for 400 steps.",
        teacher=Variant.of("Teacher", teacher, latency=timed(20.0, 22.0, 21.0), frechet=21.25),
        student=Variant.of(
            "Student",
            student,
            latency=timed(5.0, 5.5, 7.0),
            frechet=30.5,
            content_l1=0.0912,
            content_psnr=21.75,
            image_l1=0.12,
            content_coverage=0.47,
        ),
        others=[
            Variant.of("Before distillation", student, frechet=180.0, content_l1=0.41, content_psnr=math.inf),
            Variant.of("l1-out, same steps", student, latency=timed(5.0, 5.5, 5.25)),
        ],
        layers=layer_table(teacher, student),
        figures=comparison_figures(teacher, student, circle, {"Before distillation": student}),
        curves=[
            Curve("Losses", {"generator": losses, "discriminator": [(s, 1.4 - v / 9) for s, v in losses]}),
            Curve("Content L1", {"content L1": [(s, v / 5) for s, v in losses]}),
        ],
        provenance={"Command": "cagc compress --seed 0", "Plan": "9f2c" * 16, "Machine": "2 cores <CPU & co>"},
        notes=["Fréchet distances over 1,000 images of each generator and 2,000 of the data set."],
    )


@pytest.fixture(scope="module")
def report(generators):
    return make_report(generators)


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("out"), report)


def test_ratios_are_paired_and_the_realised_share_is_their_quotient(report):
    assert report.macs_ratio == report.teacher.macs / report.student.macs > 4
    assert report.time_ratio(report.student).median == 4.0  # of 20/5, 22/5.5 and 21/7
    assert report.realised(report.student) == pytest.approx(4.0 / report.macs_ratio)
    assert report.time_ratio(report.others[0]) is None and report.realised(report.others[0]) is None
    assert report.realised(report.teacher) == 1


def test_text_that_is_not_utf8_is_escaped(report, tmp_path):
    page = write_report(tmp_path, replace(report, provenance={"Command": "cagc \udcff"}))
    assert "cagc \\udcff" in page.read_text(encoding="utf-8")


def test_times_that_contradict_their_ratio_are_too_noisy(generators):
    quiet, steady = make_report(generators), timed(20.0, 20.0, 20.0)
    # Paired ratios 1, 4 and 4, but medians of 20 and 20.
    noisy = replace(quiet.student, latency=timed(20.0, 1.0, 20.0))
    teacher = replace(quiet.teacher, latency=timed(20.0, 4.0, 80.0))
    report = replace(quiet, teacher=teacher, student=noisy, others=[])
    assert report.too_noisy(noisy) and not report.too_noisy(teacher)
    row = report.metrics()["Student"]
    assert row["too_noisy"] and row["time_ratio"] is None and row["realised_share"] is None
    assert "too noisy to tell" in render(report)
    assert not replace(report, teacher=replace(teacher, latency=steady)).too_noisy(replace(noisy, latency=steady))


def test_metrics_are_strict_json_and_name_the_features(report):
    metrics = json.loads(json.dumps(report.metrics(), allow_nan=False))
    assert list(metrics) == ["Teacher", "Before distillation", "l1-out, same steps", "Student"]
    assert metrics["Student"]["frechet_distance[efficientnet-lite0]"] == 30.5
    assert metrics["Before distillation"]["content_psnr_db"] is None
    assert metrics["Student"]["latency"] == {"median_ms": 5.5, "p10_ms": 5.0, "p90_ms": 7.0, "repeats": 3}


def test_layers_hold_widths_and_macs(generators, report):
    names = list(generators[0].config.channels)
    assert [layer.name for layer in report.layers] == names
    last = report.layers[-1]
    assert (last.full, last.kept) == (32, 8)
    assert (last.full_macs, last.kept_macs) == (9 * 32 * 32 * 64**2, 9 * 8 * 8 * 64**2)
    assert report.layers[0].full_macs == 0


def test_page_is_well_formed_and_self_contained(page):
    text = page.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)  # every element closed, every attribute quoted, every & escaped
    assert root.get("lang") == "en"
    assert root.findtext("head/title") == "faces64 <compressed> & measured"
    assert not list(root.iter("script"))
    for element in root.iter():
        for name in ("src", "href"):
            assert element.get(name, "data:").startswith("data:")
    assert not re.search(r"https?:|url\(|@import", re.sub(r"base64,[^\"]+", "", text))
    images = list(root.iter("img"))
    assert len(images) == 18
    assert all(len(image.get("alt")) > 10 and int(image.get("width")) > 0 for image in images)
    for element in root.iter():
        label = element.get("aria-labelledby")
        assert label is None or root.findall(f".//*[@id='{label}']"), label
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))


def test_page_shows_the_figures(page):
    root = ElementTree.fromstring(page.read_text(encoding="utf-8"))
    tiles = ["".join(d.itertext()).strip() for d in root.iter("dd") if d.get("class") == "figure"]
    assert tiles[2] == "4.0×\u00a0faster" and tiles[3].endswith("%")
    rows = [[" ".join("".join(c.itertext()).split()) for c in row] for row in root.iter("tr")]
    assert "FID" not in "".join(root.itertext())
    assert rows[0][4] == "Fréchet distance ↓efficientnet-lite0"
    assert [row[0] for row in rows[1:]] == ["Teacher", "Before distillation", "l1-out, same steps", "Student"]
    assert rows[1][3:] == ["21[20 – 22]", "21.25", "–", "–"]
    assert rows[4][3:] == ["5.5[5 – 7]", "30.5", "0.0912", "21.75"]


def test_grids_lie_beside_the_page(page, report):
    files = {path.name for path in (page.parent / "grids").iterdir()}
    assert files == {"comparison.png", "content.png", "interpolation.png", "edit.png"}
    for figure in report.figures:
        with Image.open(page.parent / "grids" / f"{figure.name}.png") as image:
            assert image.height >= 128 * len(figure.rows) and image.width > 7 * 128
    assert {path.name for path in page.parent.iterdir()} == {"grids", "report.html"}


def test_an_untimed_untrained_report_leaves_sections_out(generators, tmp_path):
    bare = Report("t", "s", Variant.of("Teacher", generators[0]), Variant.of("Student", generators[1]))
    root = ElementTree.fromstring(write_report(tmp_path, bare).read_text(encoding="utf-8"))
    assert [h.text for h in root.iter("h2")] == ["In numbers"]
    with pytest.raises(CagcError, match="does not exist"):
        write_report(tmp_path / "absent", bare)


def test_grid_lays_images_out_in_rows():
    images = torch.stack([torch.full((3, 4, 4), v) for v in (-1.0, 0.0, 1.0, 9.0, -9.0)])
    grid = image_grid(images, columns=3, tile=4)
    assert grid.size == (3 * 4 + 2 * 2, 2 * 4 + 2)
    levels = [grid.getpixel((x, y))[0] for y in (1, 7) for x in (1, 7, 13)]
    assert levels == [0, 128, 255, 255, 0, 255]  # the last cell is empty: white
    clear = image_grid(images, tile=4, background=None)
    assert clear.getpixel((1, 1)) == (0, 0, 0, 255) and clear.getpixel((4, 1))[3] == 0
    assert image_grid(images).size[1] == 8 and image_grid(torch.zeros(1, 3, 512, 512)).size == (256, 256)
    with pytest.raises(ValueError, match="images"):
        image_grid(torch.zeros(3, 4, 4))


def test_difference_is_black_where_images_agree():
    a, b = torch.tensor([-1.0, 0.0, 1.0, 3.0]), torch.tensor([-1.0, 0.5, -1.0, 1.0])
    assert difference(a, b).tolist() == [-1.0, -0.5, 1.0, -1.0]
    assert difference(a, b, gain=3).tolist() == [-1.0, 0.5, 1.0, -1.0]


def test_overlay_leaves_the_content_alone():
    images = torch.rand(2, 3, 128, 128) * 2 - 1
    mask = circle(images)
    shown = content_overlay(images, mask)
    inside = mask.bool().expand_as(images)
    assert torch.equal(shown[inside], images[inside])
    outside = shown[0][:, 0, 0]
    assert outside.max() - outside.min() < 1e-6 and outside.max() < 0


def test_interpolation_runs_from_one_seed_to_the_other(generators):
    teacher = generators[0]
    strip = interpolation_strip(teacher, (4, 9), steps=5)
    with torch.no_grad():
        ends = teacher(z_batch([4, 9], 32), noise="const")
    torch.testing.assert_close(strip[[0, -1]], ends, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="steps"):
        interpolation_strip(teacher, (0, 1), steps=1)


def test_difference_row_vanishes_for_the_teacher_itself(generators):
    figures = comparison_figures(generators[0], generators[0], circle, seeds=range(2), interpolations=())
    tile = figures[0].rows[-1].image.crop((0, 0, 128, 128)).convert("RGB")
    assert max(high for _, high in tile.getextrema()) == 0


def test_curves_come_from_a_log_with_a_torn_last_line(tmp_path):
    lines = ['{"step": 0, "loss": 2.0, "note": "x"}', '{"step": 5, "loss": 1.0, "r1": NaN}', '{"step": 10, "lo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    (curve,) = training_curves(tmp_path / "metrics.jsonl")
    assert curve == Curve("loss", {"loss": [(0.0, 2.0), (5.0, 1.0)]})
    panels = training_curves([{"step": 1, "a": 1, "b": 2}], {"Both": ["a", "b"], "None": ["c"]})
    assert [(p.title, list(p.series)) for p in panels] == [("Both", ["a", "b"])]


@pytest.mark.parametrize("points", [[(0, 0.0)], [(0, 5.0), (100, 5.0)], [(i, -i * 1e-4) for i in range(1000)]])
def test_curves_are_drawn_in_the_colours_of_the_page(points):
    kind, data = curve_chart({"a": points, "b": points}).split(",")
    svg = ElementTree.fromstring(base64.b64decode(data))
    assert kind == "data:image/svg+xml;base64"
    text = " ".join("".join(element.itertext()) for element in svg.findall(".//{*}text"))
    assert f"a, at the end {points[-1][1]:.4g}" in text
    lines = [path for path in svg.findall(".//{*}path") if "stroke: var(--kept)" in path.get("style", "")]
    assert lines and all(path.get("d").count("L") < 200 for path in lines)
    assert (
        "prefers-color-scheme: dark" in svg.findtext("{*}style")
        and curve_chart({"a": points, "b": points}) == f"{kind},{data}"
    )


def test_a_browser_draws_the_page_without_complaint(page):
    binary = find_browser()
    if binary is None:
        pytest.skip("no Chromium found (set CAGC_CHROMIUM to its path)")
    with Browser(binary) as browser:
        browser.open(page.as_uri())
        decoded = "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth, () => 0)))"
        widths = browser.evaluate(decoded)
        assert len(widths) == 18 and min(widths) > 128
        assert browser.evaluate("document.title") == "faces64 <compressed> & measured"
        assert browser.evaluate("document.compatMode") == "CSS1Compat"
        assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert browser.complaints() == []
        requested = {r["request"]["url"].split(":", 1)[0] for r in browser.named("Network.requestWillBeSent")}
        assert requested <= {"file", "data"}


def test_the_browser_check_would_see_a_bad_page(tmp_path):
    binary = find_browser()
    if binary is None:
        pytest.skip("no Chromium found (set CAGC_CHROMIUM to its path)")
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><title>t</title><img src='absent.png' alt='x'>"
        "<script>console.error('said'); throw new Error('thrown')</script>"
    )
    with Browser(binary) as browser:
        browser.open(bad.as_uri())
        assert browser.evaluate("document.images[0].decode().then(() => 1, () => 0)") == 0
        text = " ".join(browser.complaints())
    assert "said" in text and "Uncaught" in text and "ERR_FILE_NOT_FOUND" in text
