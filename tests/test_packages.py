"""The files, licences and requirements of the two packages."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    pytest.skip("the tools of the packages need tomllib", allow_module_level=True)

from tools.wheels import split  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
KERNELS, REST, WHOLE = split.kernels(), split.rest(), split.whole()
PAGE = (ROOT / "ATTRIBUTION.md").read_text()


def requirements() -> list[str]:
    project = WHOLE["project"]
    return [*project["dependencies"], *(r for found in project["optional-dependencies"].values() for r in found)]


def test_every_dependency_is_bounded_and_its_licence_told():
    own = [r for r in requirements() if not r.startswith("cagc[")]
    assert len(own) > 20
    for requirement in own:
        exact, below = "==" in requirement, ">=" in requirement and "<" in requirement
        assert exact or below, requirement
    extras = WHOLE["project"]["optional-dependencies"]
    used = [
        *WHOLE["project"]["dependencies"],
        *(r for name in ("triton", "metrics", "export", "video") for r in extras[name]),
    ]
    for requirement in used:
        assert re.search(rf"(?m)^\|[^|]*\b{re.escape(split.name_of(requirement))}\b", PAGE), requirement


def test_licences_are_those_of_the_files_shipped():
    texts = {path.stem for path in (ROOT / "LICENSES").iterdir()} | {"MIT"}
    for document, names in ((KERNELS, split.files()["cagc-kernels"]), (REST, split.files()["cagc"])):
        said = set(document["project"]["license"].split(" AND "))
        assert said <= texts
        assert said == {Path(name).stem for name in names if name.startswith("LICENSES/")} | {"MIT"}
    assert set(WHOLE["project"]["license"].split(" AND ")) == texts
    assert "Nvidia" not in KERNELS["project"]["license"] and "Nvidia" in REST["project"]["license"]


def test_each_asset_is_attributed_and_each_that_a_function_opens_is_shipped():
    shipped = {
        pattern.split("/")[1] for pattern in WHOLE["tool"]["setuptools"]["package-data"]["cagc"] if "/" in pattern
    }
    code = (ROOT / "cagc" / "assets" / "__init__.py").read_text()
    for folder in (path.name for path in (ROOT / "cagc" / "assets").iterdir() if path.is_dir() and path.name[0] != "_"):
        assert folder in PAGE, folder
        assert (folder in shipped) == (f'"{folder}"' in code), folder
        assert (ROOT / "cagc" / "assets" / folder / "PROVENANCE.md").is_file()


def test_the_two_packages_hold_everything_once():
    found, everything = split.files(), set(split.tracked())
    code = {
        name: {n for n in names if n.split("/")[0] in ("cagc", "cagc_kernels", "csrc")} for name, names in found.items()
    }
    assert not code["cagc"] & code["cagc-kernels"]
    left = everything - {*found["cagc"], *found["cagc-kernels"]}
    assert not left, left
    assert not any("assets" in name for name in found["cagc-kernels"])
    packages = {name.split("/")[0] for name in everything if name.endswith("/__init__.py")}
    included = [d["tool"]["setuptools"]["packages"]["find"]["include"] for d in (KERNELS, REST)]
    assert {name.partition(".")[0] for names in included for name in names} == packages - {"tests", "benchmarks"}
    assert not set(included[0]) & set(included[1])
    assert "tests/kernels/test_bias_act.py" in found["cagc-kernels"]
    assert "tests/kernels/test_nan.py" not in found["cagc-kernels"], "it imports cagc"


def test_each_package_asks_for_the_other_or_for_little():
    assert {split.name_of(r) for r in KERNELS["project"]["dependencies"]} == {"torch", "numpy", "nvtx"}
    assert REST["project"]["dependencies"][0] == f"cagc-kernels=={split.version()}"
    assert "pybind11>=2.13" in KERNELS["build-system"]["requires"]
    assert not [r for r in REST["build-system"]["requires"] if "pybind11" in r]


def test_the_source_distribution_takes_every_file(monkeypatch):
    filelist = pytest.importorskip("setuptools.command.egg_info")
    monkeypatch.chdir(ROOT)
    chosen = filelist.FileList()
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        chosen.process_template_line(line)
    assert not set(split.tracked()) - {*chosen.files, "MANIFEST.in"}  # itself is always taken
    assert not [name for name in chosen.files if name.endswith((".pyc", ".so"))]


def test_wheels_are_built_for_every_python_that_is_supported():
    wheels = WHOLE["tool"]["cibuildwheel"]
    assert [name[2:5] for name in wheels["build"].split()] == ["310", "311", "312", "313", "314"]
    assert wheels["linux"]["archs"] == ["x86_64", "aarch64"]
    assert "verify --quick" in wheels["test-command"]


def test_what_is_installed_lies_within_the_bounds():
    from packaging.requirements import Requirement  # pytest needs it

    found = 0
    for text in [r for r in requirements() if not r.startswith("cagc[")]:
        requirement = Requirement(text)
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            continue
        found += 1
        assert requirement.specifier.contains(installed, prereleases=True), (text, installed)
    assert found >= len(WHOLE["project"]["dependencies"])
