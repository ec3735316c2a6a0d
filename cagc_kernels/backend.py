"""Availability of the backends, and the choice of the backend that runs an op.

Backends are tried in order; one that cannot run an op gives the reason (:func:`refusal`), and the first one that can is
chosen. A backend named in a call (``backend="native"``) is binding: if it refuses, the call raises. A backend preferred
for a block of code (:func:`use_backend`) or for a process (``CAGC_BACKEND``) is tried first and skipped where it
refuses. :func:`explain` reports the choice and its reasons.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature

BACKENDS = ("reference", "native", "triton")
OPS = ("bias_act", "upfirdn2d", "epilogue", "modulated_conv2d", "sparse_channel_conv2d", "filtered_lrelu")

# Compiled kernels first: on the CPU they make one pass over memory; on a GPU they need no JIT compilation.
ORDER = ("native", "triton", "reference")
# Matrix products on a GPU prefer Triton: only its kernels use the tensor cores.
MATRIX_ORDER = ("triton", "native", "reference")
MATRIX_OPS = ("sparse_channel_conv2d",)

# The ops for which each backend has kernels, in a module of that name in the backend's package.
IMPLEMENTS = {
    "reference": OPS,
    "native": OPS,
    "triton": tuple(op for op in OPS if op != "epilogue"),  # its modulated_conv2d includes it
}

# Printed by explain(): the cases of each op that the chosen backend does not compute by one kernel of its own.
NOTES = {
    "bias_act": "gain <= 0 and lrelu with alpha < 0 use the reference: kernels derive gradients from the output's sign",
    "upfirdn2d": "a filter that requires a gradient uses the reference",
    "filtered_lrelu": "a filter that requires a gradient uses the reference",
    "modulated_conv2d": "native runs PyTorch's convolution (on the CPU in float32, Winograd's for a 3x3 weight that two"
    " calls have seen unchanged) and one kernel for all steps after it (several kernels for"
    " smooth activations, for noise per channel, and for up-sampling other than by 2 with 4 x 4 taps); the backward"
    " pass of triton uses the reference formula",
    "sparse_channel_conv2d": "up-sampling takes a second kernel, upfirdn2d; the backward pass is PyTorch's convolution"
    " over the gathered channels",
}

DTYPES = ("float32", "float64", "float16", "bfloat16")

# A plain global: torch.compile guards on it and recompiles when it changes.
_preferred: str | None = os.environ.get("CAGC_BACKEND") or None
_packing = True


# Faults found at first use, by (backend, op, device type); such a backend runs only if the call names it.
_faults: dict[tuple[str, str, str], str] = {}


def distrust(name: str, op: str, device: str, fault: str) -> None:
    """Exclude backend ``name`` from the automatic choice for ``op`` on this device type; ``fault`` is the reason."""
    _faults[name, op, device] = fault
    select.cache_clear()


def check_name(name: str, argument: str = "backend") -> str:
    """Return ``name`` if it names a backend; else raise TypeError or ValueError listing the valid names."""
    if not isinstance(name, str):
        raise TypeError(f"{argument}: got {type(name).__name__}, expected one of {', '.join(BACKENDS)}")
    if name not in BACKENDS:
        raise ValueError(f"{argument}: got {name!r}, expected one of {', '.join(BACKENDS)}")
    return name


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Prefer ``name`` for every op called inside the block, in all threads; ``None`` restores the default order.

    Raises ValueError for an unknown name.
    """
    global _preferred
    before, _preferred = _preferred, None if name is None else check_name(name, "use_backend")
    try:
        yield
    finally:
        _preferred = before


@contextmanager
def without_packing() -> Iterator[None]:
    """Pack no weight and use no pack inside the block, in all threads.

    The bits of a result then do not depend on the calls before it, as they do where the second call with a weight packs
    it: a resumed training repeats an uninterrupted one. ``torch.use_deterministic_algorithms(True)`` does the same.
    """
    global _packing
    before, _packing = _packing, False
    try:
        yield
    finally:
        _packing = before


def packing() -> bool:
    """Whether weights may be packed: not inside of :func:`without_packing`."""
    return _packing


def preferred() -> str | None:
    """Return the backend of the innermost :func:`use_backend`, else ``CAGC_BACKEND`` as it was on import, else None."""
    return _preferred


def implements(name: str, op: str) -> bool:
    """Whether backend ``name`` has kernels of its own for ``op``."""
    return op in IMPLEMENTS[name]


@cache
def unavailable(name: str) -> str | None:
    """Return why backend ``name`` cannot run in this process at all, or None if it can; cached."""
    if name == "native":
        return import_module("cagc_kernels.native").REASON
    if name == "triton" and find_spec("triton") is None:
        return "triton is not installed (pip install 'cagc[triton]')"
    return None


