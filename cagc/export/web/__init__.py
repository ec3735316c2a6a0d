"""A page that draws with a student: one HTML file that opens from anywhere, or a folder for a web server.

The student runs in a Web Worker, as the C++ of ``csrc`` compiled to WebAssembly (``csrc/web/build.py``). In the single
file, weights and code are text (:func:`as_text`); the folder holds them as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ...common.errors import CagcError
from ...common.files import atomic_write, check_target
from ...editing.directions import Directions, find_directions, mapping_hash
from ...metrics.macs import total_macs, total_parameters
from ...models import AnyGenerator
from ..flat import FLAT_SUFFIX, flat_bytes
from .components import ComponentGenerator
from .parts import CODE, PAGE, VARIANTS, compiled_runtime, one_script, page_text
from .text import as_text

COMPONENTS = 128  # of w, from which images are drawn without a mapping network
DIRECTIONS = 8  # that are found where none are given
MOST_BESIDE = 8_000_000  # parameters of a teacher that a page carries without being asked to
THREADS = 4  # at most, where the browser shares memory between threads

# Content security policy: the page runs only what it holds, and makes no requests to other hosts.
_POLICY = {
    True: "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; worker-src blob:; "
    "style-src 'unsafe-inline'; img-src data: blob:",
    False: "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
    "style-src 'self'; img-src data: blob:",
}
# Threads need cross-origin isolation; static hosts that read a file "_headers" send these with the page.
_HEADERS = "/*\n  Cross-Origin-Opener-Policy: same-origin\n  Cross-Origin-Embedder-Policy: require-corp\n"


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What a page shows and holds.

    Attributes:
        directions: edit directions with a slider each; None finds some by PCA of w.
        names: of the directions; numbers where left out.
        mapping: carry the mapping network; without it images are drawn from :data:`COMPONENTS` principal components of
            w, as a Gaussian, which is not quite the distribution of the generator, and seeds mean other images.
        storage: of mapping and affine weights: "int8", "float16" or "float32".
        title: heading of the page.
        seeds: of the images that are shown; the first two are A and B.
        psi: truncation that the page starts with.
        licence: of the weights, shown and put into the flat files.
    """

    directions: Directions | None = None
    names: Sequence[str] = ()
    mapping: bool = True
    storage: str = "int8"
    title: str = ""
    seeds: Sequence[int] = tuple(range(12))
    psi: float = 0.7
    licence: str = ""


@dataclass(frozen=True)
class _Files:
    """What a page carries: "student", "teacher" and the variants of the runtime."""

    contents: dict[str, bytes]

    def names(self) -> dict[str, str]:
        """File name of each in the folder form."""
        return {name: f"{name}.wasm" if name in VARIANTS else f"{name}{FLAT_SUFFIX}" for name in self.contents}


def export_web(
    student: AnyGenerator, path: str | Path, teacher: AnyGenerator | None = None, options: PageOptions = PageOptions()
) -> Path:
    """Write a page that draws with ``student``, and return the file to open.

    Args:
        student: a generator that the flat file supports.
        path: ends in ``.html`` for a single file; otherwise a folder, made if it does not exist.
        teacher: drawn beside the student, with both times; it must have the student's mapping network and resolution.
        options: what the page shows.

    Raises:
        CagcError: the generators do not go together, the flat file does not support them, fewer than two seeds or more
            names than directions are given, the parent folder of ``path`` does not exist, or the package lacks the
            compiled runtime.
    """
    path = Path(path)
    single = path.suffix == ".html"
    check_target(path)
    if not single and path.exists() and not path.is_dir():
        raise CagcError(f"web: {path} is a file, expected a name that ends in .html, or a folder")
    files = _files(student, teacher, options, single)
    values = _page(student, teacher, options, files)
    if single:
        with atomic_write(path) as temporary:
            temporary.write_text(_render(single, values, files), encoding="utf-8", newline="\n")
        return path
    path.mkdir(exist_ok=True)
    contents = {files.names()[name]: data for name, data in files.contents.items()}
    contents |= {name: page_text(name).encode() for name in CODE}
    contents |= {"_headers": _HEADERS.encode(), "index.html": _render(single, values, files).encode()}
    for name, data in contents.items():
        with atomic_write(path / name) as temporary:
            temporary.write_bytes(data)
    return path / "index.html"


def fits_beside(student: AnyGenerator, teacher: AnyGenerator) -> bool:
    """Whether ``teacher`` is small enough to travel with ``student`` in a page, and can be drawn beside it."""
    try:
        _check_teacher(student, teacher)
    except CagcError:
        return False
    return total_parameters(teacher) <= MOST_BESIDE


