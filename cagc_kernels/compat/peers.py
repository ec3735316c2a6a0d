"""The table of code bases: each checkout's generator, run by its own code on these ops and on its own ops.

``python -m cagc_kernels.compat --peers DIR`` prints it in Markdown for the checkouts in DIR, row by row. Nothing of
them is kept, but their code runs, so use only checkouts that you trust.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Timer
from typing import NamedTuple

import torch

from . import trial
from .families import FILES
from .reading import Source

TIMEOUT = 120.0  # seconds of one process
ROUNDS = 6  # the first one is a warm-up
LONGEST = 60.0  # seconds of all rounds, after which three are enough
HEADINGS = {
    "code_base": "code base", "generator": "generator", "without": "import without", "with": "import with",
    "against": "compared with", "image": "image", "gradient": "gradient", "second": "second gradient",
    "speed": "speed-up",
}  # fmt: skip
Row = dict[str, str]


class Place(NamedTuple):
    """A class of a file, and the key of :data:`.trial.KINDS` by which it is built."""

    path: Path
    name: str
    kind: str


def heading() -> str:
    """Return the first two lines of the table."""
    return f"{line(HEADINGS)}\n{line(dict.fromkeys(HEADINGS, '---'))}"


def line(row: Row) -> str:
    """Format a row in Markdown."""
    return f"| {' | '.join(row.get(key, '') for key in HEADINGS)} |"


def rows(folder: str | Path, timeout: float = TIMEOUT, speed: bool = False) -> Iterator[Row]:
    """Yield a row for each checkout, which are the folders in ``folder``.

    The differences are the largest ones of the image and of its first and second gradients with respect to the latent,
    in float64, relative to the largest value. They are compared with the code base's own functions on the CPU, without
    its extension, or with our reference where it has none. ``speed`` adds the speed-up of a float32 image of 128 px,
    from the fastest of five rounds in turns, or of two if they take a minute. A process is stopped if it has no answer
    for ``timeout`` seconds.
    """
    for checkout in sorted(path for path in Path(folder).iterdir() if path.is_dir()):
        found = [_row(checkout, generator, timeout, speed) for generator in _generators(checkout)]
        # Generators that use none of the ops have no row; a folder of ops without a known generator has one.
        served = [row for row in found if not row["with"].endswith(trial.NO_OP)]
        for path in () if served else _folders_of_ops(checkout):
            served.append(_row(checkout, Place(path, trial.OPS, trial.OPS), timeout, speed))
        yield from served or [{**_named(checkout), "generator": "none found"}]


def _named(checkout: Path) -> Row:
    run = subprocess.run(["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {"code_base": checkout.name, "commit": run.stdout.strip()}


def _row(checkout: Path, place: Place, timeout: float, speed: bool) -> Row:
    path = place.path
    roots = _roots(checkout, path)
    tried: dict[Path, Row] = {}
    for root in roots:
        with tempfile.TemporaryDirectory() as scratch:
            tried[root] = _tried(root, place, Path(scratch), timeout, speed)
        if tried[root]["with"] == "yes":
            break
    else:  # of a folder that is not the right one, it says that a module is missing
        root = next((root for root in roots if "ModuleNotFoundError" not in tried[root]["with"]), roots[0])
    with _Process(root, place, "bare", os.devnull, timeout) as without:
        error = without.error()
    shown = f"`{path.relative_to(checkout).as_posix()}`" + (", ops alone" if place.name == trial.OPS else "")
    return {**_named(checkout), "generator": shown, "without": error or "yes", **tried[root]}


def _roots(checkout: Path, path: Path) -> list[Path]:
    """Return the folders that ``path`` may be imported from: first those with most of the modules that it imports."""
    tree = ast.parse(path.read_bytes())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    tops = {name.partition(".")[0] for name in names}
    folders = [folder for folder in reversed(path.parents) if folder == checkout or checkout in folder.parents]
    return sorted(folders, key=lambda f: -sum((f / top).is_dir() or (f / f"{top}.py").is_file() for top in tops))


def _tried(root: Path, place: Place, scratch: Path, timeout: float, speed: bool) -> Row:
    with ExitStack() as stack:

        def start(mode: str) -> _Process:
            return stack.enter_context(_Process(root, place, mode, str(scratch / mode), timeout))

        ours = start("kernels")
        if error := ours.error():
            return {"with": error}
        theirs, against = start("own"), "its own"
        if theirs.error():
            theirs, against = start("reference"), "our reference"
            if error := theirs.error():
                return {"with": "yes", "against": error}
        found = {"with": "yes", "against": against} | _differences(torch.load(ours.out), torch.load(theirs.out))
        if speed and (ratio := _speed_up(ours, theirs)):
            found["speed"] = ratio
        return found


def _speed_up(ours: _Process, theirs: _Process) -> str | None:
    """Return the ratio of the fastest images of rounds in turns; None if a process has ended."""
    rounds: list[tuple[float, float]] = []
    while len(rounds) < ROUNDS and (len(rounds) < 3 or sum(map(sum, rounds)) < LONGEST):
        ours_took, theirs_took = ours.seconds(), theirs.seconds()
        if ours_took is None or theirs_took is None:
            return None
        rounds.append((ours_took, theirs_took))
    ours_least, theirs_least = map(min, zip(*rounds[1:], strict=True))
    return f"{theirs_least / ours_least:.2f}"


def _differences(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> Row:
    found = {}
    for key, a, b in zip(("image", "gradient", "second"), ours, theirs, strict=True):
        same = a.shape == b.shape
        error = float((a - b).abs().max() / b.abs().max().clamp_min(1e-300)) if same else float("nan")
        found[key] = f"{error:.1e}" if same else f"{list(a.shape)} for {list(b.shape)}"
    return found


class _Process:
    """A running :mod:`.trial`, killed at the end of the block or if an answer takes more than ``timeout`` seconds."""

    def __init__(self, root: Path, place: Place, mode: str, out: str, timeout: float) -> None:
        module = ".".join(place.path.relative_to(root).with_suffix("").parts)
        # Not started by -m, which would search the folder of the code base before Python's own modules.
        code = f"import sys; from {trial.__name__} import main; main(*sys.argv[1:])"
        command = [sys.executable, "-W", "ignore", "-c", code, str(root), module, place.name, place.kind, mode, out]
        environment = {**os.environ, "CAGC_BACKEND": "reference"} if mode == "reference" else None
        self.out, self._root, self._timeout, self._errors = out, root, timeout, tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=root,
            env=environment,
        )  # fmt: skip
        self._timer = self._limit()
        self._error: str | None = None
        self._asked = False

    def _limit(self) -> Timer:
        timer = Timer(self._timeout, self._process.kill)
        timer.start()
        return timer

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def error(self) -> str | None:
        """Wait until the image is drawn; return the reason in one line if it was not."""
        if self._asked:
            return self._error
        self._asked = True
        imported = ""
        for answer in self._process.stdout:
            if answer.strip() == trial.IMPORTED:
                imported = "yes, then "
            if answer.strip() == trial.READY:  # code bases print other lines
                return None
        self._process.wait()
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or ["no output"])[-1]
        late = self._process.returncode == -9 and not self._timer.is_alive()
        self._error = imported + (f"more than {self._timeout:.0f} s" if late else _shortened(last, self._root))
        return self._error

    def seconds(self) -> float | None:
        """Return the time of one more image, or None if the process has ended or takes too long."""
        self._timer.cancel()
        self._timer = self._limit()
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            return float(self._process.stdout.readline())
        except (OSError, ValueError):
            return None


def _shortened(text: str, root: Path) -> str:
    return text.replace("|", "/").replace(str(root), "…")[:100]


def _generators(checkout: Path) -> Iterator[Place]:
    for path in sorted(checkout.rglob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())  # bytes, because the file may begin with a byte order mark
        except (OSError, SyntaxError, ValueError):
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name in trial.NAMES:
                first = _first_parameter(node)
                if first and (kind := trial.kind_of(node.name, first)):
                    yield Place(path, node.name, kind)


def _first_parameter(node: ast.ClassDef) -> str | None:
    for function in node.body:
        if isinstance(function, ast.FunctionDef) and function.name == "__init__":
            return function.args.args[1].arg if len(function.args.args) > 1 else None
    return None


def _folders_of_ops(checkout: Path) -> Iterator[Path]:
    """Yield the file upfirdn2d.py of each folder of ops."""
    for path in sorted(checkout.rglob("upfirdn2d.py")):
        try:
            source = Source(str(path))
        except (OSError, SyntaxError, ValueError):
            continue
        if source.families and source.names & FILES["upfirdn2d"].keys():
            yield path
