"""Reads and writes checkpoints: native safetensors, and every layout of :data:`cagc.checkpoints.layouts.LAYOUTS`.

Files are recognised by their content, never by their names. Reading cannot execute code: pickles become inert records
(:mod:`cagc.common.inert_pickle`), and every size that a file claims is checked against its bytes.
docs/checkpoints.md lists the layouts, docs/security.md the limits.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import assets
from ..common.checks import choice, number
from ..common.errors import CagcError
from ..common.files import atomic_write
from ..common.reading import printable, reading
from ..common.torch_files import open_document
from ..models import AnyDiscriminator, AnyGenerator, Discriminator, Generator
from ..models.stylegan2_config import UPSAMPLING
from . import nvlabs_state, rosinality
from .choosing import choose, describe_unknown
from .native import FORMAT, NETWORKS, native_file, native_networks

ASSUMPTIONS = ("lr_mlp", "upsampling")
"""What some layouts do not store: the multiplier of the mapping network's learning rate (0.01 is assumed), and whether
BasicSR's generators up-sample by "fir" (assumed) or "bilinear"."""


class _Unread:
    """A network that is read from its file at first access."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self.build = build


class Checkpoint:
    """The networks of a checkpoint, None where one is missing. Networks of a file are read at first access.

    Attributes:
        g_ema: generator with averaged weights, the one that draws images.
        g: generator with the weights being trained.
        d: discriminator.
        metadata: what was saved beside the networks, as JSON containers.
        unknown: a clause for error messages that names a part of unknown layout, or "".
        assumed: what the file does not store and the networks read so far took for granted, such as {"lr_mlp": 0.01}.

    Raises:
        CagcError: at access, if the network cannot be read.
    """

    def __init__(
        self,
        g_ema: AnyGenerator | None = None,
        g: AnyGenerator | None = None,
        d: AnyDiscriminator | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._networks: dict[str, Any] = {"g_ema": g_ema, "g": g, "d": d}
        self.metadata = metadata
        self.unknown = ""
        self.assumed: dict[str, Any] = {}

    def _get(self, name: str) -> Any:
        network = self._networks[name]
        if isinstance(network, _Unread):
            network = self._networks[name] = network.build()
        return network

    @property
    def g_ema(self) -> AnyGenerator | None:
        return self._get("g_ema")

    @property
    def g(self) -> AnyGenerator | None:
        return self._get("g")

    @property
    def d(self) -> AnyDiscriminator | None:
        return self._get("d")

    def holds(self, name: str) -> bool:
        """Whether the checkpoint has a network "g_ema", "g" or "d", readable or not."""
        return self._networks[name] is not None


def load_checkpoint(
    path: str | Path,
    device: torch.device | str = "cpu",
    key: str | None = None,
    assume: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Find the networks in a file of any layout; each is read at first access, in float32 and frozen.

    Args:
        path: a file, or the name of an embedded generator, of :data:`cagc.assets.GENERATORS`.
        device: device of the networks.
        key: selects one of several networks, by a name that the error about an ambiguous file lists.
        assume: what the file does not store, by a name of :data:`ASSUMPTIONS`; see docs/checkpoints.md.

    Raises:
        CagcError: an assumption is not as there, or the file is missing, truncated or of another format, asks to run
            code, or holds no known network.
    """
    path = assets.checkpoint(path)
    source = f"checkpoint {printable(path)}"
    _check_assumptions(assume or {})
    with reading("checkpoint", path):
        document = open_document(path)
        document.given.update(assume or {})
        checkpoint = Checkpoint(metadata={})
        if document.header.get("format") == FORMAT:
            found, checkpoint.metadata = native_networks(document, source)
        else:
            found = choose(document, source, key)
            checkpoint.unknown = describe_unknown(document)
    for name, build in found.items():
        checkpoint._networks[name] = _Unread(_reader(build, path, device))
    checkpoint.assumed = document.assumed
    return checkpoint


