"""Which functions and classes of which files the families of code bases hold, and what takes their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from math import inf
from typing import NamedTuple

import torch

# Each has a file of this name with upfirdn2d.py beside it, by which a folder of ops is known; one alone proves nothing.
FAMILIES = ("fused_act", "bias_act", "fused_bias_leakyrelu")


class Op(NamedTuple):
    """A function that takes the place of one of a code base.

    Attributes:
        function: takes the parameters of the copy by name, and ``bias_axis`` if ``has_bias_axis``.
        parameters: the names that a copy may give its parameters, each with that of ``function``.
        works: whether the copy needs no extension of its own, so that one of another signature is left alone.
    """

    function: Callable[..., object]
    parameters: Mapping[str, str]
    has_bias_axis: bool = False
    works: bool = False


class Layer(NamedTuple):
    """A class of a code base, of which only ``forward`` needs another: ``stand_in`` where theirs cannot be made."""

    forward: Callable[..., torch.Tensor]
    attributes: tuple[str, ...]
    stand_in: type


# {file: {name: {a file of the same family: what takes its place}}}; filled by the modules of the families.
FILES: dict[str, dict[str, dict[str, Op | Layer]]] = {}
LEFT: dict[str, str] = {
    "conv2d_resample": "it is made of upfirdn2d and conv2d_gradfix, which are replaced where they stand",
}
# Packages that nobody can import where one of their extensions is missing; every file below them is tried.
PACKAGES: set[str] = {"mmcv.ops"}
# Files of networks, which hold an op among much else: they run as they are.
NETWORKS = ("networks", "networks_stylegan2")


def serve(family: str, files: Mapping[str, Mapping[str, Op | Layer]]) -> None:
    """Add what the ``family`` that has a file of this name serves, by file and name."""
    for file, names in files.items():
        for name, served in names.items():
            FILES.setdefault(file, {}).setdefault(name, {})[family] = served


def op(function: Callable[..., object], has_bias_axis: bool = False, **synonyms: str) -> Op:
    """An :class:`Op` whose copies name parameters as ``function`` does, or by ``synonyms`` {theirs: ours}."""
    code = function.__code__
    own = {name: name for name in code.co_varnames[: code.co_argcount] if name != "bias_axis"}
    return Op(function, {**own, **synonyms}, has_bias_axis)


def follow(place: str, served: Op, signature: Signature | None, bias_axis: int | None) -> Callable[..., object]:
    """``served.function`` under the parameters, defaults and order of ``signature``; None keeps its own.

    ``place`` names it in an error. Where ``signature`` has a parameter that nothing here is, each call raises.
    """
    fixed = {"bias_axis": bias_axis} if served.has_bias_axis else {}
    if signature is None:
        signature = Signature([p for p in _signature(served.function) if p.name != "bias_axis"])
    if reason := unserved(served, signature):
        return _refusing(place, reason)
    # Real code and not *args: a call costs no more than one of ours, and torch.compile reads it.
    defaults = {name: p.default for name, p in signature.parameters.items() if p.default is not Parameter.empty}
    shown = [_text(p) for p in signature.parameters.values()]
    given = [f"{served.parameters[name]}={name}" for name in signature.parameters]
    given += [f"{name}={value!r}" for name, value in fixed.items()]
    marks = [i for i, p in enumerate(signature.parameters.values()) if p.kind is Parameter.KEYWORD_ONLY]
    if marks:
        shown.insert(marks[0], "*")
    name = place.rpartition(".")[2]
    scope = {"__function__": served.function, "__defaults__": defaults}
    exec(f"def {name}({', '.join(shown)}):\n    return __function__({', '.join(given)})\n", scope)
    function = scope[name]
    function.__module__, function.__doc__ = place.rpartition(".")[0], served.function.__doc__
    return function


def unserved(served: Op, signature: Signature) -> str | None:
    """Why a copy of this signature is not served; None if it is."""
    for name, parameter in signature.parameters.items():
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) or name not in served.parameters:
            return f"got the parameter {name!r} in its signature {signature}, expected {', '.join(served.parameters)}"
    required = [name for name, p in _required(served.function)]
    given = {served.parameters[name] for name in signature.parameters}
    missing = [name for name in required if name not in given]
    return f"got the signature {signature}, expected {', '.join(missing)} too" if missing else None


def _required(function):
    return [(p.name, p) for p in _signature(function) if p.default is Parameter.empty]


def _signature(function: Callable[..., object]) -> list[Parameter]:
    return list(Signature.from_callable(function).parameters.values())


def _text(parameter: Parameter) -> str:
    if parameter.default is Parameter.empty:
        return parameter.name
    return f"{parameter.name}=__defaults__[{parameter.name!r}]"


def _refusing(place: str, reason: str) -> Callable[..., object]:
    def refuse(*_: object, **__: object) -> object:
        raise TypeError(f"{place}: {reason}; cagc_kernels.compat does not serve it (uninstall() gives it back)")

    refuse.__name__ = place.rpartition(".")[2]
    return refuse


# What code bases give as numbers: NumPy's, tensors of one element, floats for whole numbers.


def whole(name: str, value: object) -> object:
    """``value`` with each whole number in it as an int, sequences as lists; what is none of these stays for the op.

    Raises ValueError for a number that is not whole.
    """
    if type(value) is int or isinstance(value, torch.SymInt):
        return value
    if isinstance(value, torch.Tensor) or hasattr(value, "__array__"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [whole(name, item) for item in value]
    if isinstance(value, float):
        if not (-inf < value < inf and value == int(value)):
            raise ValueError(f"{name}: got {value}, expected a whole number")
        return int(value)
    return value


def real(value: object) -> object:
    """A tensor or array of one element as its number; all else as it is."""
    if type(value) is not float and (isinstance(value, torch.Tensor) or hasattr(value, "__array__")):
        return value.item()
    return value


def as_dtype(value: torch.Tensor | None, x: object) -> torch.Tensor | None:
    """``value`` in the dtype of ``x``, where both are tensors."""
    if isinstance(value, torch.Tensor) and isinstance(x, torch.Tensor) and value.dtype != x.dtype:
        return value.to(x.dtype)
    return value
