"""The table of replacements: functions and classes by file, for each family of code bases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from math import inf
from typing import NamedTuple

import torch

# A folder of ops is recognised by a file of one of these names together with one that resamples.
FAMILIES = ("fused_act", "bias_act", "fused_bias_leakyrelu")
RESAMPLERS = {"upfirdn2d", "filtered_lrelu"}


class Op(NamedTuple):
    """The replacement of a function of a code base.

    Attributes:
        function: called with the parameters of the replaced function by name, and ``bias_axis`` if ``has_bias_axis``.
        parameters: parameter names that the replaced function may have, with the corresponding names of ``function``.
        works: whether the replaced function works without a compiled extension, so that it is left alone if its
            signature differs.
    """

    function: Callable[..., object]
    parameters: Mapping[str, str]
    has_bias_axis: bool = False
    works: bool = False


class Layer(NamedTuple):
    """The replacement of a class's ``forward``; ``stand_in`` replaces the whole class if its definition fails."""

    forward: Callable[..., torch.Tensor]
    attributes: tuple[str, ...]
    stand_in: type


# {file: {name: {family: replacement}}}, filled by the modules of the families.
FILES: dict[str, dict[str, dict[str, Op | Layer]]] = {}
LEFT: dict[str, str] = {
    "conv2d_resample": "it is made of upfirdn2d and conv2d_gradfix, which are replaced where they stand",
}
# Packages that cannot be imported if one of their extensions is missing; every file in them is tried.
PACKAGES: set[str] = {"mmcv.ops"}
# Files that run networks which a pickle carries as text, and their function that makes a module of the text.
CARRIERS = {"persistence": "_src_to_module"}
# The first word of the names of files of networks that also define an op, and their key in FILES; they run unchanged.
NETWORKS = "networks"


def file_key(module: str) -> str:
    """Return the key of :data:`FILES` for the file of ``module``: its stem, or one key for all files of networks."""
    stem = module.rpartition(".")[2]
    return NETWORKS if stem.partition("_")[0] == NETWORKS else stem


def serve(family: str, files: Mapping[str, Mapping[str, Op | Layer]]) -> None:
    """Add the replacements of a ``family``, by file and name, to the table."""
    for file, names in files.items():
        for name, served in names.items():
            FILES.setdefault(file, {}).setdefault(name, {})[family] = served


def op(function: Callable[..., object], has_bias_axis: bool = False, **synonyms: str) -> Op:
    """Return an :class:`Op` for functions with the parameter names of ``function`` or ``synonyms`` {theirs: ours}."""
    code = function.__code__
    own = {name: name for name in code.co_varnames[: code.co_argcount] if name != "bias_axis"}
    return Op(function, {**own, **synonyms}, has_bias_axis)


def follow(place: str, served: Op, signature: Signature | None, bias_axis: int | None) -> Callable[..., object]:
    """Return a function with ``signature`` that calls ``served.function``; None keeps the latter's own signature.

    ``place`` is its name in errors. If ``signature`` has an unknown parameter, the result raises when it is called.
    """
    fixed = {"bias_axis": bias_axis} if served.has_bias_axis else {}
    if signature is None:
        signature = Signature([p for p in _signature(served.function) if p.name != "bias_axis"])
    if reason := unserved(served, signature):
        return _refusing(place, reason)
    # Generated code instead of *args, so that a call has no overhead and torch.compile can trace it.
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
    """Return the reason why a function of this signature cannot be replaced, or None if it can."""
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


# Code bases pass numbers as NumPy scalars, as tensors of one element, and whole numbers as floats.


def whole(name: str, value: object) -> object:
    """Return ``value`` with whole numbers as int and sequences as lists; other values are left for the op to check.

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
    """Return the number in a tensor or array of one element; other values unchanged."""
    if type(value) is not float and (isinstance(value, torch.Tensor) or hasattr(value, "__array__")):
        return value.item()
    return value


def as_dtype(value: torch.Tensor | None, x: object) -> torch.Tensor | None:
    """Return ``value`` in the dtype of ``x`` if both are tensors, else ``value``."""
    if isinstance(value, torch.Tensor) and isinstance(x, torch.Tensor) and value.dtype != x.dtype:
        return value.to(x.dtype)
    return value
