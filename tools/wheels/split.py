"""Cut the two packages out of this repository: cagc-kernels, and cagc that needs it and compiles nothing.

    python tools/wheels/split.py OUT    # OUT/cagc-kernels and OUT/cagc, each a source tree that builds

What differs from the pyproject.toml of the repository, by which both are one package, is said there in
[tool.cagc.kernels]. Needs Python 3.11 and tomli_w.
"""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[2]
Document = dict[str, object]


def name_of(requirement: str) -> str:
    """The package that a requirement such as "numpy>=1.26,<3" is about."""
    return re.match(r"[\w.-]+", requirement)[0]


def version() -> str:
    """``cagc_kernels.__version__``, read without an import."""
    return re.search(r'__version__ = "([^"]+)"', (ROOT / "cagc_kernels" / "__init__.py").read_text())[1]


def whole() -> Document:
    """pyproject.toml of the repository."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def kernels() -> Document:
    """pyproject.toml of cagc-kernels."""
    document = copy.deepcopy(whole())
    project, tool = document["project"], document["tool"]
    chosen = tool.pop("cagc")["kernels"]
    extras = project["optional-dependencies"]
    needed = [r for r in project["dependencies"] if name_of(r) in chosen["dependencies"]]
    project |= {key: chosen[key] for key in ("description", "license")}
    project |= {"name": "cagc-kernels", "readme": "docs/ops.md", "dependencies": needed}
    project["optional-dependencies"] = {name: extras[name] for name in chosen["extras"]}
    found = (name for name in chosen["own"] if (ROOT / name / "__init__.py").is_file())
    packages = [pattern for name in found for pattern in (name, f"{name}.*")]
    del project["scripts"], tool["setuptools"]["py-modules"], tool["setuptools"]["package-data"]["cagc"]
    tool["setuptools"]["packages"]["find"]["include"] = packages
    return document


def rest() -> Document:
    """pyproject.toml of cagc, whose kernels are cagc-kernels of the same version."""
    document = copy.deepcopy(whole())
    project, tool = document["project"], document["tool"]
    del tool["cagc"], tool["cibuildwheel"], tool["setuptools"]["dynamic"], project["dynamic"]
    del tool["setuptools"]["package-data"]["cagc_kernels"]
    project["version"] = version()
    project["license"] = project["license"].replace(" AND BSD-3-Clause", "")
    project["dependencies"] = [f"cagc-kernels=={version()}", *project["dependencies"]]
    document["build-system"]["requires"] = [r for r in document["build-system"]["requires"] if "setuptools" in r]
    tool["setuptools"]["packages"]["find"]["include"] = ["cagc", "cagc.*"]
    return document


def tracked() -> list[str]:
    """Files of the repository, or of the source distribution that this is."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
        return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()]


def _below(name: str, folders: Iterable[str]) -> bool:
    return any(name == folder or name.startswith(f"{folder}/") for folder in folders)


def _of_cagc(names: Iterable[str]) -> set[str]:
    """Those of the tests ``names`` that import cagc, or name a neighbour which does."""
    texts = {name: (ROOT / name).read_text() for name in names if name.startswith("tests/") and name.endswith(".py")}
    found = {name for name, text in texts.items() if re.search(r"(?m)^\s*(from|import) cagc\b", text)}
    while True:
        modules = [re.escape(name.removesuffix(".py").replace("/", ".")) for name in found]
        more = (
            {name for name, text in texts.items() if re.search(rf"\b({'|'.join(modules)})\b", text)} if found else set()
        )
        if more <= found:
            return found
        found |= more


def files() -> dict[str, list[str]]:
    """The files of each package. Tests of kernels that need a generator of cagc are cagc's."""
    chosen, names = whole()["tool"]["cagc"]["kernels"], tracked()
    listed = [name for name in names if _below(name, [*chosen["own"], *chosen["files"]])]
    tests = _of_cagc(listed)
    others = [name for name in names if not _below(name, [*chosen["own"], "LICENSES/BSD-3-Clause.txt"])]
    return {"cagc-kernels": [name for name in listed if name not in tests], "cagc": others}


def split(out: Path) -> dict[str, Path]:
    """Write both source trees below ``out``; {package: its folder}. Raises FileExistsError if one is there."""
    import tomli_w

    documents, found = {"cagc-kernels": kernels(), "cagc": rest()}, {}
    for package, names in files().items():
        folder = found[package] = out / package
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        (folder / "pyproject.toml").write_text(tomli_w.dumps(documents[package]))
        (folder / "MANIFEST.in").write_text("".join(f"include {name}\n" for name in names if " " not in name))
    return found


if __name__ == "__main__":
    for package, folder in split(Path(sys.argv[1])).items():
        print(package, folder)
