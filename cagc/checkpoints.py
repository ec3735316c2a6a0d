"""Checkpoints: native safetensors with the configuration inside, rosinality's ``.pt`` layout, also the authors', and
NVlabs' ``.pkl``.

Nothing read here can execute code: safetensors holds only numbers, ``.pt`` files are opened with ``weights_only=True``,
and of a ``.pkl`` only tensors and containers are built.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from . import assets, nvlabs, rosinality
from .documents import read_tensors
from .errors import CagcError
from .files import atomic_write
from .models import AnyDiscriminator, AnyGenerator, Discriminator, Generator, build_discriminator, build_generator

FORMAT = "cagc-1"


@dataclass
class Checkpoint:
    """What a checkpoint file holds; networks that it lacks are None.

    Attributes:
        g_ema: generator with averaged weights, the one that draws images.
        g: generator with the weights being trained.
        d: discriminator.
        metadata: whatever was saved beside the networks, as JSON containers.
    """

    g_ema: AnyGenerator | None = None
    g: AnyGenerator | None = None
    d: AnyDiscriminator | None = None
    metadata: dict[str, Any] | None = None


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a native ``.safetensors``, a rosinality-layout ``.pt`` or an NVlabs ``.pkl`` file, in float32.

    ``path`` may be the name of an embedded generator, "faces64" or "faces64-student".

    Raises:
        CagcError: the file is missing, truncated, of another format, holds anything but tensors and containers, or its
            tensors do not make up a known network.
    """
    path = assets.checkpoint(path)
    if not path.is_file():
        raise CagcError(f"checkpoint {path}: no such file")
    checkpoint = {".safetensors": _read_native, ".pkl": _read_nvlabs}.get(path.suffix, _read_torch)(path)
    for network in (checkpoint.g_ema, checkpoint.g, checkpoint.d):
        if network is not None:
            network.to(device).eval().requires_grad_(False)
    return checkpoint


def load_generator(path: str | Path, device: torch.device | str = "cpu") -> AnyGenerator:
    """The averaged generator of a checkpoint, or the trained one where no average was saved; float32, frozen.

    Raises:
        CagcError: as :func:`load_checkpoint`, or the file holds no generator.
    """
    checkpoint = load_checkpoint(path, device)
    generator = checkpoint.g_ema or checkpoint.g
    if generator is None:
        raise CagcError(f"checkpoint {path}: holds no generator ('g_ema' or 'g')")
    return generator


def load_discriminator(path: str | Path, device: torch.device | str = "cpu") -> AnyDiscriminator:
    """The discriminator of a checkpoint; float32, frozen.

    Raises:
        CagcError: as :func:`load_checkpoint`, or the file holds no discriminator.
    """
    discriminator = load_checkpoint(path, device).d
    if discriminator is None:
        raise CagcError(f"checkpoint {path}: holds no discriminator ('d')")
    return discriminator


