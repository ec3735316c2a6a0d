"""The table of code bases: each checkout's generator, drawn through its own code on these ops and on plain PyTorch.

``python -m cagc_kernels.compat --peers DIR`` prints it in Markdown for the checkouts in DIR. Nothing of them is kept,
but their code runs, so give it only what you trust.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ..backend import use_backend
from .hook import explain_install, install

NAMES = ("Generator", "StyleGAN2Generator")
# Constructor arguments by what the first parameter of __init__ is called, at 32 px so that a CPU takes moments.
ARGUMENTS = {"size": (32, 64, 2), "out_size": (32, 64, 2), "z_dim": (64, 0, 64, 32, 3)}
TIMEOUT = 120
HEADINGS = (
    "code base", "generator", "import without", "import with", "image", "gradient", "second gradient", "speed-up",
)  # fmt: skip


def table(folder: str) -> str:
    """Markdown lines for the checkouts, the folders in ``folder``.

    The differences are the largest of the image and of its first and second gradients in the latent, float64, over the
    largest value of plain PyTorch's. The speed-up is that of a float32 image over plain PyTorch's on this CPU.
    """
    rows = [row for checkout in sorted(Path(folder).iterdir()) if checkout.is_dir() for row in _rows(checkout)]
    lines = [HEADINGS, ("---",) * len(HEADINGS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(checkout: Path) -> Iterator[tuple[str, ...]]:
    found = list(_generators(checkout))
    for path, name in found:
        roots = [folder for folder in reversed(path.parents) if folder == checkout or checkout in folder.parents]
        tried = {}
        for root in roots:
            tried[root] = _ask(root, path, name, True)
            if "error" not in tried[root]:
                break
        root = root if "error" not in tried[root] else checkout
        report, without = tried[root], _ask(root, path, name, False)
        shown = [report.get(key, "") for key in ("image", "gradient", "second", "speed")]
        where = f"`{path.relative_to(checkout).as_posix()}`"
        yield checkout.name, where, without.get("error", "yes"), report.get("error", "yes"), *shown
    if not found:
        yield checkout.name, "none found", *[""] * (len(HEADINGS) - 2)


def _generators(checkout: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(checkout.rglob("*.py")):
        try:
            text = path.read_bytes()
            tree = ast.parse(text)  # of bytes, which may begin with a byte order mark
        except (OSError, SyntaxError, ValueError):
            continue
        if b"upfirdn2d" not in text and b"conv2d_resample" not in text:
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name in NAMES:
                yield path, node.name


def _ask(root: Path, path: Path, name: str, with_ours: bool) -> dict[str, str]:
    """What :func:`report` finds in a process of its own; {"error": one line} where it does not end well."""
    module = ".".join(path.relative_to(root).with_suffix("").parts)
    code = "import sys; from cagc_kernels.compat.peers import report; report(*sys.argv[1:])"
    command = [sys.executable, "-W", "ignore", "-c", code, str(root), module, name, "with" if with_ours else ""]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, cwd=root)
    except subprocess.TimeoutExpired:
        return {"error": f"more than {TIMEOUT} s"}
    lines = run.stdout.strip().splitlines()
    if run.returncode == 0 and lines:
        return json.loads(lines[-1])
    last = (run.stderr.strip().splitlines() or ["no output"])[-1]
    return {"error": last[:100].replace("|", "/").replace(str(root), "…")}


def report(root: str, module: str, name: str, with_ours: str) -> None:
    """Print what the generator ``name`` of ``module`` does, as JSON; raises what the code base raises."""
    sys.path.insert(0, root)
    if with_ours:
        install()
    cls = getattr(importlib.import_module(module), name)
    found = {}
    if with_ours:
        if "replaced" not in explain_install():
            raise RuntimeError("imports no op that is served")
        first = next(iter(inspect.signature(cls).parameters))
        if first not in ARGUMENTS:
            raise RuntimeError(f"imports; its first parameter is {first}, which this table cannot build")
        torch.manual_seed(0)
        found = _compare(cls(*ARGUMENTS[first]).eval(), first == "z_dim")
    print(json.dumps(found))


def _compare(generator: torch.nn.Module, is_nvlabs: bool) -> dict[str, str]:
    def draw(z):
        if is_nvlabs:
            return generator(z, None, noise_mode="const", force_fp32=True)
        return generator([z], randomize_noise=False)[0]

    z = torch.randn(2, 64)
    times: dict[str, list[float]] = {"kernels": [], "plain": []}
    with torch.no_grad():
        for _ in range(6):
            for key, backend in (("kernels", None), ("plain", "reference")):
                with use_backend(backend):
                    start = time.perf_counter()
                    draw(z)
                    times[key].append(time.perf_counter() - start)
    generator.double()
    with use_backend("reference"):
        plain = _derivatives(draw, z.double())
    ours = _derivatives(draw, z.double())
    errors = [float((a - b).abs().max() / b.abs().max().clamp_min(1e-300)) for a, b in zip(ours, plain, strict=True)]
    found = {key: f"{error:.1e}" for key, error in zip(("image", "gradient", "second"), errors, strict=True)}
    return {**found, "speed": f"{min(times['plain']) / min(times['kernels']):.2f}"}


def _derivatives(draw, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    z = z.clone().requires_grad_()
    image = draw(z)
    weights = torch.linspace(-1, 1, image.numel(), dtype=image.dtype).view_as(image)
    (gradient,) = torch.autograd.grad((image * weights).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), z)
    return image.detach(), gradient.detach(), second
