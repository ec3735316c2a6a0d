"""Reads StyleGAN2 networks of NVlabs' code (stylegan2-ada-pytorch, stylegan3) and of its descendants: pickled modules,
or state dicts.

Their pickles contain source code, which is never run: our networks are filled from tensors and options of inert
records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch

from ..common.errors import CagcError
from ..common.wrappings import Part
from ..models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from ..models.stylegan2_config import block_resolutions, layer_names
from .states import check_resolution, draw_missing_noise, fill, filter_taps, numbered, shape_of, width_of

LAYOUT = "NVlabs' StyleGAN2 layout"
WHOLE_BATCH = 2**30  # their group size of None


def generator_from_nvlabs(part: Part, source: str = "pickle") -> Generator:
    """Build the float32 generator of "G" or "G_ema", with its ``w_avg`` and clamp.

    Sizes come from the tensors. A state dict alone does not store clamp, activation and learning rate multiplier: no
    clamp, leaky ReLU and 0.01 are assumed.

    Raises:
        CagcError: names an option that is not supported, or the tensor that is missing or has another shape.
    """
    resolution = _resolution(part, r"synthesis\.b(\d+)\.conv1\.weight", source)
    layers, blocks = layer_names(resolution), block_resolutions(resolution)
    widths = [width_of(part, "synthesis.b4.const", 0, 3, source, LAYOUT)]
    widths += [width_of(part, f"synthesis.{layer}.weight", 0, 4, source, LAYOUT) for layer in layers[1:]]
    config = GeneratorConfig(
        resolution=resolution,
        channels=dict(zip(layers, widths, strict=True)),
        style_dim=width_of(part, "synthesis.b4.conv1.affine.weight", 1, 2, source, LAYOUT),
        resample_filter=filter_taps(part, r"synthesis\.b\d+\.(?:conv\d\.|skip\.)?resample_filter", 1, source),
        conv_clamp=part.options.get("synthesis.b4.conv1.conv_clamp"),
        img_channels=width_of(part, f"synthesis.b{resolution}.torgb.weight", 0, 4, source, LAYOUT),
        block_architecture=_architecture(part, "synthesis.", blocks, "torgb", source),
        const_size=shape_of(part, "synthesis.b4.const", source, LAYOUT)[1:],
        activation=_shared(part, [f"synthesis.{layer}.activation" for layer in layers[1:]], "lrelu", source),
        **_mapping_options(part, source),
    )
    with torch.device("meta"):
        ours = Generator(config).state_dict()
    names = {name: name.replace("to_rgb", "torgb").replace("w_avg", "mapping.w_avg") for name in ours}
    if "mapping.w_avg" not in part.tensors:
        del names["w_avg"]
    noisy = any(name.endswith("noise_strength") for name in part.tensors)
    optional = "noise_const" if noisy else "noise_"  # without noise there are no strengths either, and ours are 0
    generator = fill(lambda: Generator(config), part, names, source, LAYOUT, optional=optional)
    missing = [our for our, their in names.items() if our.endswith("noise_const") and their not in part.tensors]
    if noisy:
        draw_missing_noise(generator, missing, source)
    if "w_avg" not in names:
        generator.estimate_w_avg()
    return generator


def _mapping_options(part: Part, source: str) -> dict[str, Any]:
    """Options of a generator's mapping network."""
    depth = numbered(part, r"mapping\.fc(\d+)\.weight", source)
    found: dict[str, Any] = {"mapping_layers": depth}
    if not depth:
        return found
    found["lr_multiplier"] = _lr_multiplier(part, source)
    names = [f"mapping.fc{i}.activation" for i in range(depth)]
    found["mapping_activation"] = _shared(part, names, "lrelu", source)
    found["z_dim"] = width_of(part, "mapping.fc0.weight", 1, 2, source, LAYOUT)
    if depth > 1:
        found["mapping_width"] = width_of(part, "mapping.fc0.weight", 0, 2, source, LAYOUT)
    if "mapping.embed.weight" in part.tensors:
        found["embed_dim"], found["c_dim"] = (
            width_of(part, "mapping.embed.weight", axis, 2, source, LAYOUT) for axis in (0, 1)
        )
        found["z_dim"] -= found["embed_dim"]
    elif part.options.get("c_dim"):
        raise CagcError(f"{source}: c_dim is {part.options['c_dim']!r:.60}, but 'mapping.embed.weight' is missing")
    return found


