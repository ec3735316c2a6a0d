"""Which backends exist, why one does not, and which one an op takes.

Every backend refuses with a reason, and the first one that does not refuse is taken. A backend named in a call
(``backend="native"``) is binding: if it refuses, the call raises. A backend preferred for a stretch of code
(:func:`use_backend`) or for a process (``CAGC_BACKEND``) is tried first and passed over where it has no kernel;
:func:`explain` tells which one runs and why.
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
OPS = ("bias_act", "upfirdn2d", "epilogue", "modulated_conv2d", "sparse_channel_conv2d")

# Compiled kernels first: on the host, native is one pass over memory; on the GPU it has no launcher to warm up.
ORDER = ("native", "triton", "reference")
# Except for products of matrices on a GPU: only Triton's kernels use its tensor cores.
MATRIX_ORDER = ("triton", "native", "reference")
MATRIX_OPS = ("sparse_channel_conv2d",)

# The op stems each backend has kernels for; a file of that name lies in the backend's folder.
IMPLEMENTS = {
    "reference": OPS,
    "native": OPS,
    "triton": tuple(op for op in OPS if op != "epilogue"),  # modulated_conv2d holds it
}

# Where what runs is not the taken backend's kernel alone; explain() says it.
NOTES = {
    "bias_act": "the reference computes gain <= 0, or lrelu with alpha < 0: the slope could not be read off the output",
    "upfirdn2d": "the reference computes a filter that requires a gradient",
    "modulated_conv2d": "native is PyTorch's convolution between kernels of ours, one for all that follows it (several"
    " for smooth activations, up-sampling but by 2 with 4 x 4 taps, noise per channel); triton's backward pass is the"
    " reference's formula",
    "sparse_channel_conv2d": "up-sampling is two kernels, upfirdn2d being the second; the backward pass is PyTorch's"
    " convolution over the gathered block",
}

DTYPES = ("float32", "float64", "float16", "bfloat16")

# A plain global: torch.compile guards on it, and compiles anew when it changes.
_preferred: str | None = os.environ.get("CAGC_BACKEND") or None


# What the first use on a device found wrong, by (backend, op, type of device); only calls that name it still take it.
_faults: dict[tuple[str, str, str], str] = {}


def distrust(name: str, op: str, device: str, fault: str) -> None:
    """Pass backend ``name`` over where ``op`` chooses on this type of device, because of ``fault``."""
    _faults[name, op, device] = fault
    select.cache_clear()


def check_name(name: str, argument: str = "backend") -> str:
    """``name`` if it is a backend's; ValueError or TypeError listing the valid names otherwise."""
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


def preferred() -> str | None:
    """The backend of the innermost :func:`use_backend`, else that of ``CAGC_BACKEND`` when this module was loaded."""
    return _preferred


def implements(name: str, op: str) -> bool:
    """Whether backend ``name`` has kernels of its own for ``op``."""
    return op in IMPLEMENTS[name]


@cache
def unavailable(name: str) -> str | None:
    """Why backend ``name`` cannot run in this process at all; None if it can. Found out once, then kept."""
    if name == "native":
        return import_module("cagc_kernels.native").REASON
    if name == "triton" and find_spec("triton") is None:
        return "triton is not installed (pip install 'cagc[triton]')"
    return None


def refusal(name: str, op: str, device: str = "cpu") -> str | None:
    """Why backend ``name`` does not take ``op`` on this type of device; None if it does, in every dtype."""
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
    """The backends in the order in which ``op`` tries them."""
    return MATRIX_ORDER if op in MATRIX_OPS and device == "cuda" else ORDER


@cache
def select(op: str, backend: str | None, first: str | None, device: str) -> str:
    """The backend that ``op`` takes: ``backend`` if it is given, else ``first``, else the first of :func:`order`.

    Raises ValueError if a name is unknown, or if ``backend`` refuses.
    """
    if backend is not None:
        if reason := refusal(check_name(backend), op, device):
            raise ValueError(f"backend: {backend!r} does not take {op} on {device}: {reason}")
        return backend
    tried = order(op, device) if first is None else (check_name(first, "CAGC_BACKEND"), *order(op, device))
    return next(name for name in tried if refusal(name, op, device) is None and (name, op, device) not in _faults)


def explain(op: str, device: object = "cpu", dtype: object = "float32", **call: object) -> str:
    """One line per backend: taken, or skipped and why; and whether one call is a single kernel.

    >>> print(explain("bias_act", device="cpu"))    # doctest: +SKIP
    bias_act on cpu, float32:
      native     taken
      triton     skipped: needs a CUDA tensor, got cpu (TRITON_INTERPRET=1 runs it on the CPU, slowly)
      reference  skipped: native comes first
      the reference computes gain <= 0, or lrelu with alpha < 0: the slope could not be read off the output

    ``device`` is a ``torch.device`` and ``dtype`` a ``torch.dtype``, or their names. ``call`` is one call of
    modulated_conv2d or styled_conv2d: x and weight, on "meta" too, and what it gives of noise, up, down, padding,
    resample_filter and act. A last line then says whether all that surrounds the convolution is one kernel, or why it
    is composed of several.

    Raises:
        ValueError: an unknown op, device or dtype.
        TypeError: ``call`` for another op, without x or weight, or with a name that is none of these.
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
