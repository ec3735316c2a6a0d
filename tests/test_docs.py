"""README and docs/ are right: links exist, commands and options exist, code runs."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import rsqrt
from torch.nn.functional import conv_transpose2d, leaky_relu

import cagc_kernels
from cagc.checkpoints import convert, save_generator
from cagc.cli import main
from cagc.models import Generator, GeneratorConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", README, re.S)


def anchor(title: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if fragment:
            assert fragment in {anchor(title) for title in re.findall(r"(?m)^#+ (.+)$", file.read_text())}, target


def test_the_readme_lists_every_page():
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in README, page.name


def test_commands_and_their_options_exist(capsys):
    helped: dict[str, str] = {}

    def help_of(command: str) -> str:
        if command not in helped:
            with pytest.raises(SystemExit):
                main([command, "--help"])
            helped[command] = capsys.readouterr().out
        return helped[command]

    found = 0
    for page in PAGES:
        for command, rest in re.findall(r"\bcagc ([a-z]+)((?: +[^\s`|]+)*)", page.read_text()):
            options = re.findall(r"(?<!\S)--[a-z][\w.-]*", rest)
            if options:
                found += 1
                missing = [option for option in options if f"{option.rstrip('.,')}" not in help_of(command) + "--help"]
                assert not missing, (page.name, command, missing)
    assert found > 5


def test_modules_and_scripts_exist():
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"python -m ([\w.]+)", text):
            assert find_spec(name), (page.name, name)
        for name in re.findall(r"(?:python |pytest |`|\s)((?:benchmarks|tools|tests|\.ci)/[\w/.-]+\w)", text):
            assert (ROOT / name.removesuffix("/DEVICE")).exists(), (page.name, name)


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    g = Generator(GeneratorConfig.uniform(16, 2048, 64, style_dim=16, mapping_layers=2))
    save_generator(g, tmp_path / "g.safetensors")
    convert(tmp_path / "g.safetensors", tmp_path / "stylegan2-ffhq-256.pt")
    (code,) = (block for block in CODE if block.startswith("import cagc\n"))
    names: dict = {}
    exec(code.replace("samples=400", "samples=2"), names)
    z = torch.randn(1, 16)
    expected = names["student"](z, noise="const")
    for student in (names["fast"], lambda z: names["small"](z, noise="const")):
        torch.testing.assert_close(student(z), expected, rtol=1e-3, atol=1e-4)


def test_the_layer_is_what_the_readme_says_it_is():
    f = cagc_kernels.setup_filter([1, 3, 3, 1])
    shapes = {"x": (2, 5, 8, 8), "weight": (6, 5, 3, 3), "styles": (2, 5), "bias": (6,), "noise": (2, 1, 16, 16)}
    names = {name: torch.randn(shape) for name, shape in shapes.items()}
    names |= {"f": f, "rsqrt": rsqrt, "conv_transpose2d": conv_transpose2d, "leaky_relu": leaky_relu}
    call, equivalent = (block for block in CODE if "\ny = " in block or block.startswith("y = "))
    exec(call, names)
    found = names["y"]
    exec(equivalent, names)
    torch.testing.assert_close(found, names["y"], rtol=1e-4, atol=1e-5)


def test_the_ops_of_others_are_replaced_as_the_readme_says(tmp_path, monkeypatch):
    (code,) = (block for block in CODE if "compat" in block)
    package = tmp_path / "readme_model" / "op"
    package.mkdir(parents=True)
    (package / "fused_act.py").write_text("raise OSError('no compiler')")
    (package / "upfirdn2d.py").write_text("raise OSError('no compiler')")
    monkeypatch.syspath_prepend(tmp_path)
    names: dict = {}
    exec(code, names)
    try:
        exec("from readme_model.op.upfirdn2d import upfirdn2d", names)
    finally:
        cagc_kernels.compat.uninstall()
    assert names["upfirdn2d"](torch.ones(1, 1, 2, 2), torch.ones(1, 1)).equal(torch.ones(1, 1, 2, 2))
    assert "readme_model.op.upfirdn2d" not in sys.modules


def test_every_op_has_a_section_and_the_snippets_of_the_ops_run():
    page = (ROOT / "docs" / "ops.md").read_text()
    titles = " ".join(re.findall(r"(?m)^## (.+)$", page))
    for op in cagc_kernels.__all__:
        if op not in ("__version__", "BACKENDS", "explain", "use_backend", "verify", "without_packing"):
            assert op in titles, op
    blocks, names = re.findall(r"```python\n(.*?)```", page, re.S), {}
    for block in blocks:
        exec(block, names)
    assert sum("assert" in block for block in blocks) >= 5