def save_checkpoint(path: str | Path, checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> None:
    """Write the networks of ``checkpoint`` to a native file, atomically.

    Args:
        path: ends in ``.safetensors``.
        checkpoint: networks and metadata.
        dtype: floating point type on disk (default: as the tensors are). They are read back as float32.

    Raises:
        CagcError: another suffix, no network, or the folder does not exist.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CagcError(f"checkpoint {path}: got suffix {path.suffix!r}, expected '.safetensors'")
    tensors, configs = {}, {}
    for name in ("g_ema", "g", "d"):
        network = getattr(checkpoint, name)
        if network is not None:
            configs[name] = network.config.to_dict()
            for key, tensor in network.state_dict().items():
                tensors[f"{name}.{key}"] = tensor.detach().to("cpu", dtype).contiguous()
    if not configs:
        raise CagcError(f"checkpoint {path}: got no network to write, expected a generator or a discriminator")
    header = {"format": FORMAT, "configs": json.dumps(configs), "metadata": json.dumps(checkpoint.metadata or {})}
    with atomic_write(path) as temporary:
        # Written by either library itself, a full disk would be an error of its own and not an OSError.
        temporary.write_bytes(save(tensors, header))


def save_generator(generator: AnyGenerator, path: str | Path, metadata: dict[str, Any] | None = None) -> None:
    """Write one generator to a native file; see :func:`save_checkpoint`."""
    save_checkpoint(path, Checkpoint(g_ema=generator, metadata=metadata))


def convert(source: str | Path, target: str | Path) -> None:
    """Rewrite a checkpoint in the layout that ``target`` ends in: ``.safetensors`` native, ``.pt`` rosinality's.

    Raises:
        CagcError: ``source`` cannot be read or the suffix of ``target`` is neither.
    """
    target = Path(target)
    if target.suffix not in (".safetensors", ".pt"):
        raise CagcError(f"target {target}: got suffix {target.suffix!r}, expected '.safetensors' or '.pt'")
    checkpoint = load_checkpoint(source)
    if target.suffix == ".safetensors":
        save_checkpoint(target, checkpoint)
        return
    buffer = io.BytesIO()
    torch.save(to_rosinality(checkpoint), buffer)
    with atomic_write(target) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def to_rosinality(checkpoint: Checkpoint) -> dict[str, Any]:
    """The dictionary that rosinality's and the authors' scripts load: "g", "g_ema", "d", "latent_avg"."""
    document: dict[str, Any] = {}
    for name in ("g", "g_ema", "d"):
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
    """SHA-256, 16 hexadecimal digits, of the configuration and every weight in float32; names a teacher in a plan."""
    digest = hashlib.sha256(json.dumps(generator.config.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(generator.named_parameters()):
        digest.update(name.encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _read_native(path: Path) -> Checkpoint:
    header, tensors = read_tensors(path, "checkpoint", FORMAT)
    try:
        configs = json.loads(header["configs"])
        checkpoint = Checkpoint(metadata=json.loads(header.get("metadata", "{}")))
        for name, options in configs.items():
            if name not in ("g_ema", "g", "d"):
                raise ValueError(f"unknown network {name!r}")
            network = build_discriminator(options) if name == "d" else build_generator(options)
            state = {key[len(name) + 1 :]: t.float() for key, t in tensors.items() if key.startswith(f"{name}.")}
            network.load_state_dict(state)
            setattr(checkpoint, name, network)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CagcError(f"checkpoint {path}: configuration and weights disagree ({_one_line(error)})") from None
    return checkpoint


def _read_nvlabs(path: Path) -> Checkpoint:
    document = nvlabs.read_pickle(path)
    checkpoint = Checkpoint(metadata={})
    for name, key in (("g_ema", "G_ema"), ("g", "G")):
        if document.get(key) is not None:
            setattr(checkpoint, name, nvlabs.generator_from_nvlabs(document[key], f"checkpoint {path} [{key}]"))
    if document.get("D") is not None:
        checkpoint.d = nvlabs.discriminator_from_nvlabs(document["D"], f"checkpoint {path} [D]")
    if checkpoint.g_ema is None and checkpoint.g is None and checkpoint.d is None:
        raise CagcError(f"checkpoint {path}: got keys {sorted(map(str, document))[:5]}, expected 'G_ema', 'G' or 'D'")
    return checkpoint


def _read_torch(path: Path) -> Checkpoint:
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Before this word PyTorch advises to load the file without the protection.
        reason = _one_line(str(error).rpartition("WeightsUnpickler error:")[2])
        raise CagcError(f"checkpoint {path}: no torch file, or holds more than tensors, refused ({reason})") from None
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise CagcError(f"checkpoint {path}: truncated or not a torch file ({_one_line(error)})") from None
    if not isinstance(document, dict):
        raise CagcError(
            f"checkpoint {path}: got {type(document).__name__}, expected a dictionary with 'g_ema', 'g' or 'd'"
        )
    if "input.input" in document:
        document = {"g_ema": document}
    checkpoint = Checkpoint(metadata={})
    for name in ("g_ema", "g"):
        if name in document:
            network = rosinality.generator_from_rosinality(document[name], f"checkpoint {path} [{name}]")
            latent_avg = document.get("latent_avg")
            if isinstance(latent_avg, torch.Tensor) and latent_avg.numel() == network.config.style_dim:
                network.w_avg.copy_(latent_avg.flatten())
            else:
                network.estimate_w_avg()
            setattr(checkpoint, name, network)
    if "d" in document:
        checkpoint.d = rosinality.discriminator_from_rosinality(document["d"], f"checkpoint {path} [d]")
    if checkpoint.g_ema is None and checkpoint.g is None and checkpoint.d is None:
        raise CagcError(f"checkpoint {path}: got keys {sorted(map(str, document))[:5]}, expected 'g_ema', 'g' or 'd'")
    return checkpoint


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:160]
