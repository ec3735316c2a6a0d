"""The native layout: safetensors with the configuration of every network in the header."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save

from ..common.errors import CagcError
from ..common.reading import parse_json
from ..common.torch_files import Document
from ..common.wrappings import MAX_TENSORS, Part
from ..models import build_discriminator, build_generator
from .states import MAX_FILTER_TAPS, MAX_RESOLUTION, fill

FORMAT = "cagc-1"
NETWORKS = ("g_ema", "g", "d")


def native_networks(document: Document, source: str) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """Return a function for each network of a native file, which builds it, and the file's metadata.

    Raises:
        CagcError: the header is not one that :func:`native_file` writes.
    """
    configs, metadata = (parse_json(document.header.get(name, "{}")) for name in ("configs", "metadata"))
    if not isinstance(configs, dict) or not isinstance(metadata, dict) or len(document.root) > MAX_TENSORS:
        raise CagcError(f"the header is not one of the format {FORMAT}")
    unknown = sorted(set(configs) - set(NETWORKS))
    if unknown:
        raise CagcError(f"got a network {unknown[0]!r:.60}, expected some of {', '.join(NETWORKS)}")
    return {name: _builder(name, options, document, source) for name, options in configs.items()}, metadata


def _builder(name: str, options: Any, document: Document, source: str) -> Callable[[], Any]:
    def build() -> Any:
        part = Part("", "", document.root, document=document).under(f"{name}.")
        make = build_discriminator if name == "d" else build_generator
        try:
            _check_options(options, len(part.tensors))
            with torch.device("meta"):
                expected = set(make(options).state_dict())
            extra = sorted(set(part.tensors) - expected)
            if extra:
                raise CagcError(f"tensor {name}.{extra[0]} is not of this configuration")
            return fill(lambda: make(options), part, None, f"{source} [{name}]", f"the format {FORMAT}")
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
            reason = " ".join(str(error).split())[:240]
            raise CagcError(f"configuration and weights disagree ({reason})") from None

    return build


def _check_options(options: Any, tensors: int) -> None:
    """Check the sizes in a configuration against the number of tensors, before anything is built."""
    if not isinstance(options, dict):
        raise TypeError(f"a configuration is {type(options).__name__}, expected an object")
    resolution, taps = options.get("resolution", 4), options.get("resample_filter", [1])
    if type(resolution) is not int or resolution > MAX_RESOLUTION:
        raise ValueError(f"resolution: got {resolution!r:.40}, expected at most {MAX_RESOLUTION}")
    if not isinstance(taps, list) or len(taps) > MAX_FILTER_TAPS:
        raise ValueError(f"resample_filter: expected a list of at most {MAX_FILTER_TAPS} numbers")
    for name, value in options.items():
        if name.endswith(("layers", "depth")) and (type(value) is not int or value > tensors):
            raise ValueError(f"{name}: got {value!r:.40}, of {tensors} tensors")


def native_file(networks: dict[str, Any], metadata: dict[str, Any] | None, dtype: torch.dtype | None) -> bytes:
    """Return the bytes of a native file with ``networks`` by name, their tensors converted to ``dtype``."""
    tensors, configs = {}, {}
    for name, network in networks.items():
        configs[name] = network.config.to_dict()
        for key, tensor in network.state_dict().items():
            # A copy, because safetensors refuses tensors that two networks share.
            tensors[f"{name}.{key}"] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
    header = {"format": FORMAT, "configs": json.dumps(configs), "metadata": json.dumps(metadata or {})}
    return save(tensors, header)


def round_to_float16(network: Any) -> Any:
    """Round the weights of ``network`` to float16, unless one is too large for it, and return the network.

    A file then holds them in half the bytes, and compiled programs read them from half the bytes.
    """
    tensors = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    if all(tensor.half().isfinite().all() for tensor in tensors):
        for tensor in tensors:
            tensor.copy_(tensor.half())
    return network


def narrowest_dtype(network: Any) -> torch.dtype | None:
    """Return float16 if it holds the weights of ``network`` exactly, otherwise None."""
    tensors = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    return torch.float16 if all(torch.equal(tensor, tensor.half().to(tensor)) for tensor in tensors) else None
