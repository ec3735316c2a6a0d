"""The page of `cagc export --web` in a real browser: its pixels, its controls, and that it asks nobody for anything."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

import cagc
from benchmarks.browser import Browser, find_browser
from cagc.checkpoints import save_generator
from cagc.cli import main
from cagc.common.errors import CagcError
from cagc.common.seeds import z_batch
from cagc.editing.directions import find_directions
from cagc.export.web import PageOptions, export_web, fits_beside
from cagc.export.web.parts import VARIANTS
from cagc.export.web.text import as_text
from cagc.models import Generator, GeneratorConfig, SNGANConfig, SNGANGenerator

ROOT = Path(__file__).resolve().parents[2]
WASM = ROOT / "cagc" / "export" / "web" / "wasm"
SEEDS = (3, 11, 12)
needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium on this machine")

# Waits until the last picture that was asked for is on the canvas, and returns its pixels.
SETTLED = """new Promise((done, failed) => {
  const look = tries => {
    const canvas = document.getElementById(WHO), asked = document.body.dataset.asked;
    const notice = document.getElementById("notice");
    if (!notice.hidden) return failed(new Error(notice.textContent));
    const late = !asked || canvas.dataset.drawn !== asked;
    if (late) return tries ? setTimeout(look, 10, tries - 1) : failed(new Error("slow"));
    done([...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]);
  };
  look(3000);
})"""


def build_script():
    spec = importlib.util.spec_from_file_location("build_web", ROOT / "csrc" / "web" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(widths: int, mapping: Generator | None = None) -> Generator:
    torch.manual_seed(widths)
    config = GeneratorConfig.uniform(64, 64 * widths, 2 * widths, style_dim=32, mapping_layers=2)
    generator = Generator(config).eval().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith(("noise_strength", "bias")) and not name.startswith("mapping"):
            parameter += 0.2 * torch.randn_like(parameter)
    if mapping is None:
        generator.estimate_w_avg(200)
    else:
        generator.mapping.load_state_dict(mapping.mapping.state_dict())
    return generator


@pytest.fixture(scope="module")
def student():
    return make(5)


@pytest.fixture(scope="module")
def teacher(student):
    return make(9, student)


@pytest.fixture(scope="module")
def directions(student):
    return find_directions(student, 2, samples=500)


@pytest.fixture(scope="module")
def browser():
    with Browser(find_browser()) as browser:
        yield browser


def drawn(browser: Browser, who: str = "student") -> np.ndarray:
    pixels = browser.evaluate(SETTLED.replace("WHO", json.dumps(who)))
    return np.array(pixels, dtype=np.int16).reshape(64, 64, 4)


def expected(generator, directions, psi=0.7, morph=0.0, strengths=(0.0, 0.0), from_b=(), noise="const", a=3, b=11):
    """Pixels of the native program for a state of the page's controls."""
    w_a, w_b = generator.mapping.w(z_batch([a, b], generator.z_dim))
    share = torch.full((generator.num_ws, 1), float(morph))
    share[list(from_b)] = 1
    ws = torch.lerp(generator.w_avg, torch.lerp(w_a, w_b, share), psi)[None]
    for index, strength in enumerate(strengths):
        ws = directions.apply(ws, index, strength)
    image = cagc.runtime.compile(generator, weights="float32").synthesis(ws, noise_mode=noise)[0]
    return (image.clamp(-1, 1).permute(1, 2, 0) * 127.5 + 127.5).round().to(torch.int16).numpy()


