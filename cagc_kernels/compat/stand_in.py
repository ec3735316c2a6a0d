"""Installs modules that replace those of a code base in ``sys.modules``, whether or not it is on the path."""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import ModuleType

_ABSENT, _SWITCH = object(), object()


class Installation:
    """The modules of one code base by name, each with its attributes; installed and uninstalled together.

    A module that is already imported is changed in place; others are created. ``packages`` are the names that are
    packages. ``marks`` are (module, attribute) pairs by which an imported module is recognised as that of the code
    base. Installing repeatedly nests: it ends after as many calls of :meth:`uninstall`.
    """

    def __init__(
        self,
        name: str,
        modules: Mapping[str, Mapping[str, object]],
        packages: tuple[str, ...] = (),
        marks: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._name, self._modules, self._packages, self._marks = name, modules, packages, marks
        self._depth = 0
        self._changes: list[tuple[MutableMapping[str, object], str, object, object]] = []

    @property
    def installed(self) -> bool:
        """Whether :meth:`install` was called and not yet undone."""
        return self._depth > 0

    def install(self, without: tuple[str, ...] = ()) -> Installation:
        """Install all modules except ``without``.

        Raises:
            RuntimeError: another module of one of these names is imported, or one of ours was replaced since it was
                installed. Nothing is changed then.
        """
        if self._depth:
            self._check_ours("install")
        else:
            self._check_marks()
            for name in self._modules:
                if name not in without:
                    self._fill(name)
        self._depth += 1
        return self

    def uninstall(self) -> None:
        """Restore the modules and attributes that were there before, and remove the others.

        Raises:
            RuntimeError: not installed, or one of ours was replaced since. Nothing is changed then.
        """
        if not self._depth:
            raise RuntimeError(f"{self._name}: uninstall without install")
        if self._depth == 1:
            self._check_ours("uninstall")
            for place, key, before, _ in reversed(self._changes):
                if before is _ABSENT:
                    place.pop(key, None)
                else:
                    place[key] = before
            self._changes.clear()
        self._depth -= 1

    def __enter__(self) -> Installation:
        return self

    def __exit__(self, *_: object) -> None:
        self.uninstall()

    def _check_marks(self) -> None:
        for name, attribute in self._marks:
            module = sys.modules.get(name)
            if module is not None and not hasattr(module, attribute):
                where = getattr(module, "__file__", None) or "a module without a file"
                raise RuntimeError(
                    f"{self._name}: the imported module {name!r} ({where}) has no {attribute}: "
                    "expected the module of the code base, or none"
                )

    def _check_ours(self, what: str) -> None:
        for place, key, _, ours in self._changes:
            if ours is not _SWITCH and place.get(key, _ABSENT) is not ours:
                where = "sys.modules" if place is sys.modules else f"module {place.get('__name__')!r}"
                raise RuntimeError(
                    f"{self._name}: cannot {what}: something has replaced {key!r} in {where} since install"
                )

    def _fill(self, name: str) -> None:
        module = sys.modules.get(name)
        if module is None:
            module = self._make(name)
        for key, value in self._modules[name].items():
            if callable(value):
                self._put(vars(module), key, value)
            elif key not in vars(module):  # tables and switches, to which the code bases assign
                self._changes.append((vars(module), key, _ABSENT, _SWITCH))
                vars(module)[key] = value

    def _make(self, name: str) -> ModuleType:
        module = module_from_spec(ModuleSpec(name, None, is_package=name in self._packages))
        module.__doc__ = f"Made by cagc_kernels.compat.{self._name}."
        self._put(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        # If a package has a function with the name of one of its modules, the function stays its attribute.
        if parent in sys.modules and child not in self._modules.get(parent, ()):
            self._put(vars(sys.modules[parent]), child, module)
        return module

    def _put(self, place: MutableMapping[str, object], key: str, value: object) -> None:
        self._changes.append((place, key, place.get(key, _ABSENT), value))
        place[key] = value
