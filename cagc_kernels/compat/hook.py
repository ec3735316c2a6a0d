"""Finds the op modules of code bases, on import or among the imported ones, and sets our functions in them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec
from inspect import Signature, signature
from types import ModuleType

from .families import CARRIERS, FILES, LEFT, NETWORKS, PACKAGES, Layer, Op, file_key, follow, unserved
from .reading import Source, Unbuilt

_OWN = __name__.partition(".")[0]
_ABSENT = object()


class Installation:
    """The result of :func:`install`: a context manager that calls :func:`uninstall`."""

    def __enter__(self) -> Installation:
        return self

    def __exit__(self, *_: object) -> None:
        uninstall()


class _State:
    """The state of the installation: its depth, what was replaced, and how to undo it."""

    def __init__(self) -> None:
        self.depth = 0
        self.axes: dict[str, int | None] = {}  # bias axis by named package
        self.before: set[str] = set()  # modules imported before the installation
        self.undo: list[Callable[[], None]] = []
        self.theirs: dict[int, tuple[object, object]] = {}  # {id of ours: (ours, theirs)}
        self.incomplete: set[str] = set()  # modules that ran without their extension
        self.told: dict[str, list[str]] = {}  # {module: lines of explain_install}
        self.keeps_theirs = False

    def named(self, module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in (*self.axes, *PACKAGES))

    def axis(self, module: str) -> int | None:
        return next((axis for name, axis in self.axes.items() if module == name or module.startswith(f"{name}.")), None)


_state = _State()


def install(package: str | None = None, bias_axis: int | None = None) -> Installation:
    """Replace the functions of every copy of the known ops by ours, in imported modules and in future imports.

    A copy is recognised by the name of its file (fused_act, upfirdn2d, bias_act, ...), by what the file defines and by
    the files beside it. Its own file runs, except for the compilation of its extension; then its functions are replaced
    by ours under their own signatures. They are also replaced in other modules that imported them.

    Args:
        package: dotted name of a package or module whose files are always tried, whatever lies beside them.
        bias_axis: for ``package``, the axis of [N, L, C] along which fused_leaky_relu adds a bias: 1 or -1. None: the
            axis that the source of the copy shows; else axis 1, or the last axis if only that fits.

    Returns:
        A context manager that calls :func:`uninstall`. Installing repeatedly nests: it ends after as many calls.

    Raises:
        TypeError, ValueError: an argument is not as above.
        ImportError: ``package`` cannot be found, or importing a package above it fails. Nothing is changed then.
    """
    if package is None and bias_axis is not None:
        raise ValueError(f"bias_axis: got {bias_axis!r} without a package, expected None or the name of a package")
    if bias_axis not in (None, 1, -1) or isinstance(bias_axis, bool):
        raise ValueError(f"bias_axis: got {bias_axis!r}, expected 1, -1 or None")
    first = _state.depth == 0
    if first:
        _state.before = set(sys.modules)
        sys.meta_path.insert(0, _FINDER)
    try:
        if package is not None:
            _check_package(package)
            _state.axes[package] = bias_axis
    except BaseException:
        if first:
            sys.meta_path.remove(_FINDER)
        raise
    _state.depth += 1
    _fill_imported()
    return Installation()


def uninstall() -> None:
    """Undo one :func:`install`; the last call restores the copies' functions and drops modules that ran incompletely.

    A name that a module imported with ``from ... import`` during the installation keeps our function.

    Raises RuntimeError if nothing is installed.
    """
    global _state
    if not _state.depth:
        raise RuntimeError("cagc_kernels.compat: uninstall without install")
    _state.depth -= 1
    if _state.depth:
        return
    sys.meta_path.remove(_FINDER)
    for undo in reversed(_state.undo):
        undo()
    _forget()
    _state = _State()


def explain_install() -> str:
    """Return lines for each op module met since :func:`install`: what was replaced, what was left alone, and why."""
    if not _state.depth:
        return "cagc_kernels.compat: not installed"
    lines = [f"cagc_kernels.compat: installed, {len(_state.told) or 'no'} op modules met"]
    for name, told in sorted(_state.told.items()):
        lines += [f"  {name}", *(f"    {line}" for line in told)]
    return "\n".join(lines)


def keep_theirs(keep: bool) -> None:
    """Let modules imported from now on run without their extension but keep their own functions, for comparisons.

    It ends with the installation.
    """
    _state.keeps_theirs = keep


def serves(package: str) -> bool:
    """Whether ``package`` can be found, and a file directly in it has functions that would be replaced."""
    spec = sys.modules[package].__spec__ if package in sys.modules else find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = [f"{folder}/{file}.py" for folder in folders for file in FILES if file != "conv2d_gradfix"]
    for path in files:
        try:
            if isinstance(_judge(Source(path), path.rpartition("/")[2][:-3], True), set):
                return True
        except (OSError, SyntaxError, ValueError):
            continue
    return False


def _check_package(package: object) -> None:
    if not isinstance(package, str):
        raise TypeError(f"package: got {type(package).__name__}, expected a dotted name")
    if package in sys.modules:
        return
    try:
        found = find_spec(package)
    except Exception as error:  # the packages above it run, and may raise anything
        raise ImportError(
            f"package: got {package!r}, which cannot be reached ({type(error).__name__}: {error}); "
            "expected a package whose parents can be imported"
        ) from error
    if found is None:
        raise ModuleNotFoundError(f"package: got {package!r}, expected a package or module on sys.path", name=package)


def _judge(source: Source, stem: str, named: bool) -> set[str] | str:
    """Return the names to replace in this file, or the reason why it is left alone."""
    if stem in LEFT and not (named and stem not in LEFT):
        return LEFT[stem]
    known = set(FILES.get(stem, ())) if not named else {name for names in FILES.values() for name in names}
    if stem in FILES and not source.names:  # only statements that fail, or a re-export
        if source.imported & known or not (named or source.families):
            return "it defines nothing itself"
        return set(FILES[stem])
    found = source.names & known
    if not found:
        return f"it defines none of {', '.join(sorted(known))}" if stem in FILES else "it defines no op"
    if not named and not source.families:
        return "no other file of an op package lies beside it; install('its.name') replaces it all the same"
    return found


def _may_hold_ops(name: str) -> bool:
    stem = file_key(name)
    return stem in FILES or stem in LEFT or stem in CARRIERS or _state.named(name)


def _read(name: str, path: str) -> tuple[Source, set[str]] | None:
    """Return the file and the names to replace in it; None, with a line for explain_install, if it is left alone."""
    stem = file_key(name)
    try:
        source = Source(path)
    except (OSError, SyntaxError, ValueError) as error:
        _state.told[name] = [f"left alone: it cannot be read ({type(error).__name__})"]
        return None
    if stem in CARRIERS:
        return (source, set()) if CARRIERS[stem] in source.names else None
    judged = _judge(source, stem, _state.named(name))
    if isinstance(judged, str):
        if stem in FILES or stem in LEFT:
            _state.told[name] = [f"left alone: {judged} ({path})"]
        return None
    return source, judged


class _Finder:
    """Finds op modules by the finders after it, and gives them a loader of ours; ignores all other modules."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        stem = file_key(name)
        if name.partition(".")[0] == _OWN or not _may_hold_ops(name):
            return None
        spec = None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    break
        if spec is None or type(spec.loader) is not SourceFileLoader:
            return None
        if spec.submodule_search_locations is not None and stem in FILES and not _state.named(name):
            return None  # a package such as basicsr.ops.fused_act, whose file of the same name has the op
        read = _read(name, spec.loader.path)
        if read is None and not _below_a_package_that_fails(name):
            return None
        spec.loader = _Loader(name, spec.loader.path, read)
        return spec


