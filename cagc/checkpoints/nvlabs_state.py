"""Writes state dicts that the classes of NVlabs' code (stylegan3's networks_stylegan2) load.

Their networks have one width a resolution, ``min(channel_base // resolution, channel_max)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..common.errors import CagcError
from ..models import Discriminator, Generator
from ..models.stylegan2_config import block_resolutions

LAYOUT = "NVlabs' layout"


def generator_state(generator: Generator) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State dict of ``generator``, and the arguments of their ``Generator`` that loads it.

    Raises:
        CagcError: the layout cannot express it: another width within a resolution or between them, a constant that is
            not square, or bilinear up-sampling.
    """
    config, state = generator.config, generator.state_dict()
    if config.const_size != (4, 4):
        raise CagcError(f"{LAYOUT}: has const_size (4, 4) alone, got {config.const_size}")
    if config.upsampling != "fir":
        raise CagcError(f"{LAYOUT}: up-samples by FIR alone, got {config.upsampling}")
    widths = {}
    for spec in config.layers():
        if spec.kind in ("const", "conv") and spec.writes is not None:
            height = spec.size[0]
            if widths.setdefault(height, spec.out_width) != spec.out_width:
                raise CagcError(
                    f"{LAYOUT}: has one width a resolution, got {widths[height]} and {spec.out_width} channels at "
                    f"{height} px ({spec.name})"
                )
    kwargs = {
        "z_dim": config.z_dim, "c_dim": config.c_dim, "w_dim": config.style_dim,
        "img_resolution": config.resolution, "img_channels": config.img_channels,
        "mapping_kwargs": {
            "num_layers": config.mapping_layers, "embed_features": config.embed_dim,
            "layer_features": config.mapping_width, "activation": config.mapping_activation,
            "lr_multiplier": config.lr_multiplier,
        },
        **_widths(widths), "num_fp16_res": 0, "architecture": config.block_architecture,
        "activation": config.activation, "conv_clamp": config.conv_clamp,
        "resample_filter": list(config.resample_filter),
    }  # fmt: skip
    theirs = {
        name.replace("to_rgb", "torgb").replace("w_avg", "mapping.w_avg"): tensor.detach().cpu().clone()
        for name, tensor in state.items()
    }
    taps = generator.synthesis.resample_filter.detach().cpu()
    for r in block_resolutions(config.resolution):
        layers = ["", "conv1.", *(["conv0."] if r > 4 else [])]
        layers += ["skip."] if r > 4 and config.block_architecture == "resnet" else []
        theirs |= {f"synthesis.b{r}.{layer}resample_filter": taps.clone() for layer in layers}
    return theirs, kwargs


def discriminator_state(discriminator: Discriminator) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State dict of ``discriminator``, and the arguments of their ``Discriminator``; raises as the generator's."""
    config, taps = discriminator.config, discriminator.resample_filter.detach().cpu()
    if config.const_size != (4, 4):
        raise CagcError(f"{LAYOUT}: has const_size (4, 4) alone, got {config.const_size}")
    options: dict[str, Any] = {
        "c_dim": config.c_dim, "img_resolution": config.resolution, "img_channels": config.img_channels,
        "architecture": config.block_architecture, **_widths(config.channels), "num_fp16_res": 0,
        "conv_clamp": config.conv_clamp,
        "block_kwargs": {"activation": config.activation, "resample_filter": list(config.resample_filter)},
        "epilogue_kwargs": {
            "mbstd_group_size": config.mbstd_group_size, "mbstd_num_channels": config.mbstd_channels,
            "activation": config.activation,
        },
    }  # fmt: skip
    if config.c_dim:
        options["cmap_dim"] = config.label_features
        options["mapping_kwargs"] = {
            "num_layers": config.mapping_layers, "embed_features": config.embed_dim,
            "layer_features": config.mapping_width, "lr_multiplier": config.lr_multiplier,
        }  # fmt: skip
    first = f"b{config.resolution}.fromrgb"
    places = {"from_rgb": first, "last_from_rgb": "b4.fromrgb", "conv": "b4.conv", "fc": "b4.fc", "out": "b4.out"}
    theirs = {}
    for name, tensor in discriminator.state_dict().items():
        head, _, rest = name.partition(".")
        theirs[f"{places.get(head, head)}.{rest}".replace("from_rgb", "fromrgb")] = tensor.detach().cpu().clone()
    # Each of their layers and blocks has a filter, whether it uses it or not.
    plain = torch.tensor([1.0, 3, 3, 1]).outer(torch.tensor([1.0, 3, 3, 1])) / 64
    for name in [name for name in theirs if name.endswith(".weight") and theirs[name].ndim == 4]:
        layer = name.removesuffix(".weight")
        theirs[f"{layer}.resample_filter"] = (taps if layer.endswith(("conv1", "skip")) else plain).clone()
    theirs |= {f"b{r}.resample_filter": taps.clone() for r in config.channels if r > 4}
    return theirs, options


def _widths(widths: Mapping[int, int]) -> dict[str, int]:
    """``channel_base`` and ``channel_max`` that give the width at each resolution.

    Raises CagcError if none do.
    """
    most = max(widths.values())
    bases = {r * w for r, w in widths.items() if w < most} or {r * w for r, w in widths.items()}
    for base in range(max(bases), max(bases) + max(widths)):
        if all(min(base // r, most) == w for r, w in widths.items()):
            return {"channel_base": base, "channel_max": most}
    shown = ", ".join(f"{w} at {r} px" for r, w in sorted(widths.items()))
    raise CagcError(f"{LAYOUT}: has min(channel_base // resolution, channel_max) channels alone, got {shown}")
