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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import assets
from ..common.errors import CagcError
from ..common.files import atomic_write
from ..common.reading import printable, reading
from ..common.torch_files import open_document
from ..models import AnyDiscriminator, AnyGenerator, Discriminator, Generator
from . import rosinality
from .choosing import choose, describe_unknown
from .native import FORMAT, NETWORKS, native_file, native_networks


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


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu", key: str | None = None) -> Checkpoint:
    """Find the networks in a file of any layout; each is read at first access, in float32 and frozen.

    Args:
        path: a file, or the name of an embedded generator, "faces64" or "faces64-student".
        device: device of the networks.
        key: selects one of several networks, by a name that the error about an ambiguous file lists.

    Raises:
        CagcError: the file is missing, truncated or of another format, asks to run code, or holds no known network.
    """
    path = assets.checkpoint(path)
    source = f"checkpoint {printable(path)}"
    with reading("checkpoint", path):
        document = open_document(path)
        checkpoint = Checkpoint(metadata={})
        if document.header.get("format") == FORMAT:
            found, checkpoint.metadata = native_networks(document, source)
        else:
            found = choose(document, source, key)
            checkpoint.unknown = describe_unknown(document)
    for name, build in found.items():
        checkpoint._networks[name] = _Unread(_reader(build, path, device))
    return checkpoint


def _reader(build: Callable[[], Any], path: Path, device: torch.device | str) -> Callable[[], Any]:
    def read() -> Any:
        with reading("checkpoint", path):
            network = build()
        return network.to(device).eval().requires_grad_(False)

    return read


def load_generator(path: str | Path, device: torch.device | str = "cpu", key: str | None = None) -> AnyGenerator:
    """Return the averaged generator of a checkpoint, or the trained one if no average was saved; float32, frozen.

    Other networks in the file are not read.

    Raises:
        CagcError: as :func:`load_checkpoint`, or the file holds no generator.
    """
    checkpoint = load_checkpoint(path, device, key)
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


def save_generator(generator: AnyGenerator, path: str | Path, metadata: dict[str, Any] | None = None) -> None:
    """Write one generator to a native file; see :func:`save_checkpoint`."""
    save_checkpoint(path, Checkpoint(g_ema=generator, metadata=metadata))


def convert(source: str | Path, target: str | Path, key: str | None = None) -> None:
    """Rewrite a checkpoint in the layout of ``target``'s suffix: ``.safetensors`` native, ``.pt`` rosinality's.

    With ``key``, only the network that it selects is written; see :func:`load_checkpoint`. A trained generator or
    discriminator that cannot be read is left out, with a warning.

    Raises:
        CagcError: ``source`` cannot be read, or ``target`` has another suffix.
    """
    target = Path(target)
    if target.suffix not in (".safetensors", ".pt"):
        raise CagcError(f"target {target}: got suffix {target.suffix!r}, expected '.safetensors' or '.pt'")
    checkpoint = _readable(load_checkpoint(source, key=key))
    if target.suffix == ".safetensors":
        save_checkpoint(target, checkpoint)
        return
    buffer = io.BytesIO()
    torch.save(to_rosinality(checkpoint), buffer)
    with atomic_write(target) as temporary:
        temporary.write_bytes(buffer.getbuffer())


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
        CagcError: a network is not StyleGAN2, which rosinality's layout cannot hold.
    """
    document: dict[str, Any] = {}
    for name in NETWORKS:
        network = getattr(checkpoint, name)
        if network is not None and not isinstance(network, (Generator, Discriminator)):
            raise CagcError(f"checkpoint: {type(network).__name__} has no place in rosinality's layout, only StyleGAN2")
    for name in ("g", "g_ema"):
        network = getattr(checkpoint, name)
        if network is not None:
            document[name] = rosinality.generator_to_rosinality(network)
            document["latent_avg"] = network.w_avg.detach().clone()
    if checkpoint.d is not None:
        document["d"] = rosinality.discriminator_to_rosinality(checkpoint.d)
    return document


def generator_hash(generator: AnyGenerator) -> str:
    """Return a hash of the configuration and of every weight in float32, by which plans identify their teacher.

    It is the first 16 hexadecimal digits of a SHA-256.
    """
    digest = hashlib.sha256(json.dumps(generator.config.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(generator.named_parameters()):
        digest.update(name.encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