def _check_assumptions(assume: Mapping[str, Any]) -> None:
    for name, value in assume.items():
        choice("assume", name, ASSUMPTIONS)
        if name == "upsampling":
            choice(name, value, UPSAMPLING)
        elif not number(value) or value <= 0:
            raise CagcError(f"{name}: got {value!r}, expected a number above 0")


def _reader(build: Callable[[], Any], path: Path, device: torch.device | str) -> Callable[[], Any]:
    def read() -> Any:
        with reading("checkpoint", path):
            network = build()
        return network.to(device).eval().requires_grad_(False)

    return read


def load_generator(
    path: str | Path,
    device: torch.device | str = "cpu",
    key: str | None = None,
    assume: Mapping[str, Any] | None = None,
) -> AnyGenerator:
    """Return the averaged generator of a checkpoint, or the trained one if no average was saved; float32, frozen.

    Other networks in the file are not read.

    Raises:
        CagcError: as :func:`load_checkpoint`, or the file holds no generator.
    """
    checkpoint = load_checkpoint(path, device, key, assume)
    generator = checkpoint.g_ema or checkpoint.g
    if generator is None:
        raise CagcError(f"checkpoint {printable(path)}: holds no generator ('g_ema' or 'g'){checkpoint.unknown}")
    return generator


def load_discriminator(
    path: str | Path, device: torch.device | str = "cpu", key: str | None = None
) -> AnyDiscriminator:
    """Return the discriminator of a checkpoint; float32, frozen.

    Raises:
        CagcError: as :func:`load_checkpoint`, or the file holds no discriminator.
    """
    checkpoint = load_checkpoint(path, device, key)
    if checkpoint.d is None:
        raise CagcError(f"checkpoint {printable(path)}: holds no discriminator ('d'){checkpoint.unknown}")
    return checkpoint.d