def discriminator_from_nvlabs(part: Part, source: str = "pickle") -> Discriminator:
    """Build the float32 discriminator of "D".

    Raises:
        CagcError: names an option that is not supported, or the tensor that is missing or has another shape.
    """
    options = part.options
    resolution = _resolution(part, r"b(\d+)\.(?:conv0\.weight|fromrgb\.weight)", source)
    resolutions = block_resolutions(resolution)[::-1]
    first = f"b{resolution}.fromrgb"
    widths = [width_of(part, f"{first}.weight", 0, 4, source, LAYOUT)]
    widths += [width_of(part, f"b{r}.conv1.weight", 0, 4, source, LAYOUT) for r in resolutions[:-1]]
    convs = [first, *(f"b{r}.conv{i}" for r in resolutions[:-1] for i in (0, 1)), "b4.conv", "b4.fc"]
    config = DiscriminatorConfig(
        resolution,
        dict(zip(resolutions, widths, strict=True)),
        mbstd_group_size=_group_size(options.get("b4.mbstd.group_size", 4), source),
        resample_filter=filter_taps(part, r"b\d+\.(?:\w+\.)?resample_filter", 1, source),
        conv_clamp=options.get(f"{first}.conv_clamp"),
        img_channels=width_of(part, f"{first}.weight", 1, 4, source, LAYOUT),
        block_architecture=_architecture(part, "", resolutions[::-1], "fromrgb", source),
        const_size=_last_size(part, widths[-1], source),
        activation=_shared(part, [f"{name}.activation" for name in convs], "lrelu", source),
        mbstd_channels=width_of(part, "b4.conv.weight", 1, 4, source, LAYOUT) - widths[-1],
        **_label_options(part, source),
    )
    with torch.device("meta"):
        ours = Discriminator(config).state_dict()
    places = {"from_rgb": first, "last_from_rgb": "b4.fromrgb", "conv": "b4.conv", "fc": "b4.fc", "out": "b4.out"}
    names = {}
    for name in ours:
        head, _, rest = name.partition(".")
        names[name] = f"{places.get(head, head)}.{rest}".replace("from_rgb", "fromrgb")
    return fill(lambda: Discriminator(config), part, names, source, LAYOUT)


def _label_options(part: Part, source: str) -> dict[str, Any]:
    """Options of a discriminator's mapping network of labels."""
    if "mapping.embed.weight" not in part.tensors:
        return {}
    embed, c_dim = (width_of(part, "mapping.embed.weight", axis, 2, source, LAYOUT) for axis in (0, 1))
    depth = numbered(part, r"mapping\.fc(\d+)\.weight", source)
    found = {"c_dim": c_dim, "embed_dim": embed, "mapping_layers": depth}
    found["cmap_dim"] = width_of(part, "b4.out.weight", 0, 2, source, LAYOUT)
    if depth:
        found["lr_multiplier"] = _lr_multiplier(part, source)
    if depth > 1:
        found["mapping_width"] = width_of(part, "mapping.fc0.weight", 0, 2, source, LAYOUT)
    return found


def _last_size(part: Part, width: int, source: str) -> tuple[int, int]:
    """Height and width of the last features: square, or half as wide as high (StyleGAN-Human)."""
    inputs = width_of(part, "b4.fc.weight", 1, 2, source, LAYOUT)
    sizes = {16: (4, 4), 8: (4, 2)}
    if inputs % width or inputs // width not in sizes:
        raise CagcError(f"{source}: b4.fc.weight has {inputs} inputs, expected {width} channels of 4 × 4 or 4 × 2")
    return sizes[inputs // width]


def _architecture(part: Part, prefix: str, blocks: list[int], own: str, source: str) -> str:
    """Architecture of the blocks by their tensors: a shortcut, an image layer of their own, or neither."""
    if any(f"{prefix}b{r}.skip.weight" in part.tensors for r in blocks):
        found = "resnet"
    elif f"{prefix}b4.{own}.weight" in part.tensors:
        found = "skip"
    else:  # of a network of one block, only the default can be told
        found = "orig" if len(blocks) > 1 else "resnet" if own == "fromrgb" else "skip"
    for name in (f"{prefix}b{r}.architecture" for r in blocks):
        if len(blocks) > 1 and part.options.get(name, found) != found:
            raise CagcError(f"{source}: {name} is {part.options[name]!r:.60}, but its tensors are those of {found!r}")
    return found


def _shared(part: Part, names: Iterable[str], default: str, source: str) -> str:
    """Value of an option that all layers share; ``default`` where it is not stored."""
    found = {name: part.options[name] for name in names if name in part.options}
    first = next(iter(found), "")
    for name, value in found.items():
        if value != found[first]:
            raise CagcError(f"{source}: {name} is {value!r:.60}, but {first} is {found[first]!r:.60}")
    return found.get(first, default)


def _resolution(part: Part, pattern: str, source: str) -> int:
    """Return the side of the images in pixels: a pickled module's, or that of the largest block of a state dict."""
    blocks = [int(m[1]) for name in part.tensors if (m := re.fullmatch(pattern, name)) and len(m[1]) < 6]
    resolution = part.options.get("img_resolution", max(blocks, default=0))
    try:
        block_resolutions(resolution)
    except ValueError as error:
        raise CagcError(f"{source}: img_{error}") from None
    return check_resolution(resolution, source)


def _lr_multiplier(part: Part, source: str) -> float:
    name = "mapping.fc0.bias_gain"
    return _number(part.options[name], name, source) if name in part.options else part.assume("lr_mlp", 0.01)


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
