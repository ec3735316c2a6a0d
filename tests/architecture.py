"""Finds what the architecture forbids: import cycles, questions about model classes, names of layers in code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

# Words that a layer's name or its tensors' names are made of.
WORDS = (
    r"conv\d|to_?rgb|affine|synthesis|mapping|noise_(?:const|strength)|\bskip\b|\bfc\d"
    r"|\bb(?:[48]|16|32|64|128|256|512|1024)\b"
    r"|\.(?:weight|bias|const)\b"
)
TAKES_APART = ("split", "rsplit", "partition", "rpartition", "removeprefix", "removesuffix", "replace", "strip",
               "startswith", "endswith", "find", "index")  # fmt: skip


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """Return the modules of ``known`` that module ``name`` imports, also in functions, and the packages above them."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        for target in targets:
            parts = target.split(".")
            above = {".".join(parts[:i]) for i in range(1, len(parts) + 1)} & known
            # The packages of a module are imported before it, so they are no edges.
            found |= {module for module in above if module == target or not name.startswith(f"{module}.")}
    return found - {name}


def import_cycles(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return ``graph`` without the modules that are not part of a cycle; it is empty if there are no cycles."""
    left = graph
    while True:
        imported = set().union(*left.values())
        kept = {name: targets & left.keys() for name, targets in left.items() if name in imported}
        kept = {name: targets for name, targets in kept.items() if targets}
        if kept == left:
            return left
        left = kept


def classes(paths: list[Path]) -> set[str]:
    """Names of the classes that the files define."""
    trees = (ast.parse(path.read_text()) for path in paths)
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def asks_for_class(tree: ast.AST, models: set[str]) -> Iterator[int]:
    """Yield lines that test for a class of ``models``: isinstance, type(), dispatch on types, match."""
    for node in ast.walk(tree):
        asked: list[ast.AST] = []
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            asked = node.args[1:]
        elif isinstance(node, ast.Compare) and any(
            isinstance(side, ast.Call) and getattr(side.func, "id", "") == "type"
            for side in (node.left, *node.comparators)
        ):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        elif isinstance(node, ast.FunctionDef) and any("register" in ast.dump(d) for d in node.decorator_list):
            asked = [argument.annotation for argument in node.args.args[:1] if argument.annotation]
        names = {getattr(part, "id", getattr(part, "attr", None)) for a in asked for part in ast.walk(a)}
        if names & models:
            yield node.lineno


def takes_name_apart(tree: ast.AST) -> Iterator[int]:
    """Yield lines that split, inspect or build the name of a layer."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = [part.value for argument in node.args for part in ast.walk(argument) if _is_text(part)]
            pattern = getattr(node.func.value, "id", "") == "re"
            dotted = "." in given and node.func.attr in TAKES_APART[:4]
            words = any(re.search(WORDS, text) or (pattern and re.search(r"\bb\W*\\d", text)) for text in given)
            if dotted or (words and (pattern or node.func.attr in TAKES_APART)):
                yield node.lineno
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)) and _is_text(node.left):
            if re.search(WORDS, node.left.value) and not isinstance(node.comparators[0], (ast.Tuple, ast.Set)):
                yield node.lineno
        elif isinstance(node, ast.JoinedStr):
            text = "".join(part.value if _is_text(part) else "0" for part in node.values)
            if re.search(r"(?:^|\.)b0(?:$|\.)|^synthesis\.0|0\.(?:conv\d|to_rgb|affine|weight|bias)\b", text):
                yield node.lineno
        elif _is_text(node) and re.fullmatch(r"(?:synthesis\.)?b\d+\.\w+", node.value):
            yield node.lineno


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
