"""Writes a generator as one flat file for the C interface, which draws from it without PyTorch (docs/edge.md)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cagc_kernels.synthesis import ConvWeights, GeneratorWeights

from ..common.checks import choice
from ..common.errors import CagcError
from ..common.files import atomic_write
from ..editing.directions import Directions
from ..models import AnyGenerator

MAGIC, VERSION, ARCHITECTURE, FLAT_SUFFIX = b"CAGCFLAT", 1, b"stylegan2", ".cagc"
HEADER, ENTRY, ALIGNMENT = 64, 96, 16
STORAGES = ("float32", "float16", "int8")
"""How weights are stored; "int8": mapping and affine layers as int8 rows with one scale each, others as float16."""

_FLOAT32, _FLOAT16, _INT8_ROWS, _INT32, _BYTES = range(5)


class _Array(NamedTuple):
    name: str
    kind: int
    shape: tuple[int, ...]
    data: bytes


def export_flat(generator: AnyGenerator, path: str | Path, **options) -> None:
    """Write :func:`flat_bytes` of ``generator`` and ``options`` to ``path``, atomically.

    Raises:
        CagcError: as :func:`flat_bytes`, or the suffix is not ``.cagc``, or the folder does not exist.
    """
    path = Path(path)
    if path.suffix != FLAT_SUFFIX:
        raise CagcError(f"export {path}: got suffix {path.suffix!r}, expected {FLAT_SUFFIX!r}")
    data = flat_bytes(generator, **options)
    with atomic_write(path) as temporary:
        Path(temporary).write_bytes(data)


@torch.no_grad()
def flat_bytes(
    generator: AnyGenerator,
    *,
    storage: str = "float16",
    mapping: bool = True,
    noise: bool = True,
    directions: Directions | None = None,
    names: Sequence[str] | None = None,
    licence: str = "",
    thumbnails: bytes = b"",
) -> bytes:
    """The flat file of ``generator``.

    Args:
        generator: a StyleGAN2 generator.
        storage: one of :data:`STORAGES`.
        mapping: whether the file carries the mapping network; without it, w comes from ``w_avg`` and directions.
        noise: whether it carries the constant noise maps.
        directions: edit directions that it carries.
        names: their names; None: "Direction 1", "Direction 2", ...
        licence: licence of the weights, text.
        thumbnails: a sheet of thumbnails, the bytes of a PNG or JPEG file.

    Raises:
        CagcError: the generator is not one that the C interface draws, its weights are not finite or do not fit
            ``storage``, or the directions are of another length or number than it expects.
    """
    choice("storage", storage, STORAGES)
    reason = generator.not_compiled(mapping) if hasattr(generator, "not_compiled") else "it draws StyleGAN2 alone"
    if reason:
        raise CagcError(f"export: got a generator that the C interface does not draw: {reason}")
    weights = generator.frozen_weights(mapping)
    arrays = [*_network(generator, weights, mapping), *_layers(weights, storage, mapping)]
    if noise:
        arrays += _noise(generator, storage)
    if directions is not None:
        arrays += _directions(directions, names, generator.w_dim)
    extras = {"licence": licence.encode(), "thumbnails": thumbnails}
    arrays += [_Array(name, _BYTES, (len(data),), data) for name, data in extras.items() if data]
    return _assemble(arrays)


def _network(generator: AnyGenerator, weights: GeneratorWeights, mapping: bool) -> Iterator[_Array]:
    z_dim, depth = (generator.z_dim, len(weights.mapping)) if mapping else (generator.w_dim, -1)
    yield _integers("sizes", [z_dim, generator.w_dim, generator.num_ws, depth])
    rows = [[c.resolution, c.up, c.w, -1 if c.to_rgb is None else c.to_rgb.w] for c in weights.convs]
    yield _integers("convs", rows)
    yield _numbers("strengths", torch.tensor([c.noise_strength for c in weights.convs]), "float32")
    yield _numbers("fir", torch.tensor(weights.fir), "float32")
    if weights.clamp is not None:
        yield _numbers("clamp", torch.tensor([float(weights.clamp)]), "float32")
    yield _numbers("w_avg", generator.w_avg, "float32")


def _layers(weights: GeneratorWeights, storage: str, mapping: bool) -> Iterator[_Array]:
    dense = "float16" if storage == "int8" else storage
    yield _numbers("constant", weights.constant, dense)
    for i, (weight, bias) in enumerate(weights.mapping if mapping else ()):
        for name, tensor, kind in (("weight", weight, storage), ("bias", bias, "float32")):
            yield _numbers(f"mapping.{i}.{name}", tensor, kind)
    for i, conv in enumerate(weights.convs):
        for name, tensor, kind in _parts(conv, dense, storage):
            yield _numbers(f"convs.{i}.{name}", tensor, kind)


def _parts(conv: ConvWeights, dense: str, storage: str) -> Iterator[tuple[str, Tensor, str]]:
    yield "weight", conv.weight, dense
    yield "bias", conv.bias, "float32"
    yield "affine", conv.affine, storage
    yield "affine_bias", conv.affine_bias, "float32"
    if (rgb := conv.to_rgb) is not None:
        yield "rgb_weight", rgb.weight, "float32"
        yield "rgb_bias", rgb.bias, "float32"
        yield "rgb_affine", rgb.affine, storage
        yield "rgb_affine_bias", rgb.affine_bias, "float32"


def _noise(generator: AnyGenerator, storage: str) -> Iterator[_Array]:
    noisy = [generator.get_submodule(spec.module) for spec in generator.config.layers() if spec.noise]
    for i, layer in enumerate(noisy):
        yield _numbers(f"convs.{i}.noise", layer.noise_const, "float32" if storage == "float32" else "float16")


def _directions(directions: Directions, names: Sequence[str] | None, w_dim: int) -> Iterator[_Array]:
    count = len(directions)
    names = [f"Direction {i + 1}" for i in range(count)] if names is None else names
    if len(names) != count or not all(names) or directions.vectors.shape[1] != w_dim or not 1 <= count <= 512:
        raise CagcError(
            f"directions: got {count} of length {directions.vectors.shape[1]} and {len(names)} names, "
            f"expected 1 to 512 of length {w_dim} with a name each"
        )
    yield _numbers("direction_scales", directions.spread, "float32")
    for i, (vector, name) in enumerate(zip(directions.vectors, names)):
        yield _numbers(f"directions.{i}", vector, "float32")
        data = name.encode()
        yield _Array(f"directions.{i}.name", _BYTES, (len(data),), data)


def _integers(name: str, values: list) -> _Array:
    tensor = torch.tensor(values, dtype=torch.int32)
    return _Array(name, _INT32, tuple(tensor.shape), tensor.numpy().astype("<i4").tobytes())


def _numbers(name: str, tensor: Tensor, storage: str) -> _Array:
    tensor = tensor.detach().cpu().double()
    if not tensor.isfinite().all():
        raise CagcError(f"export: {name}: got numbers that are not finite, expected finite ones")
    shape = tuple(tensor.shape)
    if storage == "int8":
        rows = tensor.flatten(1)
        scales = (rows.abs().amax(1) / 127).float().clamp_min(torch.finfo(torch.float32).tiny)
        quantised = (rows / scales.double()[:, None]).round().clamp(-127, 127).to(torch.int8)
        return _Array(name, _INT8_ROWS, shape, scales.numpy().astype("<f4").tobytes() + quantised.numpy().tobytes())
    stored = tensor.to(getattr(torch, storage))
    if not stored.isfinite().all():
        largest = tensor.abs().max().item()
        raise CagcError(
            f"export: {name}: got {largest:g}, expected numbers that {storage} holds: take storage 'float32'"
        )
    kind, code = (_FLOAT16, "<f2") if storage == "float16" else (_FLOAT32, "<f4")
    return _Array(name, kind, shape, stored.numpy().astype(code).tobytes())


def _assemble(arrays: Sequence[_Array]) -> bytes:
    """Header, table and arrays; docs/edge.md describes them."""
    table, body, offset = [], [], HEADER + ENTRY * len(arrays)
    for array in arrays:
        shape = array.shape + (1,) * (4 - len(array.shape))
        sizes = len(array.shape), *shape, offset, len(array.data), 0
        table.append(struct.pack("<48s2I4I3Q", array.name.encode(), array.kind, *sizes))
        body.append(array.data + bytes(-len(array.data) % ALIGNMENT))
        offset += len(body[-1])
    rest = struct.pack("<Q2I32s", offset, len(arrays), 0, ARCHITECTURE) + b"".join(table) + b"".join(body)
    return MAGIC + struct.pack("<2I", VERSION, zlib.crc32(rest)) + rest
