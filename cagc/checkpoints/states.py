"""Fills networks from state dicts. Sizes are checked against the file's tensors before a network is built."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..common.errors import CagcError
from ..common.inert_values import kind
from ..common.wrappings import Part, fetch

MAX_RESOLUTION = 4096
MAX_FILTER_TAPS = 64
PUBLISHED_TAPS = (1.0, 3.0, 3.0, 1.0)


def as_part(state: Any, source: str) -> Part:
    """Wrap a state dict in a :class:`Part`; a part is returned unchanged.

    Raises:
        CagcError: ``state`` is neither.
    """
    if isinstance(state, Part):
        return state
    if not isinstance(state, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise CagcError(f"{source}: got {type(state).__name__}, expected a state dict of tensors")
    return Part("", "", {key.removeprefix("module."): tensor for key, tensor in state.items()})


def numbered(part: Part, pattern: str, source: str, first: int = 0) -> int:
    """Count the tensors whose names match ``pattern``, which captures the numbers ``first``, ``first + 1`` and so on.

    Raises:
        CagcError: a number is missing in the sequence.
    """
    found = {int(match[1]) for name in part.tensors if (match := re.fullmatch(pattern, name)) and len(match[1]) < 6}
    matching = sum(bool(re.fullmatch(pattern, name)) for name in part.tensors)
    missing = next((n for n in range(first, first + matching) if n not in found), None)
    if missing is not None:
        name = re.sub(r"\\(.)", r"\1", pattern.replace(r"(\d+)", str(missing)))
        raise CagcError(f"{source}: {name} is missing, though others of its kind are there")
    return matching


def shape_of(part: Part, name: str, source: str, layout: str) -> tuple[int, ...]:
    """Return the shape of the tensor ``name``. Raises CagcError if it is missing; ``layout`` is what was expected."""
    if name not in part.tensors:
        raise CagcError(f"{source}: tensor {name!r} is missing; expected {layout}")
    return tuple(getattr(part.tensors[name], "shape", None) or part.fetch(name).shape)


def width_of(part: Part, name: str, axis: int, ndim: int, source: str, layout: str) -> int:
    """Return the length of one axis of the tensor ``name``. Raises CagcError unless it has ``ndim`` non-empty axes."""
    shape = shape_of(part, name, source, layout)
    if len(shape) != ndim or 0 in shape:
        raise CagcError(f"{source}: {name} has shape {list(shape)}, expected {ndim} dimensions, none of them empty")
    return shape[axis]


def filter_taps(part: Part, pattern: str, total: float, source: str) -> tuple[float, ...]:
    """Return the normalised 1-D taps of the blur kernels whose names match; the published [1, 3, 3, 1] if none do.

    Raises:
        CagcError: a kernel is not separable, its sum is not ``total``, or the layers have different filters: networks
            here have a single filter, so the images would change.
    """
    first, taps = "", PUBLISHED_TAPS
    for name in sorted(name for name in part.tensors if re.fullmatch(pattern, name)):
        own = _taps(part, name, total, source)
        if first and (len(own) != len(taps) or max(abs(a - b) for a, b in zip(own, taps)) > 1e-5):
            raise CagcError(
                f"{source}: the filter {name} differs from {first}; a network here has one filter for all its layers"
            )
        first, taps = name, own
    return taps


def _taps(part: Part, name: str, total: float, source: str) -> tuple[float, ...]:
    kernel = part.fetch(name).double()
    if kernel.ndim == 1:
        kernel = torch.outer(kernel, kernel)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not 1 <= len(kernel) <= MAX_FILTER_TAPS:
        raise CagcError(f"{source}: {name} has shape {list(kernel.shape)}, expected [k, k], k up to {MAX_FILTER_TAPS}")
    taps = kernel.sum(dim=0) / kernel.sum()
    expected = torch.outer(taps, taps) * total
    if not torch.isfinite(kernel).all() or not torch.allclose(kernel, expected, rtol=1e-4, atol=1e-4):
        raise CagcError(f"{source}: {name} is not the outer product of a filter with itself whose sum is {total:g}")
    published = torch.tensor(PUBLISHED_TAPS, dtype=torch.float64) / 8
    if taps.shape == published.shape and torch.allclose(taps, published, atol=1e-6):
        return PUBLISHED_TAPS
    return tuple(taps.tolist())


def check_resolution(resolution: int, source: str) -> int:
    """``resolution``. Raises CagcError above :data:`MAX_RESOLUTION`."""
    if resolution > MAX_RESOLUTION:
        raise CagcError(f"{source}: a resolution of {resolution}, expected at most {MAX_RESOLUTION}")
    return resolution


def fill(
    build: Callable[[], nn.Module], part: Part, names: Mapping[str, str] | None, source: str, layout: str,
    optional: str = "",
) -> nn.Module:  # fmt: skip
    """Build a network and copy the tensors of ``part`` into it, in float32; axes of length one are ignored in shapes.

    Args:
        build: builds the network; it is first called on the meta device, to check shapes without using memory.
        part: tensors of the file.
        names: maps our names to theirs; None if they are the same.
        source: begins every message.
        layout: name of the expected layout in the message about a missing tensor.
        optional: tensors whose names (ours) contain this text may be missing; they keep the values of ``build``.

    Raises:
        CagcError: names the tensor that is missing, or has another shape.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    names = {name: name for name in expected} if names is None else names
    present = {
        ours: theirs for ours, theirs in names.items() if not (optional in ours and optional) or theirs in part.tensors
    }
    for ours, theirs in present.items():
        shape = shape_of(part, theirs, source, layout)
        if [n for n in shape if n != 1] != [n for n in expected[ours] if n != 1]:
            raise CagcError(f"{source}: {theirs} has shape {list(shape)}, expected {list(expected[ours])}")
    with torch.random.fork_rng(devices=[]):
        network = build()
    state = network.state_dict()
    for ours, theirs in present.items():
        tensor = part.fetch(theirs)
        if tensor.dtype.is_complex:
            raise CagcError(f"{source}: {theirs} holds complex numbers, expected real ones")
        state[ours] = tensor.reshape(expected[ours]).to(state[ours].dtype)
    network.load_state_dict(state)
    return network