def _files(student: AnyGenerator, teacher: AnyGenerator | None, options: PageOptions, single: bool) -> _Files:
    for name, generator in {"student": student, "teacher": teacher}.items():
        if generator is not None and (reason := _not_drawn(generator)):
            raise CagcError(f"web: the {name} cannot be drawn in a page: {reason}")
    directions = options.directions
    if directions is None:
        directions = find_directions(student, DIRECTIONS)
    directions.check(student)
    names = [*options.names, *(f"Direction {i + 1}" for i in range(len(options.names), len(directions)))]
    if len(options.names) > len(directions):
        raise CagcError(f"names: got {len(options.names)}, expected at most {len(directions)}, one for each direction")
    if len(options.seeds) < 2:
        raise CagcError(f"seeds: got {len(options.seeds)}, expected at least 2")
    if teacher is not None:
        _check_teacher(student, teacher)
    drawn: dict[str, Any] = {"student": student} | ({} if teacher is None else {"teacher": teacher})
    if not options.mapping:
        components = find_directions(student, COMPONENTS)
        drawn = {name: ComponentGenerator(generator, components) for name, generator in drawn.items()}
        directions = drawn["student"].directions(directions)
    carried = {"student": {"mapping": options.mapping, "directions": directions, "names": names}}
    contents = {
        # The student's mapping network serves the teacher too.
        name: flat_bytes(
            generator, storage=options.storage, licence=options.licence, **carried.get(name, {"mapping": False})
        )
        for name, generator in drawn.items()
    }
    variants = [name for name in VARIANTS if not (single and name == "threads")]  # files share no memory with threads
    return _Files(contents | {name: compiled_runtime(name) for name in variants})


def _not_drawn(generator: AnyGenerator) -> str | None:
    if not hasattr(generator, "not_compiled"):
        return f"its architecture is {generator.config.architecture}, expected stylegan2"
    return generator.not_compiled()


def _check_teacher(student: AnyGenerator, teacher: AnyGenerator) -> None:
    for name in ("img_resolution", "w_dim", "num_ws"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise CagcError(f"teacher: got {name} {theirs}, expected the student's {ours}")
    if mapping_hash(student) != mapping_hash(teacher):
        raise CagcError("teacher: its mapping network is not the student's, the same w means another image")


def _page(student: AnyGenerator, teacher: AnyGenerator | None, options: PageOptions, files: _Files) -> dict[str, Any]:
    """What the template shows."""
    size, macs = student.img_resolution, total_macs(student)
    summary = f"A StyleGAN2 student that draws {size} px images with {_macs(macs)} each"
    if teacher is not None:
        summary += f", {total_macs(teacher) / macs:.1f} times fewer than its teacher"
    about = f"The student's weights take {_mega(files.contents['student'])}"
    about += f", the teacher's {_mega(files.contents['teacher'])}." if teacher is not None else "."
    return {
        "title": options.title or ("Student and teacher" if teacher is not None else "A student in your browser"),
        "summary": summary + ".",
        "student": _described("Student", student),
        "teacher": None if teacher is None else _described("Teacher", teacher),
        "resolution": size,
        "psi": options.psi,
        "licence": options.licence,
        "version": __version__,
        "seeds": list(options.seeds),
        "about": about,
    }


def _described(name: str, generator: AnyGenerator) -> dict[str, str]:
    parameters = f"{total_parameters(generator) / 1e6:.1f} M parameters"
    return {"name": name, "cost": f"{_macs(total_macs(generator))}, {parameters}"}


def _macs(macs: int) -> str:
    return f"{macs / 1e9:.3g} G MACs" if macs >= 1e9 else f"{macs / 1e6:.3g} M MACs"


def _mega(data: bytes) -> str:
    return f"{len(data) / 1e6:.1f} MB"


def _render(single: bool, values: dict[str, Any], files: _Files) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only pages need it

    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    settings = {"single": single, "threads": THREADS, "files": files.names()}
    settings |= {name: values[name] for name in ("seeds", "about")}
    return environment.get_template("page.html.j2").render(
        values,
        single=single,
        policy=_POLICY[single],
        settings=json.dumps(settings).replace("<", "\\u003c"),
        style=page_text("style.css"),
        page=page_text("page.js"),
        worker=one_script("cagc.js", "worker.js"),
        files={name: as_text(data) for name, data in files.contents.items()} if single else {},
    )
