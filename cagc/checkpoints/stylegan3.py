"""Reads StyleGAN3 networks of NVlabs' code and of its descendants: pickled modules, or state dicts.

Sizes come from the names and shapes of the tensors, so that pruned networks are read too; what a state dict alone does
not store is taken from the published configurations. The filters in a file must be those that its options make.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch

from ..common.errors import CagcError
from ..common.wrappings import Part
from ..models import StyleGAN3Config, StyleGAN3Generator
from ..models.stylegan3_config import MAX_LAYERS, layer_names
from .nvlabs import _mapping_options
from .states import check_resolution, fill, shape_of, width_of

LAYOUT = "NVlabs' StyleGAN3 layout"


class _Layer(NamedTuple):
    """One layer by its name in the file, "L3_52_512": its number, the side of its output and its full width."""

    name: str
    number: int
    size: int


def generator_from_stylegan3(part: Part, source: str = "pickle") -> StyleGAN3Generator:
    """Build the float32 generator of "G" or "G_ema", with its ``w_avg``, transform and magnitudes.

    A state dict alone does not store clamp, scale and number of critically sampled layers: 256, 0.25 and 2 are assumed.

    Raises:
        CagcError: names an option that is not supported, or the tensor that is missing or has another shape.
    """
    layers = _layers(part, source)
    *convs, rgb = (layer.name for layer in layers)
    widths = [width_of(part, "synthesis.input.weight", 0, 2, source, LAYOUT)]
    widths += [width_of(part, f"synthesis.{name}.weight", 0, 4, source, LAYOUT) for name in convs]
    options = {
        "channels": dict(zip(layer_names(len(convs)), widths, strict=True)),
        "style_dim": width_of(part, "synthesis.input.affine.weight", 1, 2, source, LAYOUT),
        "img_channels": width_of(part, f"synthesis.{rgb}.weight", 0, 4, source, LAYOUT),
        "frequencies": width_of(part, "synthesis.input.weight", 1, 2, source, LAYOUT),
        "num_layers": len(convs),
        "conv_kernel": width_of(part, f"synthesis.{convs[0]}.weight", 2, 4, source, LAYOUT),
        **_mapping_options(part, source),
        **_options(part, convs, source),
    }
    try:
        config = StyleGAN3Config(check_resolution(layers[-1].size, source), **options)
    except (ValueError, TypeError) as error:
        raise CagcError(f"{source}: {error}") from None
    _check_sizes(config, layers, source)
    theirs = dict(zip([*list(config.channels)[1:], "to_rgb"], (layer.name for layer in layers), strict=True))
    with torch.device("meta"):
        ours = StyleGAN3Generator(config).state_dict()
    names = {name: _their_name(name, theirs) for name in ours}
    if "mapping.w_avg" not in part.tensors:
        del names["w_avg"]
    generator = fill(lambda: StyleGAN3Generator(config), part, names, source, LAYOUT)
    if "w_avg" not in names:
        generator.estimate_w_avg()
    _check_filters(generator, theirs, part, source)
    _check_transform(generator, source)
    return generator


def _layers(part: Part, source: str) -> list[_Layer]:
    """Layers in order, toRGB last. Raises CagcError if a number is missing or there are too few or too many."""
    pattern = r"synthesis\.(L(\d{1,4})_(\d{1,5})_\d{1,6})\.weight"
    found = [_Layer(m[1], int(m[2]), int(m[3])) for name in part.tensors if (m := re.fullmatch(pattern, name))]
    found.sort(key=lambda layer: layer.number)
    missing = next((i for i, layer in enumerate(found) if layer.number != i), None)
    if missing is not None:
        raise CagcError(f"{source}: synthesis.L{missing}_*.weight is missing, though others of its kind are there")
    if not 3 <= len(found) <= MAX_LAYERS + 1:
        raise CagcError(f"{source}: holds {len(found)} layers 'synthesis.L*', expected 3 to {MAX_LAYERS + 1}")
    return found


def _options(part: Part, convs: list[str], source: str) -> dict[str, Any]:
    """Options that only a pickled module stores, and those that the filters show."""
    first = f"synthesis.{convs[0]}"
    places = {
        "num_critical": "synthesis.num_critical", "margin_size": "synthesis.margin_size",
        "output_scale": "synthesis.output_scale", "conv_clamp": f"{first}.conv_clamp",
        "first_cutoff": "synthesis.input.bandwidth", "square": "synthesis.square",
    }  # fmt: skip
    found = {ours: part.options[theirs] for ours, theirs in places.items() if theirs in part.options}
    down = f"{first}.down_filter"
    if down in part.tensors:
        found["use_radial_filters"] = len(shape_of(part, down, source, LAYOUT)) == 2
    return found


def _their_name(name: str, theirs: dict[str, str]) -> str:
    """The name in the file of an entry of our state dict."""
    if name == "w_avg":
        return "mapping.w_avg"
    network, layer, *rest = name.split(".")
    return ".".join([network, theirs.get(layer, layer), *rest]) if network == "synthesis" else name


def _check_sizes(config: StyleGAN3Config, layers: list[_Layer], source: str) -> None:
    """Raise CagcError unless the sides of the outputs are those of ``config``."""
    for layer, size in zip(layers, config.sizes(), strict=True):
        if layer.size != size:
            raise CagcError(f"{source}: {layer.name} draws {layer.size} pixels, expected {size} by the other options")


def _check_filters(generator: StyleGAN3Generator, theirs: dict[str, str], part: Part, source: str) -> None:
    """Raise CagcError if a filter in the file is another one than the layer of ``generator`` has."""
    for our, their in theirs.items():
        layer = generator.synthesis.get_submodule(our)
        for name in ("up_filter", "down_filter"):
            stored = f"synthesis.{their}.{name}"
            if stored not in part.tensors:
                continue
            own, found = getattr(layer, name), part.fetch(stored).float()
            if own is None or own.shape != found.shape or not torch.allclose(own, found, rtol=0, atol=1e-5):
                raise CagcError(
                    f"{source}: {stored} is not the filter of the published design; a network here designs its filters"
                )


def _check_transform(generator: StyleGAN3Generator, source: str) -> None:
    """Raise CagcError unless the stored transform is invertible."""
    try:
        generator.synthesis.input.inverted(generator.synthesis.input.transform)
    except ValueError as error:
        raise CagcError(f"{source}: synthesis.input.{error}") from None