def draw_missing_noise(generator: nn.Module, missing: list[str], source: str) -> None:
    """Draw the ``missing`` noise maps from a seed computed from the other weights, so a file always gives one image."""
    if not missing:
        return
    digest = hashlib.sha256()
    state = generator.state_dict()
    for name in sorted(set(state) - set(missing)):
        digest.update(name.encode() + state[name].numpy().tobytes())
    rng = torch.Generator().manual_seed(int.from_bytes(digest.digest()[:7], "little"))
    for name in missing:
        state[name].copy_(torch.randn(state[name].shape, generator=rng))
    warnings.warn(
        f"{source}: holds no maps for constant noise ({len(missing)} are missing); they are drawn from a seed made of "
        "its weights, so that the same file always gives the same images",
        stacklevel=2,
    )


def set_mean_w(generator: Any, stored: Any, source: str) -> None:
    """Set ``w_avg`` to the stored mean w, or to an estimate, with a warning if the stored one cannot be used.

    Encoders save one row per layer; equal rows are accepted as one mean.
    """
    if stored is not None:
        try:
            generator.w_avg.copy_(_one_mean(fetch(stored, "latent_avg"), len(generator.w_avg)))
            return
        except (CagcError, AttributeError) as error:
            reason = error if isinstance(error, CagcError) else f"latent_avg is {kind(stored)}, expected a tensor"
            warnings.warn(f"{source}: {reason}; the mean w is estimated instead", stacklevel=2)
    generator.estimate_w_avg()


def _one_mean(mean: torch.Tensor, width: int) -> torch.Tensor:
    if mean.dtype.is_complex or not mean.numel() or mean.numel() % width:
        raise CagcError(f"latent_avg has shape {list(mean.shape)}, expected {width} numbers")
    rows = mean.double().reshape(-1, width)
    if not torch.isfinite(rows).all():
        raise CagcError("latent_avg holds NaN or infinity")
    if not torch.allclose(rows, rows[:1].expand_as(rows), rtol=1e-5, atol=1e-6):
        raise CagcError(f"latent_avg holds {len(rows)} different rows, expected one mean for all layers")
    return rows[0]
