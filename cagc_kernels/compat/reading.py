"""Reads the source file of an op before it runs, and runs it without compiling its extension."""

from __future__ import annotations

import ast
from importlib import import_module
from inspect import Parameter, Signature
from pathlib import Path
from types import ModuleType

from .families import FAMILIES, RESAMPLERS


class Source:
    """The parsed source file of a module.

    Attributes:
        names: functions, classes and variables that the file defines at its top level.
        imported: names that it imports from other modules, including "*".
    """

    def __init__(self, path: str, text: str | None = None) -> None:
        """Parse the file, or ``text`` without one. Raises OSError, SyntaxError or ValueError if it is not Python."""
        self.path, self._is_file = Path(path), text is None
        self.tree = ast.parse(self.path.read_bytes() if text is None else text, path)
        self.names: set[str] = set()
        self.imported: set[str] = set()
        for node in _top_level(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                self.names.add(node.name)
            elif isinstance(node, ast.ImportFrom):
                self.imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Assign):
                self.names |= {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}

    @property
    def families(self) -> list[str]:
        """The families whose files are in its folder or the folder above, or are imported by it."""
        folders = (self.path.parent, self.path.parent.parent) if self._is_file else ()
        beside = *map(_stems, folders), self.imported
        return [family for family in FAMILIES if any(family in stems and stems & RESAMPLERS for stems in beside)]

    def bias_axis(self, function: str) -> int | None:
        """Return -1 if ``function`` tests for three dimensions, as copies that add [C] to [N, L, C] do; else None."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef) and node.name == function:
                tests = [ast.unparse(n) for n in ast.walk(node) if isinstance(n, ast.Compare)]
                dimensions = ("ndim", "dim()", "len(")
                if any("3" in test and any(d in test for d in dimensions) for test in tests):
                    return -1
        return None

    def signature(self, function: str) -> Signature | None:
        """Return the signature in the source of ``function``, which decorators may hide; non-literal defaults: None."""
        for node in _top_level(self.tree):
            if isinstance(node, ast.FunctionDef) and node.name == function and not node.args.kwarg:
                positional = [*node.args.posonlyargs, *node.args.args]
                defaults = [None] * (len(positional) - len(node.args.defaults)) + node.args.defaults
                return Signature([_parameter(a.arg, d) for a, d in zip(positional, defaults, strict=True)])
        return None

    def slices(self, cls: str, attribute: str) -> bool:
        """Whether ``cls`` contains a subscript of ``self.<attribute>``."""
        nodes = [n for n in ast.walk(self.tree) if isinstance(n, ast.ClassDef) and n.name == cls]
        parts = (n.value for node in nodes for n in ast.walk(node) if isinstance(n, ast.Subscript))
        return any(ast.unparse(part) == f"self.{attribute}" for part in parts)

    def run(self, module: ModuleType) -> list[str]:
        """Run the file in ``module`` without compiling extensions, and return a line for each statement that failed.

        Names that a failed statement would have defined become :class:`Unbuilt` objects.
        """
        names = {alias.name for node in self.tree.body for alias in getattr(node, "names", ()) if _is_future(node)}
        features = import_module("__future__")
        flags = sum(getattr(features, name).compiler_flag for name in names)
        passed = []
        space = vars(module)
        space["__cagc_unbuilt__"] = lambda: Unbuilt(module.__name__, "compiling extensions is left out")
        tree = ast.fix_missing_locations(_WithoutCompiling(self.tree).visit(self.tree))
        for statement in tree.body:
            code = compile(ast.Module([statement], []), str(self.path), "exec", flags, dont_inherit=True)
            try:
                exec(code, space)
            except Exception as error:  # without a compiler, code bases raise many types: OSError, ImportError, ...
                reason = f"line {statement.lineno}: {type(error).__name__}: {error}".splitlines()[0]
                passed.append(reason)
                for name in _bound(statement) - space.keys():
                    space[name] = Unbuilt(f"{module.__name__}.{name}", reason)
        del space["__cagc_unbuilt__"]
        return passed


class Unbuilt:
    """Placeholder for an object that could not be created; using it raises RuntimeError with the reason."""

    def __init__(self, name: str, reason: str) -> None:
        self.__dict__.update(_name=name, _reason=reason)

    def __call__(self, *_: object, **__: object) -> None:
        raise RuntimeError(f"{self._name}: not there under cagc_kernels.compat: {self._reason}")

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return self()


class _WithoutCompiling(ast.NodeTransformer):
    """Replaces calls of torch.utils.cpp_extension's ``load`` and ``load_inline``."""

    def __init__(self, tree: ast.AST) -> None:
        self._loaders = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("cpp_extension")
            for alias in node.names
            if alias.name.startswith("load")
        }

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        function = node.func
        if isinstance(function, ast.Name):
            found = function.id in self._loaders
        else:
            text = ast.unparse(function)
            found = "cpp_extension.load" in text
        if not found:
            return node
        return ast.copy_location(ast.Call(ast.Name("__cagc_unbuilt__", ast.Load()), [], []), node)


def _parameter(name: str, default: ast.expr | None) -> Parameter:
    if default is None:
        return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD)
    value = default.value if isinstance(default, ast.Constant) else None
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=value)


def _top_level(node: ast.AST):
    """Yield the statements that run on import, including those in ``if`` and ``try``, not in functions or classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.expr)):
            yield from _top_level(child)


def _bound(statement: ast.stmt) -> set[str]:
    """Return the names that ``statement`` would bind."""
    found = set()
    for node in [statement, *_top_level(statement)]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names} - {"*"}
        elif isinstance(node, ast.Assign):
            found |= {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found


def _is_future(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _stems(folder: Path) -> set[str]:
    try:
        return {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    except OSError:
        return set()