def _below_a_package_that_fails(name: str) -> bool:
    """Whether ``name`` is below a package that fails as a whole if one of its extensions is missing."""
    return any(name.startswith(f"{package}.") for package in PACKAGES)


class _Loader(SourceFileLoader):
    """Runs the file without compiling, then replaces its functions by ours."""

    def __init__(self, name: str, path: str, read: tuple[Source, set[str]] | None) -> None:
        super().__init__(name, path)
        self._read = read

    def exec_module(self, module: ModuleType) -> None:
        source, names = self._read or (Source(self.path), set())
        if file_key(module.__name__) in (NETWORKS, *CARRIERS):
            super().exec_module(module)
            passed = []
        else:
            passed = source.run(module)
            _state.incomplete.add(module.__name__)
        lines = [f"file: {self.path}", *(f"passed over {line}" for line in passed)]
        if names or passed:
            _state.told[module.__name__] = lines
        _fill(module, source, names)


_FINDER = _Finder()


def _fill_imported() -> None:
    """Replace functions in the op modules that are imported, and in all modules that imported one of them."""
    met = set(_state.told)
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name in met or name.partition(".")[0] == _OWN or not isinstance(path, str) or not path.endswith(".py"):
            continue
        if not _may_hold_ops(name) or (hasattr(module, "__path__") and not _state.named(name)):
            continue
        if read := _read(name, path):
            _state.told[name] = [f"file: {path}"]
            _fill(module, *read)
    replaced = {id(theirs): (theirs, ours) for ours, theirs in _state.theirs.values()}
    for module, key, value in _globals():
        if id(value) in replaced and replaced[id(value)][0] is value:
            _put(module, key, replaced[id(value)][1])


def _globals() -> Iterator[tuple[ModuleType, str, object]]:
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name.partition(".")[0] != _OWN:
            for key, value in list(vars(module).items()):
                yield module, key, value