def refusal(name: str, op: str, device: str = "cpu") -> str | None:
    """Return why backend ``name`` cannot run ``op`` on this device type, or None if it can, in every dtype."""
    if op not in IMPLEMENTS[name]:
        return f"no {op} kernel"
    if name == "reference":
        return None
    if reason := unavailable(name):
        return reason
    if device == "cuda":
        if name == "native" and import_module("cagc_kernels.native").CUDA_ARCHS is None:
            return "compiled without CUDA (CAGC_CUDA=ON pip install . compiles it; needs nvcc)"
        return None
    if name == "triton":
        if device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
            return None
        return f"needs a CUDA tensor, got {device} (TRITON_INTERPRET=1 runs it on the CPU, slowly)"
    return None if device == "cpu" else f"no {device} kernel"


def order(op: str, device: str) -> tuple[str, ...]:
    """Return the backends in the order in which they are tried for ``op``."""
    return MATRIX_ORDER if op in MATRIX_OPS and device == "cuda" else ORDER


@cache
def select(op: str, backend: str | None, first: str | None, device: str) -> str:
    """Return the backend for ``op``: ``backend`` if given, else the first that can run it, trying ``first`` first.

    Raises ValueError if a name is unknown, or if ``backend`` refuses.
    """
    if backend is not None:
        if reason := refusal(check_name(backend), op, device):
            raise ValueError(f"backend: {backend!r} does not take {op} on {device}: {reason}")
        return backend
    tried = order(op, device) if first is None else (check_name(first, "CAGC_BACKEND"), *order(op, device))
    return next(name for name in tried if refusal(name, op, device) is None and (name, op, device) not in _faults)


def explain(op: str, device: object = "cpu", dtype: object = "float32", **call: object) -> str:
    """Explain the choice of the backend: one line per backend, and whether a given call is fused.

    >>> print(explain("bias_act", device="cpu"))    # doctest: +SKIP
    bias_act on cpu, float32:
      native     taken
      triton     skipped: needs a CUDA tensor, got cpu (TRITON_INTERPRET=1 runs it on the CPU, slowly)
      reference  skipped: native comes first
      gain <= 0 and lrelu with alpha < 0 use the reference: kernels derive gradients from the output's sign

    Args:
        op: one of :data:`OPS`.
        device: a ``torch.device`` or its name; only its type matters.
        dtype: a ``torch.dtype`` or its name.
        call: arguments of one call of modulated_conv2d or styled_conv2d (op "modulated_conv2d"): the tensors x and
            weight, which may be on "meta", and any of noise, up, down, padding, resample_filter and act. A last line
            then says whether the steps around the convolution are one kernel, or why they are several.

    Returns:
        Lines of text as in the example.

    Raises:
        ValueError: an unknown op, device or dtype.
        TypeError: ``call`` for another op, without x or weight, or with an unknown name.
    """
    if op not in OPS:
        raise ValueError(f"op: got {op!r}, expected one of {', '.join(OPS)}")
    dtype, first = str(dtype).removeprefix("torch."), preferred()
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype}, expected one of {', '.join(DTYPES)}")
    try:
        device = import_module("torch").device(device).type
    except (TypeError, RuntimeError):
        raise ValueError(f"device: got {device!r}, expected a device of PyTorch") from None
    taken = select(op, None, first, device)
    lines = [f"{op} on {device}, {dtype}:" + (f" (preferred: {first})" if first else "")]
    for name in order(op, device):
        reason = refusal(name, op, device) or _faults.get((name, op, device)) or f"{taken} comes first"
        lines.append(f"  {name:<10} " + ("taken" if name == taken else f"skipped: {reason}"))
    if op in NOTES and taken != "reference":
        lines.append(f"  {NOTES[op]}")
    if call:
        because = _composed_because(op, taken, call)
        lines.append("  this call: " + (f"composed: {because}" if because else "fused"))
    return "\n".join(lines)


def _composed_because(op: str, taken: str, call: dict[str, object]) -> str | None:
    if op != "modulated_conv2d":
        raise TypeError(f"call: got {', '.join(call)}, which only modulated_conv2d explains, not {op}")
    because = import_module("cagc_kernels.ops.modulated_conv2d").composed_because
    _, *known = signature(because).parameters
    if unknown := [name for name in call if name not in known]:
        raise TypeError(f"call: got {', '.join(unknown)}, expected some of {', '.join(known)}")
    if any(getattr(call.get(name), "ndim", 0) != 4 for name in ("x", "weight")):
        raise TypeError("call: expected tensors x and weight of 4 dimensions")
    return because(taken, **call)
