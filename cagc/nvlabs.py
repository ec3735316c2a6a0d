"""StyleGAN2 networks of NVlabs' ``.pkl`` snapshots (stylegan2-ada-pytorch, stylegan3), without their code.

Their pickles carry source code, which is never run: an unpickler with a short list of what it may build makes inert
records of the networks, and ours are filled from their tensors.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

from .errors import CagcError
from .models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from .models.stylegan2 import block_resolutions, layer_names
from .state_dicts import State, count, filter_taps, load, need

LAYOUT = "NVlabs' StyleGAN2 layout"
WHOLE_BATCH = 2**30  # their group size of None


@dataclass
class Network:
    """What a pickled module of theirs is read as.

    Attributes:
        name: of its class.
        state: its parameters and buffers by dotted name, of its submodules too.
        options: its other attributes, by dotted name likewise.
    """

    name: str
    state: State = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def read_pickle(path: str | Path) -> dict[str, Any]:
    """The snapshot's dictionary, its networks ("G", "G_ema", "D") as :class:`Network`.

    Raises:
        CagcError: the file is truncated, no pickle, no dictionary, or asks for anything but tensors, containers,
            numbers and networks.
    """
    try:
        with open(path, "rb") as file:
            document = _Unpickler(file).load()
    except CagcError as error:
        raise CagcError(f"checkpoint {path}: {error}") from None
    except Exception as error:  # what a damaged stream of opcodes raises is not limited to a few types
        raise CagcError(f"checkpoint {path}: truncated or not a pickle ({_line(error)})") from None
    if not isinstance(document, dict):
        raise CagcError(f"checkpoint {path}: got {type(document).__name__}, expected a dictionary with 'G_ema'")
    return document


def generator_from_nvlabs(network: Any, source: str = "pickle") -> Generator:
    """Generator, float32, of a "G" or "G_ema", with its ``w_avg`` and clamp.

    Raises:
        CagcError: names what this StyleGAN2 has not: labels, a z and w of two lengths, another architecture or
            activation, images that are not RGB, or a tensor that is missing.
    """
    network = _check(network, "Generator", source)
    state, options = network.state, network.options
    resolution = options.get("img_resolution")
    w = need(state, "mapping.w_avg", source, LAYOUT).numel()
    depth = count(state, r"mapping\.fc(\d+)\.weight")
    layers = layer_names(resolution)
    expected: dict[str, Any] = {"z_dim": w, "c_dim": 0, "img_channels": 3}
    expected |= {f"mapping.fc{i}.activation": "lrelu" for i in range(depth)}
    expected |= {f"synthesis.b{r}.architecture": "skip" for r in block_resolutions(resolution)}
    expected |= {f"synthesis.{layer}.activation": "lrelu" for layer in layers[1:]}
    _expect(options, expected, source)
    tensors = ["synthesis.b4.const"] + [f"synthesis.{layer}.weight" for layer in layers[1:]]
    widths = [need(state, name, source, LAYOUT).shape[0] for name in tensors]
    generator = Generator(
        GeneratorConfig(
            resolution=resolution,
            channels=dict(zip(layers, widths, strict=True)),
            style_dim=w,
            mapping_layers=depth,
            lr_multiplier=float(options.get("mapping.fc0.bias_gain", 0.01)),
            resample_filter=filter_taps(state, r"synthesis\.b\d+\.resample_filter"),
            conv_clamp=options.get("synthesis.b4.conv1.conv_clamp"),
        )
    )
    names = {ours: ours.replace("to_rgb", "torgb").replace("w_avg", "mapping.w_avg") for ours in generator.state_dict()}
    load(generator, state, names, source, LAYOUT, optional="noise_")
    return generator


def discriminator_from_nvlabs(network: Any, source: str = "pickle") -> Discriminator:
    """Discriminator, float32, of a "D".

    Raises:
        CagcError: names what this StyleGAN2 has not: labels, another architecture, or a tensor that is missing.
    """
    network = _check(network, "Discriminator", source)
    state, options = network.state, network.options
    resolution = options.get("img_resolution")
    resolutions = block_resolutions(resolution)[::-1]
    expected = {"c_dim": 0, "img_channels": 3}
    _expect(options, expected | {f"b{r}.architecture": "resnet" for r in resolutions[:-1]}, source)
    first = f"b{resolution}.fromrgb"
    widths = [need(state, f"{first}.weight", source, LAYOUT).shape[0]]
    widths += [need(state, f"b{r}.conv1.weight", source, LAYOUT).shape[0] for r in resolutions[:-1]]
    discriminator = Discriminator(
        DiscriminatorConfig(
            resolution,
            dict(zip(resolutions, widths, strict=True)),
            mbstd_group_size=options.get("b4.mbstd.group_size") or WHOLE_BATCH,
            resample_filter=filter_taps(state, r"b\d+\.conv1\.resample_filter"),
            conv_clamp=options.get(f"{first}.conv_clamp"),
        )
    )
    names = {}
    for ours in discriminator.state_dict():
        part = ours.partition(".")[0]
        places = {"from_rgb": f"{first}{ours[len(part) :]}", "conv": f"b4.{ours}", "fc": f"b4.{ours}"}
        names[ours] = places.get(part, f"b4.{ours}" if part == "out" else ours)
    load(discriminator, state, names, source, LAYOUT)
    return discriminator


def _check(network: Any, name: str, source: str) -> Network:
    got = network.name if isinstance(network, Network) else type(network).__name__
    if got != name:
        raise CagcError(f"{source}: got {got}, expected a pickled {name}")
    resolution = network.options.get("img_resolution")
    try:
        block_resolutions(resolution)
    except ValueError as error:
        raise CagcError(f"{source}: img_{error}") from None
    return network


def _expect(options: dict[str, Any], expected: dict[str, Any], source: str) -> None:
    for name, value in expected.items():
        if options.get(name) != value:
            raise CagcError(f"{source}: {name} is {options.get(name)!r}, expected {value!r}")


def _network(meta: dict[str, Any]) -> Network:
    """A record of a module from its attributes; the source code in ``meta`` is left alone."""
    attributes = dict(meta["state"])
    network = Network(meta["class_name"])
    for kind in ("_parameters", "_buffers"):
        tensors = attributes.pop(kind, {})
        network.state |= {name: t.detach() for name, t in tensors.items() if isinstance(t, torch.Tensor)}
    for name, child in attributes.pop("_modules", {}).items():
        if isinstance(child, Network):
            network.state |= {f"{name}.{key}": value for key, value in child.state.items()}
            network.options |= {f"{name}.{key}": value for key, value in child.options.items()}
    network.options |= {name: value for name, value in attributes.items() if not name.startswith("_")}
    return network


def _storage(content: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CagcError(
            "holds more than tensors and networks, refused (one of its storages is something else)"
        ) from None


def _scalar(dtype: np.dtype, content: Any) -> Any:
    return np.frombuffer(content, dtype, count=1)[0].item()


_ALLOWED = {
    "torch_utils.persistence._reconstruct_persistent_obj": _network,
    "dnnlib.util.EasyDict": dict,
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.storage._load_from_bytes": _storage,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        if asked.startswith("dnnlib.tflib"):
            raise CagcError("a TensorFlow snapshot; legacy.py of stylegan2-ada-pytorch writes one that can be read")
        if asked not in _ALLOWED:
            raise CagcError(f"holds more than tensors and networks, refused (it asks for {asked})")
        return _ALLOWED[asked]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
