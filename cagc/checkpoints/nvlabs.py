"""Reads StyleGAN2 networks of NVlabs' code (stylegan2-ada-pytorch, stylegan3): pickled modules, or state dicts.

Their pickles contain source code, which is never run: our networks are filled from tensors and options of inert
records.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from ..common.errors import CagcError
from ..common.wrappings import Part
from ..models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from ..models.stylegan2 import block_resolutions, layer_names
from .states import check_resolution, draw_missing_noise, fill, filter_taps, numbered, width_of

LAYOUT = "NVlabs' StyleGAN2 layout"
WHOLE_BATCH = 2**30  # their group size of None


def generator_from_nvlabs(part: Part, source: str = "pickle") -> Generator:
    """Build the float32 generator of "G" or "G_ema", with its ``w_avg`` and clamp.

    A state dict alone does not store clamp, activation and learning rate multiplier: no clamp, leaky ReLU and 0.01 are
    assumed.

    Raises:
        CagcError: names what is not supported (labels, z and w of different lengths, another architecture or
            activation, images that are not RGB), or the tensor that is missing.
    """
    options = part.options
    resolution = _resolution(part, r"synthesis\.b(\d+)\.conv1\.weight", source)
    w = width_of(part, "mapping.w_avg", 0, 1, source, LAYOUT)
    depth = numbered(part, r"mapping\.fc(\d+)\.weight", source)
    layers = layer_names(resolution)
    expected: dict[str, Any] = {"z_dim": w, "c_dim": 0, "img_channels": 3}
    expected |= {f"mapping.fc{i}.activation": "lrelu" for i in range(depth)}
    expected |= {f"synthesis.b{r}.architecture": "skip" for r in block_resolutions(resolution)}
    expected |= {f"synthesis.{layer}.activation": "lrelu" for layer in layers[1:]}
    _expect(options, expected, source)
    tensors = {"synthesis.b4.const": 3} | {f"synthesis.{layer}.weight": 4 for layer in layers[1:]}
    widths = [width_of(part, name, 0, ndim, source, LAYOUT) for name, ndim in tensors.items()]
    config = GeneratorConfig(
        resolution=resolution,
        channels=dict(zip(layers, widths, strict=True)),
        style_dim=w,
        mapping_layers=depth,
        lr_multiplier=_number(options.get("mapping.fc0.bias_gain", 0.01), "mapping.fc0.bias_gain", source),
        resample_filter=filter_taps(part, r"synthesis\.b\d+\.(?:conv\d\.)?resample_filter", 1, source),
        conv_clamp=options.get("synthesis.b4.conv1.conv_clamp"),
    )
    with torch.device("meta"):
        ours = Generator(config).state_dict()
    names = {name: name.replace("to_rgb", "torgb").replace("w_avg", "mapping.w_avg") for name in ours}
    generator = fill(lambda: Generator(config), part, names, source, LAYOUT, optional="noise_const")
    missing = [our for our, their in names.items() if our.endswith("noise_const") and their not in part.tensors]
    draw_missing_noise(generator, missing, source)
    return generator


def discriminator_from_nvlabs(part: Part, source: str = "pickle") -> Discriminator:
    """Build the float32 discriminator of "D".

    Raises:
        CagcError: names what is not supported (labels, another architecture), or the tensor that is missing.
    """
    options = part.options
    resolution = _resolution(part, r"b(\d+)\.(?:conv0\.weight|fromrgb\.weight)", source)
    resolutions = block_resolutions(resolution)[::-1]
    expected = {"c_dim": 0, "img_channels": 3}
    _expect(options, expected | {f"b{r}.architecture": "resnet" for r in resolutions[:-1]}, source)
    first = f"b{resolution}.fromrgb"
    widths = [width_of(part, f"{first}.weight", 0, 4, source, LAYOUT)]
    widths += [width_of(part, f"b{r}.conv1.weight", 0, 4, source, LAYOUT) for r in resolutions[:-1]]
    config = DiscriminatorConfig(
        resolution,
        dict(zip(resolutions, widths, strict=True)),
        mbstd_group_size=_group_size(options.get("b4.mbstd.group_size", 4), source),
        resample_filter=filter_taps(part, r"b\d+\.(?:\w+\.)?resample_filter", 1, source),
        conv_clamp=options.get(f"{first}.conv_clamp"),
    )
    with torch.device("meta"):
        ours = Discriminator(config).state_dict()
    names = {}
    for name in ours:
        head = name.partition(".")[0]
        places = {"from_rgb": f"{first}{name[len(head) :]}", "conv": f"b4.{name}", "fc": f"b4.{name}"}
        names[name] = places.get(head, f"b4.{name}" if head == "out" else name)
    return fill(lambda: Discriminator(config), part, names, source, LAYOUT)


def _resolution(part: Part, pattern: str, source: str) -> int:
    """Return the side of the images in pixels: a pickled module's, or that of the largest block of a state dict."""
    blocks = [int(m[1]) for name in part.tensors if (m := re.fullmatch(pattern, name)) and len(m[1]) < 6]
    resolution = part.options.get("img_resolution", max(blocks, default=0))
    try:
        block_resolutions(resolution)
    except ValueError as error:
        raise CagcError(f"{source}: img_{error}") from None
    return check_resolution(resolution, source)


def _expect(options: dict[str, Any], expected: dict[str, Any], source: str) -> None:
    for name, value in expected.items():
        if options and options.get(name) != value:
            raise CagcError(f"{source}: {name} is {options.get(name)!r:.60}, expected {value!r}")


def _number(value: Any, name: str, source: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise CagcError(f"{source}: {name} is {value!r:.60}, expected a number above 0")
    return float(value)


def _group_size(value: Any, source: str) -> int:
    if value is None:
        return WHOLE_BATCH
    if type(value) is not int or not 1 <= value <= WHOLE_BATCH:
        raise CagcError(f"{source}: b4.mbstd.group_size is {value!r:.60}, expected an integer from 1 on, or None")
    return value