def slide(browser: Browser, control: str, value: float) -> None:
    browser.evaluate(
        f"(() => {{ const c = document.getElementById('{control}'); c.value = {value};"
        " c.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def press(browser: Browser, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)


def click(browser: Browser, selector: str) -> None:
    browser.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert (found[..., 3] == 255).all()
    assert wanted.std() > 10
    assert np.abs(found[..., :3] - wanted).max() <= 2


@pytest.mark.skipif(not (ROOT / "csrc" / "web").is_dir(), reason="the sources are in the other package")
def test_the_runtime_was_compiled_from_these_sources():
    build, record = build_script(), json.loads((WASM / "build.json").read_text())
    assert record["inputs"] == build.digest(), "compile it again: python csrc/web/build.py"
    for variant in VARIANTS:
        data = (WASM / f"{variant}.wasm").read_bytes()
        assert hashlib.sha256(data).hexdigest() == record["variants"][variant]["sha256"]
    assert "clang" in record["compiler"] and "-msimd128" in record["variants"]["simd"]["commands"][0]


@pytest.mark.skipif(not (ROOT / "csrc" / "web").is_dir(), reason="the sources are in the other package")
def test_the_digest_sees_code_and_not_comments():
    build = build_script()
    assert {path.name for path in build.inputs()} >= {"c_api.cpp", "team.cpp", "strips.h", "c_api.h"}
    plain = build.without_comments('int a = 1;\nchar *b = "// no";\n')
    assert build.without_comments('// x\nint a = 1; /* y\n z */\n\n  char *b = "// no";  // w\n') == plain
    assert build.without_comments('int a = 1;\nchar *b = "// yes";\n') != plain


@needs_browser
def test_every_control_draws_what_the_native_program_draws(browser, student, teacher, directions, tmp_path):
    options = PageOptions(directions=directions, names=("Age",), storage="float32", seeds=SEEDS, title="Faces <b>")
    page = export_web(student, tmp_path / "out.html", teacher, options)
    assert page == tmp_path / "out.html" and [path.name for path in tmp_path.iterdir()] == ["out.html"]
    browser.open(page.as_uri())
    assert_same(drawn(browser), expected(student, directions))
    assert browser.evaluate("document.title") == "Faces <b>"
    labels = browser.evaluate("[...document.querySelectorAll('#directions label')].map(l => l.textContent)")
    assert labels == ["Age", "Direction 2"]

    state = {}
    moves = {
        "psi": ("psi", 0.9), "morph": ("morph", 0.4), "direction-0": ("strengths", (1.5, 0.0)),
        "direction-1": ("strengths", (1.5, -2.0)),
    }  # fmt: skip
    assert set(moves) == set(browser.evaluate("[...document.querySelectorAll('input[type=range]')].map(i => i.id)"))
    for control, (name, value) in moves.items():
        state[name] = value
        slide(browser, control, value[int(control[-1])] if name == "strengths" else value)
        assert_same(drawn(browser), expected(student, directions, **state))
    click(browser, "#layers button:nth-child(3)")
    click(browser, "input[value=none]")
    state |= {"from_b": [2], "noise": "none"}
    assert_same(drawn(browser), expected(student, directions, **state))
    assert_same(drawn(browser, "teacher"), expected(teacher, directions, **state))

    press(browser, "r")
    press(browser, "ArrowRight")
    assert_same(drawn(browser), expected(student, directions, a=4))
    swipe = "document.querySelector('.pictures').dispatchEvent(new PointerEvent('{}', {{clientX: {}, clientY: 9}}))"
    browser.evaluate(f"{swipe.format('pointerdown', 90)}; {swipe.format('pointerup', 10)}")
    click(browser, "#swap")
    assert_same(drawn(browser), expected(student, directions, a=11, b=5))
    asked = browser.evaluate("+document.body.dataset.asked")
    press(browser, " ")
    more = f"+document.body.dataset.asked > {asked + 5}"
    browser.evaluate(f"new Promise(done => {{ const look = () => {more} ? done() : setTimeout(look, 9); look(); }})")
    press(browser, " ")

    assert browser.complaints() == []
    requested = {sent["request"]["url"].partition(":")[0] for sent in browser.named("Network.requestWillBeSent")}
    assert requested <= {"file", "blob", "data"}
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    browser.call("Emulation.clearDeviceMetricsOverride")


@needs_browser
def test_the_picture_is_saved_as_png(browser, student, directions, tmp_path):
    from PIL import Image

    browser.open(export_web(student, tmp_path / "out.html", options=PageOptions(directions=directions)).as_uri())
    pixels = drawn(browser)
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    click(browser, "#save")
    browser.evaluate("new Promise(done => setTimeout(done, 300))")
    assert (np.array(Image.open(tmp_path / "image-0.png").convert("RGBA")) == pixels).all()


OPENED = """const read = async name => new Uint8Array(await (await fetch(name)).arrayBuffer());
const runtime = await cagc.load({ module: name => read(`${name}.wasm`) }), file = await read("student.cagc");"""
BAD_CALLS = {
    "runtime.open(file.subarray(0, 999))": "truncated",
    "file[200] ^= 1; runtime.open(file)": "damaged",
    "runtime.open(file).map(cagc.latent(1, 31))": "z: got 31 numbers, expected 32",
    "runtime.open(file).draw(new Float32Array(5))": "ws: got 5 numbers",
    "runtime.open(file).draw(new Float32Array(320), { noise: 'loud' })": "noise: got loud",
}


def run_example(browser: Browser) -> np.ndarray:
    """Pixels that the example of docs/edge.md draws."""
    code = re.search(r"```js\n(.*?)```", (ROOT / "docs" / "edge.md").read_text(), re.S)[1]
    code = re.sub(r"import (.*?) from (.*?);", r"const \1 = await import(\2);", code)
    pixels = browser.evaluate(f"(async () => {{ {code} return [...image.data]; }})()")
    return np.array(pixels, dtype=np.int16).reshape(64, 64, 4)


@needs_browser
def test_the_folder_draws_with_threads_where_memory_is_shared(browser, student, directions, tmp_path):
    options = PageOptions(directions=directions, storage="float32", seeds=SEEDS)
    index = export_web(student, tmp_path / "site", options=options)
    assert index == tmp_path / "site" / "index.html"

    class Isolated(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript"}

        def end_headers(self):
            for line in (index.parent / "_headers").read_text().splitlines()[1:]:
                self.send_header(*line.strip().split(": "))
            super().end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Isolated, directory=str(index.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser.open(f"http://127.0.0.1:{server.server_port}/")
        assert_same(drawn(browser), expected(student, directions))
        about = browser.evaluate("document.getElementById('about').textContent")
        assert_same(run_example(browser), expected(student, directions))
        for call, message in BAD_CALLS.items():
            failing = f"import('./cagc.js').then(async cagc => {{ {OPENED} {call} }}).then(() => '', e => e.message)"
            assert message in browser.evaluate(failing)
        hosts = {sent["request"]["url"].split("/")[2] for sent in browser.named("Network.requestWillBeSent")}
    finally:
        server.shutdown()
    cores = browser.evaluate("navigator.hardwareConcurrency")
    assert ("threads" in about) == (cores > 1)
    assert hosts == {f"127.0.0.1:{server.server_port}"} and browser.complaints() == []


@needs_browser
@pytest.mark.parametrize(
    "before, after, message",
    [
        ("WebAssembly.validate(", "(() => false)(", "no SIMD instructions"),
        ('id="file-student">', 'id="file-student">1:', "Nothing can be drawn"),
    ],
)
def test_a_page_that_cannot_draw_says_why(browser, student, directions, tmp_path, before, after, message):
    page = export_web(student, tmp_path / "out.html", options=PageOptions(directions=directions))
    text = page.read_text()
    assert before in text
    page.write_text(text.replace(before, after))
    browser.open(page.as_uri())
    with pytest.raises(RuntimeError):
        drawn(browser)
    assert message in browser.evaluate("document.getElementById('notice').textContent")


@needs_browser
def test_a_page_without_a_mapping_network_draws_from_principal_components(browser, student, directions, tmp_path):
    options = PageOptions(directions=directions, mapping=False, seeds=SEEDS)
    browser.open(export_web(student, tmp_path / "out.html", options=options).as_uri())
    first = drawn(browser)
    press(browser, "ArrowRight")
    assert np.abs(first - drawn(browser)).mean() > 2
    assert "principal components" in browser.evaluate("document.getElementById('about').textContent")


def test_bad_requests_write_nothing(student, teacher, directions, tmp_path):
    other = make(9)
    (tmp_path / "file").touch()
    for match, call in {
        "names: got 3, expected at most 2": {"options": PageOptions(directions=directions, names="abc")},
        "seeds: got 1, expected at least 2": {"options": PageOptions(seeds=(1,))},
        "teacher: its mapping network": {"teacher": other},
        "directions: found with": {"options": PageOptions(directions=find_directions(other, 1, samples=9))},
    }.items():
        with pytest.raises(CagcError, match=match):
            export_web(student, tmp_path / "out.html", **call)
    with pytest.raises(CagcError, match="its architecture is sngan"):
        export_web(SNGANGenerator(SNGANConfig.uniform(width=4)), tmp_path / "out.html")
    with pytest.raises(CagcError, match="is a file, expected"):
        export_web(student, tmp_path / "file")
    with pytest.raises(CagcError, match="does not exist"):
        export_web(student, tmp_path / "none" / "out.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert fits_beside(student, teacher) and not fits_beside(student, other)


@needs_browser
def test_the_command_writes_what_opens(browser, student, teacher, tmp_path, capsys):
    for name, generator in {"student": student, "teacher": teacher}.items():
        save_generator(generator, tmp_path / f"{name}.safetensors")
    options = ["--generator", str(tmp_path / "student.safetensors"), "--teacher", str(tmp_path / "teacher.safetensors")]
    page = tmp_path / "out.html"
    command = [
        "export",
        "--web",
        str(page),
        *options,
        "--names",
        "Age",
        "--title",
        "Ours",
        "--licence",
        "CC0",
        "--seeds",
        "7,9",
    ]
    main(command)
    assert capsys.readouterr().out.split() == [str(page)]
    browser.open(page.as_uri())
    drawn(browser, "teacher")
    assert browser.evaluate("document.querySelector('#directions label').textContent") == "Age"
    assert browser.evaluate("document.title") == "Ours" and "CC0" in page.read_text()
    assert browser.evaluate("[...document.querySelectorAll('#strip button')].map(b => b.dataset.seed)") == ["7", "9"]
    for arguments, message in ((command, "add --overwrite"), (["export"], "got neither --out nor --web")):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err


def test_text_holds_bytes_of_every_kind():
    text = as_text(bytes(range(256)) * 3)
    length, digits = text.split(":", 1)
    assert "<" not in text and text.isprintable() and text.isascii()
    assert len(digits) == 2 * -(-8 * int(length) // 13)
