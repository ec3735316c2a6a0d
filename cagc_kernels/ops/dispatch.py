"""Chooses the backend of a call, and decides when an eager call may bypass PyTorch's dispatcher."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType

import torch
from torch._C import _get_tracing_state, _is_any_autocast_enabled, _len_torch_dispatch_stack, _len_torch_function_stack
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from .. import backend as _backend

_modules: dict[tuple[str, str], ModuleType] = {}

# The ways of a call, see route().
KERNEL, AUTOGRAD, DISPATCHER = "kernel", "autograd", "dispatcher"

# On these device types an op's first use verifies its kernels: users have GPUs that were never tested.
CHECKED_DEVICES = ("cuda",)
_settled: set[tuple[str, str | None]] = set()


def kernels(op: str, backend: str) -> ModuleType:
    """Return the module with the kernels of ``op`` in ``backend``, importing it on first use."""
    found = _modules.get((op, backend))
    if found is None:
        found = _modules[op, backend] = import_module(f"cagc_kernels.{backend}.{op}")
    return found


def _select(op: str, backend: str | None, preferred: str | None, device: torch.device | None) -> str:
    """Choose the backend; under torch.compile a constant, guarded by the arguments, including the preferred one.

    ``device`` is None for the CPU, because the type of a device takes a call as long as the choice itself.
    """
    kind = "cpu" if device is None else device.type
    chosen = _backend.select(op, backend, preferred, kind)
    if kind in CHECKED_DEVICES and backend is None and chosen != "reference" and (op, preferred) not in _settled:
        chosen = _first_use(op, chosen, preferred, device or torch.device("cpu"))
    if (op, chosen) not in _modules:
        kernels(op, chosen)  # torch.compile cannot trace an import
    return chosen


def _first_use(op: str, chosen: str, preferred: str | None, device: torch.device) -> str:
    """Return ``chosen``, or a replacement if verification finds its kernels wrong on ``device``."""
    if device.type == "cuda" and (not torch.cuda.is_available() or torch.cuda.is_current_stream_capturing()):
        return chosen
    first_use = import_module("cagc_kernels.verification.first_use")
    how = first_use.mode()
    _settled.add((op, preferred))
    return chosen if how == "0" else first_use.settle(op, preferred, device, kept=how == "1")


# Set directly: torch.compiler.assume_constant_result would import torch._dynamo, which is slower than PyTorch itself.
_select._dynamo_marked_constant = True


def choose(op: str, backend: str | None, x: torch.Tensor) -> str:
    """Return the name of the backend that runs ``op`` on ``x``.

    Forward-mode differentiation and the transforms of torch.func run the reference. ``torch.onnx.export`` does too,
    even if ``backend`` names another one, because ONNX has no custom ops of this package.

    Raises TypeError or ValueError if ``backend`` is unknown, cannot run ``op`` on this device, or is a kernel backend
    inside forward-mode differentiation or torch.func.
    """
    if backend is not None:
        _backend.check_name(backend)
    compiling = is_compiling()
    if (compiling or _get_tracing_state() is not None) and _exporting_to_onnx():
        return "reference"
    chosen = _select(op, backend, _backend.preferred(), None if x.is_cpu else x.device)
    if chosen == "reference" or compiling or not _transformed():
        return chosen
    if backend is not None:
        raise ValueError(
            f"backend: {backend!r} has no forward-mode derivative of {op} and nothing else of torch.func; "
            "expected 'reference'"
        )
    return "reference"


def _exporting_to_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()


_exporting_to_onnx._dynamo_marked_constant = True


def _transformed() -> bool:
    """Whether the call runs in forward-mode differentiation or in a torch.func transform (vmap, grad, ...)."""
    return forward_ad._current_level >= 0 or peek_interpreter_stack() is not None


def usual(op: str, backend: str | None, x: object) -> Callable[..., torch.Tensor | None] | None:
    """Return the compiled module's function for usual calls of ``op`` on ``x``; None where it may not be used.

    The function takes the arguments of the public op as they are, but ``backend``, and returns None unless they are
    valid ones of tensors on the CPU that need neither a copy nor a gradient. Checks, choice of backend and dispatch in
    Python take longer than the kernel of a small image.
    """
    needed = torch.is_grad_enabled() and getattr(x, "requires_grad", False)
    if needed or _watched() or _is_any_autocast_enabled():
        return None
    if backend is None:
        chosen = _select(op, None, _backend.preferred(), None)
    elif isinstance(backend, str) and backend == "native":
        chosen = _backend.select(op, None, backend, "cpu")
    else:
        return None
    return kernels(op, chosen).at_once if chosen == "native" else None


def autocast_dtype(x: object) -> torch.dtype | None:
    """Return the dtype to which ``torch.autocast`` casts ``x``; None when it is off, and for float64."""
    if not _is_any_autocast_enabled() or not isinstance(x, torch.Tensor) or x.dtype == torch.float64 or x.is_meta:
        return None
    if not torch.is_autocast_enabled(x.device.type):
        return None
    return torch.get_autocast_dtype(x.device.type)


def outside_autocast(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Decorator: under ``torch.autocast``, cast x to its dtype and other floats to float32, then disable it."""

    @functools.wraps(function)
    def call(x, *arguments):
        dtype = autocast_dtype(x)
        if dtype is None:
            return function(x, *arguments)
        with torch.autocast(x.device.type, enabled=False):
            floats = (a.float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments)
            return function(x.to(dtype), *floats)

    return call


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _watched() -> bool:
    """Whether a tracer, a compiler, a dispatch or function mode, or a torch.func transform must see the call."""
    return (
        is_compiling()
        or _get_tracing_state() is not None
        or _len_torch_dispatch_stack() > 0
        or _len_torch_function_stack() > 0
        or _transformed()
    )


def is_plain(tensors: Iterable[torch.Tensor | None]) -> bool:
    """Whether all tensors are ordinary CPU or CUDA ones and nothing intercepts calls: the dispatcher can be skipped."""
    return route(tensors) != DISPATCHER


def route(tensors: Iterable[torch.Tensor | None]) -> str:
    """Return how an eager call with these tensors reaches a kernel.

    :data:`DISPATCHER` through PyTorch, unless all tensors are ordinary CPU or CUDA ones and nothing intercepts calls;
    then :data:`AUTOGRAD` if a gradient is needed, and straight to the :data:`KERNEL` if not.
    """
    if _watched():
        return DISPATCHER
    needed = False
    for t in tensors:
        if t is None:
            continue
        if type(t) not in _PLAIN or not (t.is_cpu or t.is_cuda) or t.is_neg():
            return DISPATCHER
        needed = needed or t.requires_grad
    return AUTOGRAD if needed and torch.is_grad_enabled() else KERNEL
