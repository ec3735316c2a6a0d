"""Rules of the repository: import directions, places of kernels, lengths of functions and files."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cagc_kernels
from cagc_kernels import backend, ops

from . import architecture

ROOT = Path(__file__).resolve().parents[1]
MAX_FUNCTION, MAX_FILE, MAX_LINE, MAX_BYTES = 60, 400, 120, 16 * 2**20
# Each package may import itself and those before it.
LAYERS = ("cagc_kernels", "cagc", "benchmarks", "tests")


def tracked(*patterns: str) -> list[Path]:
    """Return the files that git tracks or would track, so that new files are checked before they are committed."""
    environments = [f"--exclude=/{path.parent.name}/" for path in ROOT.glob("*/pyvenv.cfg")]
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", *environments]
    command += ["--", *patterns]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


PYTHON = tracked("*.py")
NATIVE = tracked("csrc/*.h", "csrc/*.cpp", "csrc/*.cu")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_files() -> list[Path]:
    return [path for path in tracked() if b"\0" not in path.read_bytes()[:4096]]


def imported_packages(tree: ast.AST) -> set[str]:
    """Top-level names of every absolute import, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_the_lists_are_not_empty():
    assert len(PYTHON) > 20 and len(NATIVE) >= 4


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_imports_to_its_left(layer):
    later = set(LAYERS[LAYERS.index(layer) + 1 :])
    for path in PYTHON:
        if relative(path).split("/")[0] == layer:
            assert not imported_packages(ast.parse(path.read_text())) & later, relative(path)


def test_no_import_cycles():
    """Without cycles any module can be imported first. Lazy imports inside functions count."""
    assert architecture.import_cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b": {"c"}, "c": {"b"}}
    found = {}
    for path in PYTHON:
        if relative(path).split("/")[0] in ("cagc", "cagc_kernels"):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    known = set(found)
    assert not architecture.import_cycles({name: architecture.imports(name, found[name], known) for name in known})


# Modules that read or write other code bases' networks may use the names of their layers.
READERS = re.compile(r"cagc/(?:models/|checkpoints|nvlabs|rosinality|state_dicts)|benchmarks/(?:peers|grouped)\.py")


def test_only_the_models_know_architectures():
    """Other code uses ``config.layers()``, and neither the class of a network nor the name of a layer."""
    models = architecture.classes([path for path in PYTHON if relative(path).startswith("cagc/models/")])
    found = []
    for path in PYTHON:
        if relative(path).startswith(("cagc/", "benchmarks/")) and not READERS.match(relative(path)):
            tree = ast.parse(path.read_text())
            lines = sorted({*architecture.asks_for_class(tree, models), *architecture.takes_name_apart(tree)})
            found += [f"{relative(path)}:{line}" for line in lines]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(x, models.Generator)", "isinstance(x, (int, Generator))", "type(x) is Generator",
        "match x:\n case Generator(): pass", "@f.register\ndef _(x: Generator): pass",
        "name.split('.')[0]", "name.endswith('conv1')", "name.replace('conv1', 'to_rgb')", "'affine' in name",
        "re.match(r'b(\\d+)', name)", "f'b{r}.conv1'", "getattr(x, f'b{r}')", "config.channels['b4.const']",
    ],
)  # fmt: skip
def test_questions_about_architectures_are_found(code):
    tree = ast.parse(code)
    assert [*architecture.asks_for_class(tree, {"Generator"}), *architecture.takes_name_apart(tree)]


def test_only_the_binding_knows_python():
    for path in NATIVE:
        if not path.name.startswith("module"):
            found = re.findall(r"(?i)#\s*include\s*[<\"](?:torch|ATen|c10|pybind11|Python\.h)", path.read_text())
            assert not found, relative(path)


def test_op_stems_stand_in_every_backend_that_claims_them():
    for name, stems in backend.IMPLEMENTS.items():
        for stem in stems:
            assert (ROOT / "cagc_kernels" / name / f"{stem}.py").is_file(), (name, stem)
            assert (ROOT / "cagc_kernels" / "ops" / f"{stem}.py").is_file(), stem
    for stem in backend.IMPLEMENTS["native"]:
        if stem == "modulated_conv2d":  # PyTorch's convolution, and the epilogue
            continue
        for file in (f"include/cagc/{stem}.h", f"cpu/{stem}.cpp", f"cuda/{stem}.cu"):
            assert (ROOT / "csrc" / file).is_file(), file


def test_one_version():
    found = [
        relative(path)
        for path in text_files()
        if re.search(rf"(?<![\d.]){re.escape(cagc_kernels.__version__)}(?![\d.])", path.read_text(errors="ignore"))
        and path.suffix not in (".md", ".json", ".jsonl")  # a changelog and results name the version they are about
    ]
    assert found == ["cagc_kernels/__init__.py"]


def test_importing_compiles_nothing_and_is_light():
    code = (
        "import subprocess, os\n"
        "def refuse(*a, **k): raise SystemExit(f'importing started a process: {a}')\n"
        "subprocess.Popen.__init__ = refuse; os.system = refuse; os.posix_spawn = refuse\n"
        "import cagc, sys\n"
        "heavy = {'jinja2', 'PIL', 'tensorboard', 'matplotlib'} & set(sys.modules)\n"
        "if heavy: raise SystemExit(f'import cagc imports {heavy}')\n"
        "import cagc.cli, cagc_kernels, cagc_kernels.ops\n"
        "slow = {'torch.utils.cpp_extension', 'torch._dynamo', 'scipy.optimize'} & set(sys.modules)\n"
        "raise SystemExit(f'importing imports {slow}' if slow else 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_functions_and_files_are_short():
    long = [f"{relative(p)}: {n} lines" for p in PYTHON + NATIVE if (n := len(p.read_text().splitlines())) > MAX_FILE]
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                if length > MAX_FUNCTION:
                    long.append(f"{relative(path)}:{node.lineno} {node.name}: {length} lines")
    assert not long, "\n".join(long)


def test_lines_are_not_too_wide():
    wide = [
        f"{relative(path)}:{i}"
        for path in PYTHON + NATIVE
        for i, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > MAX_LINE
    ]
    assert not wide, "\n".join(wide)


def test_no_private_paths():
    # Spelled so that this file does not contain them.
    private = re.compile(r"/[w]ork/|/[r]oot/|/[f]arm/|/\.[l]ibrary")
    found = [relative(path) for path in text_files() if private.search(path.read_text(errors="ignore"))]
    assert not found


def test_no_large_files():
    large = [f"{relative(path)}: {size}" for path in tracked() if (size := path.stat().st_size) > MAX_BYTES]
    assert not large


@pytest.mark.parametrize("name", sorted(ops.__all__))
def test_public_ops_are_documented_and_take_a_backend(name):
    function = getattr(ops, name)
    assert inspect.getdoc(function) and getattr(cagc_kernels, name) is function
    signature = inspect.signature(function)
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    if name != "setup_filter":
        assert list(signature.parameters)[-1] == "backend"
        assert signature.parameters["backend"].default is None