def save_checkpoint(path: str | Path, checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> None:
    """Write the networks of ``checkpoint`` to a native file, atomically.

    Args:
        path: ends in ``.safetensors``.
        checkpoint: networks and metadata.
        dtype: floating-point type on disk (default: that of the tensors). Loading always gives float32.

    Raises:
        CagcError: the suffix is another, there is no network, or the folder does not exist.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CagcError(f"checkpoint {printable(path)}: got suffix {path.suffix!r}, expected '.safetensors'")
    networks = {name: getattr(checkpoint, name) for name in NETWORKS if checkpoint.holds(name)}
    if not networks:
        raise CagcError(f"checkpoint {printable(path)}: got no network to write, expected a generator or discriminator")
    with atomic_write(path) as temporary:
        # Python writes the file, because safetensors and torch do not raise OSError when the disk is full.
        temporary.write_bytes(native_file(networks, checkpoint.metadata, dtype))


def save_generator(
    generator: AnyGenerator,
    path: str | Path,
    metadata: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write one generator to a native file; see :func:`save_checkpoint`."""
    save_checkpoint(path, Checkpoint(g_ema=generator, metadata=metadata), dtype)


def convert(
    source: str | Path,
    target: str | Path,
    key: str | None = None,
    to: str | None = None,
    assume: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Rewrite a checkpoint in another layout; return what was assumed about ``source``, by a name of ASSUMPTIONS.

    With ``key``, only the network that it selects is written; see :func:`load_checkpoint`. A trained generator or
    discriminator that cannot be read is left out, with a warning.

    Args:
        source: a checkpoint of any layout.
        target: the file to write: ``.safetensors`` for "native", ``.pt`` for the others.
        key, assume: see :func:`load_checkpoint`.
        to: "native", "rosinality" (:func:`to_rosinality`) or "nvlabs-state" (:func:`to_nvlabs_state`); None: native for
            ``.safetensors``, rosinality's for ``.pt``.

    Raises:
        CagcError: ``source`` cannot be read, ``target`` has another suffix, or the layout cannot express a network.
    """
    target = Path(target)
    if target.suffix not in (".safetensors", ".pt"):
        raise CagcError(f"target {target}: got suffix {target.suffix!r}, expected '.safetensors' or '.pt'")
    to = to or ("native" if target.suffix == ".safetensors" else "rosinality")
    choice("to", to, ("native", *_WRITERS))
    if (to == "native") != (target.suffix == ".safetensors"):
        expected = ".safetensors" if to == "native" else ".pt"
        raise CagcError(f"target {target}: got suffix {target.suffix!r}, expected {expected!r} for {to}")
    checkpoint = load_checkpoint(source, key=key, assume=assume)
    networks = _readable(checkpoint)
    if to == "native":
        save_checkpoint(target, networks)
    else:
        buffer = io.BytesIO()
        torch.save(_WRITERS[to](networks), buffer)
        with atomic_write(target) as temporary:
            temporary.write_bytes(buffer.getbuffer())
    return checkpoint.assumed


def _readable(checkpoint: Checkpoint) -> Checkpoint:
    """Return ``checkpoint`` without the networks that cannot be read. Raises CagcError if none can."""
    networks, problem = {}, None
    for name in NETWORKS:
        try:
            networks[name] = getattr(checkpoint, name)
        except CagcError as error:
            if name == "g_ema":
                raise
            problem = error
            warnings.warn(f"{error}; it is left out", stacklevel=3)
    if problem is not None and not any(networks.values()):
        raise problem
    return Checkpoint(**networks, metadata=checkpoint.metadata)


def to_rosinality(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the dictionary that rosinality's and the authors' scripts load: "g", "g_ema", "d", "latent_avg".

    Raises:
        CagcError: a network has no place in rosinality's layout.
    """
    document: dict[str, Any] = {}
    _check_stylegan2(checkpoint, "rosinality's layout")
    for name in ("g", "g_ema"):
        network = getattr(checkpoint, name)
        if network is not None:
            document[name] = rosinality.generator_to_rosinality(network)
            document["latent_avg"] = network.w_avg.detach().clone()
    if checkpoint.d is not None:
        document["d"] = rosinality.discriminator_to_rosinality(checkpoint.d)
    return document


def to_nvlabs_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return state dicts that NVlabs' StyleGAN2 classes load: "G", "G_ema", "D".

    "init_kwargs" has the arguments of each class by the same names: ``Generator(**init_kwargs["G_ema"])``.

    Raises:
        CagcError: a network has no place in NVlabs' layout, such as one of other widths than it can have.
    """
    _check_stylegan2(checkpoint, "NVlabs' layout")
    document: dict[str, Any] = {}
    kwargs: dict[str, Any] = {}
    for name, theirs in (("g", "G"), ("g_ema", "G_ema"), ("d", "D")):
        network = getattr(checkpoint, name)
        if network is not None:
            write = nvlabs_state.discriminator_state if name == "d" else nvlabs_state.generator_state
            document[theirs], kwargs[theirs] = write(network)
    return document | {"init_kwargs": kwargs}


def _check_stylegan2(checkpoint: Checkpoint, layout: str) -> None:
    for name in NETWORKS:
        network = getattr(checkpoint, name)
        if network is not None and not isinstance(network, (Generator, Discriminator)):
            raise CagcError(f"checkpoint: {type(network).__name__} has no place in {layout}, only StyleGAN2")


_WRITERS = {"rosinality": to_rosinality, "nvlabs-state": to_nvlabs_state}
"""Layouts other than the native one that :func:`convert` writes."""


def generator_hash(generator: AnyGenerator) -> str:
    """Return a hash of the configuration and of every weight in float32, by which plans identify their teacher.

    It is the first 16 hexadecimal digits of a SHA-256.
    """
    digest = hashlib.sha256(json.dumps(generator.config.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(generator.named_parameters()):
        digest.update(name.encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