def _fill(module: ModuleType, source: Source, names: set[str]) -> None:
    """Set our functions in ``module`` under ``names``, before the classes that call them."""
    if _state.keeps_theirs:
        return
    if (stem := file_key(module.__name__)) in CARRIERS:
        _fill_carried(module, CARRIERS[stem])
        return
    options: dict[str, list[Op | Layer]] = {}
    families = source.families
    for file in (FILES.get(stem, {}), *FILES.values()):
        for name in names & file.keys() - options.keys():
            options[name] = [file[name][family] for family in sorted(file[name], key=lambda f: f not in families)]
    told = _state.told.setdefault(module.__name__, [])
    for name in sorted(options, key=lambda name: (isinstance(options[name][0], Layer), name)):
        theirs = vars(module).get(name)
        theirs = None if isinstance(theirs, Unbuilt) else theirs
        if isinstance(options[name][0], Layer):
            told.append(_fill_class(module, name, theirs, options[name][0], source, set(options)))
            continue
        own = _signature(theirs)
        if own is not None and any(p.kind is p.VAR_KEYWORD for p in own.parameters.values()):
            own = source.signature(name) or own
        chosen = next((s for s in options[name] if own is None or unserved(s, own) is None), options[name][0])
        if chosen.works and own is not None and unserved(chosen, own):
            told.append(f"left alone: {name}, which has another signature {own}")
            continue
        axis = _state.axis(module.__name__)
        axis = source.bias_axis(name) if axis is None else axis
        ours = follow(f"{module.__name__}.{name}", chosen, own, axis)
        _put(module, name, ours)
        _state.theirs[id(ours)] = ours, theirs
        reason = own and unserved(chosen, own)
        told.append(f"not served: {name}: {reason}; each call raises" if reason else f"replaced: {name}{own or ''}")


def _fill_carried(module: ModuleType, maker: str) -> None:
    """Replace functions in each module that ``maker`` of ``module`` creates, or created, from source in a pickle."""
    theirs = vars(module)[maker]

    def fill(carried: ModuleType, text: str) -> ModuleType:
        if carried.__name__ not in _state.told:
            _state.told[carried.__name__] = [f"file: none, text that {module.__name__} was given"]
            with suppress(SyntaxError, ValueError):
                source = Source(carried.__name__, text)
                judged = _judge(source, NETWORKS, False)
                if isinstance(judged, set):
                    _fill(carried, source, judged)
        return carried

    def ours(src: str) -> ModuleType:
        return fill(theirs(src), src)

    _put(module, maker, ours)
    _state.told[module.__name__] = [f"replaced: {maker}, to fill the networks that it makes modules of"]
    for text, carried in list(vars(module).get(f"{maker}_dict", {}).items()):
        fill(carried, text)


def _fill_class(module, name: str, theirs: object, served: Layer, source: Source, functions: set[str]) -> str:
    if not isinstance(theirs, type):
        ours = type(name, (served.stand_in,), {"__module__": module.__name__, "__qualname__": name})
        _put(module, name, ours)
        return f"replaced: {name}, whose own definition could not run"
    code = getattr(theirs.forward, "__code__", None) if hasattr(theirs, "forward") else None
    if code is not None and functions & set(code.co_names):
        return f"kept: {name}, which calls what was replaced"
    assigned = getattr(theirs.__init__, "__code__", None)
    known = set(assigned.co_names) if assigned else set()
    if missing := set(served.attributes) - known:
        return f"left alone: {name}, which has no {', '.join(sorted(missing))} and calls nothing that was replaced"
    sliced = source.slices(name, "bias")
    before = vars(theirs).get("forward", _ABSENT)

    def forward(self, input):
        return served.forward(self, input, sliced)

    theirs.forward = forward
    _state.undo.append(
        lambda: setattr(theirs, "forward", before) if before is not _ABSENT else delattr(theirs, "forward")
    )
    return f"replaced: the forward pass of {name}"


def _signature(function: object) -> Signature | None:
    try:
        return signature(function) if callable(function) else None
    except (TypeError, ValueError):  # a builtin, such as the apply of an autograd function
        return None


def _put(module: ModuleType, key: str, value: object) -> None:
    before = vars(module).get(key, _ABSENT)
    if isinstance(before, Unbuilt):
        before = _ABSENT
    vars(module)[key] = value

    def undo() -> None:
        if vars(module).get(key) is value and before is not _ABSENT:
            vars(module)[key] = before

    _state.undo.append(undo)


def _forget() -> None:
    """Restore the functions of packages, and drop modules that ran without their extension or had no function."""
    gone = set(_state.incomplete)
    for module, key, value in _globals():
        ours, theirs = _state.theirs.get(id(value), (_ABSENT, None))
        if ours is not value or not hasattr(module, "__path__") or module.__name__ in _state.before:
            continue
        if theirs is None:
            gone.add(module.__name__)
        else:
            vars(module)[key] = theirs
    for name in gone - _state.before:
        module = sys.modules.pop(name, None)
        parent, _, child = name.rpartition(".")
        if module is not None and vars(sys.modules.get(parent, module)).get(child) is module:
            delattr(sys.modules[parent], child)
