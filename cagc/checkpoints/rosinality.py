"""Reads and writes rosinality's StyleGAN2 state dicts, which the paper's authors use too.

Everything about a network (resolution, widths, latent size, mapping depth, filter) is inferred from names and shapes,
never from the order of keys.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..common.errors import CagcError
from ..common.inert_values import Record
from ..common.wrappings import Part
from ..models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from ..models.stylegan2_config import block_resolutions, layer_names
from .states import as_part, check_resolution, draw_missing_noise, fill, filter_taps, numbered, set_mean_w, width_of

LAYOUT = "rosinality's StyleGAN2 layout"
_KERNELS = r"convs\.\d+\.conv\.blur\.kernel|to_rgbs\.\d+\.upsample\.kernel"
# Options that their code has no other value of.
_OPTIONS = {"c_dim": 0, "img_channels": 3, "const_size": (4, 4), "activation": "lrelu"}
GENERATOR_OPTIONS = _OPTIONS | {"block_architecture": "skip", "upsampling": "fir", "mapping_activation": "lrelu"}
DISCRIMINATOR_OPTIONS = _OPTIONS | {"block_architecture": "resnet", "mbstd_channels": 1}
_AFFINE = {"affine.weight": "modulation.weight", "affine.bias": "modulation.bias"}


def _generator_names(config: GeneratorConfig) -> dict[str, str]:
    """Map our names of parameters and buffers to theirs."""
    names = {}
    for i in range(config.mapping_layers):
        for part in ("weight", "bias"):
            names[f"mapping.fc{i}.{part}"] = f"style.{i + 1}.{part}"
    names["synthesis.b4.const"] = "input.input"
    for i, layer in enumerate(layer_names(config.resolution)[1:]):
        theirs = "conv1" if i == 0 else f"convs.{i - 1}"
        ours = f"synthesis.{layer}"
        names[f"{ours}.weight"] = f"{theirs}.conv.weight"
        names[f"{ours}.bias"] = f"{theirs}.activate.bias"
        names[f"{ours}.noise_strength"] = f"{theirs}.noise.weight"
        names[f"{ours}.noise_const"] = f"noises.noise_{i}"
        names |= {f"{ours}.{a}": f"{theirs}.conv.{b}" for a, b in _AFFINE.items()}
    for j, resolution in enumerate(block_resolutions(config.resolution)):
        theirs = "to_rgb1" if j == 0 else f"to_rgbs.{j - 1}"
        ours = f"synthesis.b{resolution}.to_rgb"
        names[f"{ours}.weight"] = f"{theirs}.conv.weight"
        names[f"{ours}.bias"] = f"{theirs}.bias"
        names |= {f"{ours}.{a}": f"{theirs}.conv.{b}" for a, b in _AFFINE.items()}
    return names


def _discriminator_names(config: DiscriminatorConfig) -> dict[str, str]:
    names = {"from_rgb.weight": "convs.0.0.weight", "from_rgb.bias": "convs.0.1.bias"}
    for i, resolution in enumerate(list(config.channels)[:-1], start=1):
        names |= {
            f"b{resolution}.conv0.weight": f"convs.{i}.conv1.0.weight",
            f"b{resolution}.conv0.bias": f"convs.{i}.conv1.1.bias",
            f"b{resolution}.conv1.weight": f"convs.{i}.conv2.1.weight",
            f"b{resolution}.conv1.bias": f"convs.{i}.conv2.2.bias",
            f"b{resolution}.skip.weight": f"convs.{i}.skip.1.weight",
        }
    names |= {"conv.weight": "final_conv.0.weight", "conv.bias": "final_conv.1.bias"}
    for ours, theirs in (("fc", "final_linear.0"), ("out", "final_linear.1")):
        names |= {f"{ours}.{part}": f"{theirs}.{part}" for part in ("weight", "bias")}
    return names


def generator_config(part: Part, source: str, lr_multiplier: float = 0.01, upsampling: str = "fir") -> GeneratorConfig:
    """Infer a generator's configuration from the shapes of its state dict, which do not show the other arguments.

    Raises:
        CagcError: a tensor that every such generator has is missing or has another rank.
    """
    convs = numbered(part, r"convs\.(\d+)\.conv\.weight", source)
    if convs % 2:
        raise CagcError(f"{source}: got {convs} convolutions after the first, expected two per resolution")
    depth = numbered(part, r"style\.(\d+)\.weight", source, first=1)
    if not depth:
        raise CagcError(f"{source}: has no mapping network (tensor 'style.1.weight' is missing); expected {LAYOUT}")
    resolution = check_resolution(4 * 2 ** (convs // 2), source)
    widths = [width_of(part, "input.input", 1, 4, source, LAYOUT)]
    for key in ["conv1.conv.weight"] + [f"convs.{i}.conv.weight" for i in range(convs)]:
        widths.append(width_of(part, key, 1, 5, source, LAYOUT))
    return GeneratorConfig(
        resolution=resolution,
        channels=dict(zip(layer_names(resolution), widths)),
        style_dim=width_of(part, "conv1.conv.modulation.weight", 1, 2, source, LAYOUT),
        mapping_layers=depth,
        lr_multiplier=lr_multiplier,
        resample_filter=filter_taps(part, _KERNELS, 4, source),
        upsampling=upsampling,
    )


def generator_from_rosinality(state: Any, source: str = "state dict", upsampling: str = "fir") -> Generator:
    """Build the float32 generator of a "g" or "g_ema" state dict, pruned or not.

    ``w_avg`` is the "latent_avg" beside it, or an estimate; missing noise maps are drawn from a seed that depends on
    the weights.

    Args:
        state: tensors by name, or a :class:`~cagc.common.wrappings.Part` of a file.
        source: begins every message.
        upsampling: "fir", or "bilinear" for GFPGAN's relatives.

    Raises:
        CagcError: names the tensor that is missing or has another shape, or a filter that is not supported.
    """
    part = as_part(state, source)
    config = generator_config(part, source, _lr_multiplier(part), upsampling)
    names = _generator_names(config)
    generator = fill(lambda: Generator(config), part, names, source, LAYOUT, optional="noise_const")
    missing = [ours for ours, theirs in names.items() if ours.endswith("noise_const") and theirs not in part.tensors]
    draw_missing_noise(generator, missing, source)
    set_mean_w(generator, part.tensors.get("latent_avg", part.beside.get("latent_avg")), source)
    return generator


def _check_expressible(config: Any, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        if getattr(config, name) != value:
            raise CagcError(f"rosinality's layout: has {name} {value!r} alone, got {getattr(config, name)!r}")
    for name in ("z_dim", "mapping_width"):
        if hasattr(config, "style_dim") and getattr(config, name) != config.style_dim:
            raise CagcError(f"rosinality's layout: has {name} {config.style_dim} as w, got {getattr(config, name)}")


def _lr_multiplier(part: Part) -> float:
    """Return the mapping network's multiplier from a pickled module or training options; else what is assumed."""
    options = part.beside.get("args")
    options = options.state if isinstance(options, Record) else options if isinstance(options, dict) else {}
    for value in (part.options.get("style.1.lr_mul"), options.get("lr_mlp")):
        if type(value) in (int, float) and math.isfinite(value) and value > 0:
            return float(value)
    return part.assume("lr_mlp", 0.01)


def discriminator_from_rosinality(state: Any, source: str = "state dict") -> Discriminator:
    """Build the float32 discriminator of a "d" state dict; see :func:`generator_from_rosinality`.

    Raises:
        CagcError: names the tensor that is missing or has another shape, or a filter that is not supported.
    """
    part = as_part(state, source)
    blocks = numbered(part, r"convs\.(\d+)\.conv1\.0\.weight", source, first=1)
    resolution = check_resolution(4 * 2**blocks, source)
    widths = [width_of(part, "convs.0.0.weight", 0, 4, source, LAYOUT)]
    widths += [width_of(part, f"convs.{i}.conv2.1.weight", 0, 4, source, LAYOUT) for i in range(1, blocks + 1)]
    channels = dict(zip(reversed(block_resolutions(resolution)), widths))
    taps = filter_taps(part, r"convs\.\d+\.(?:skip|conv2)\.0\.kernel", 1, source)
    config = DiscriminatorConfig(resolution, channels, resample_filter=taps)
    return fill(lambda: Discriminator(config), part, _discriminator_names(config), source, LAYOUT)


def generator_to_rosinality(generator: Generator) -> dict[str, Tensor]:
    """Return a state dict that rosinality's and the authors' ``Generator`` load with ``strict=True``.

    It cannot store ``conv_clamp``, which is dropped. Their ``lr_multiplier`` is fixed, so the mapping network's weights
    are rescaled to it.

    Raises:
        CagcError: the layout has no place for an option of the generator, which is named.
    """
    _check_expressible(generator.config, GENERATOR_OPTIONS)
    ours, state = generator.state_dict(), {}
    for name, theirs in _generator_names(generator.config).items():
        tensor = ours[name].detach().cpu().clone()
        if name.startswith("mapping."):
            tensor *= generator.config.lr_multiplier / GeneratorConfig.lr_multiplier
        if theirs.startswith("noises.") or theirs.endswith("conv.weight") or theirs == "input.input":
            tensor = tensor.reshape(
                [1] * ((4 if theirs.startswith("noises.") else tensor.ndim + 1) - tensor.ndim) + list(tensor.shape)
            )
        elif theirs.endswith("noise.weight"):
            tensor = tensor.reshape(1)
        elif "rgb" in theirs and theirs.endswith(".bias") and "modulation" not in theirs:
            tensor = tensor.reshape(1, 3, 1, 1)
        state[theirs] = tensor
    kernel = generator.synthesis.resample_filter.detach().cpu() * 4
    for i in range(0, len(generator.synthesis.noise_shapes()) - 1, 2):
        state[f"convs.{i}.conv.blur.kernel"] = kernel.clone()
        state[f"to_rgbs.{i // 2}.upsample.kernel"] = kernel.clone()
    return state


def discriminator_to_rosinality(discriminator: Discriminator) -> dict[str, Tensor]:
    """Return a state dict that rosinality's and the authors' ``Discriminator`` load with ``strict=True``.

    Raises:
        CagcError: the layout has no place for an option of the discriminator, which is named.
    """
    _check_expressible(discriminator.config, DISCRIMINATOR_OPTIONS)
    ours = discriminator.state_dict()
    names = _discriminator_names(discriminator.config)
    state = {theirs: ours[name].detach().cpu().clone() for name, theirs in names.items()}
    for i, resolution in enumerate(list(discriminator.config.channels)[:-1], start=1):
        kernel = getattr(discriminator, f"b{resolution}").skip.resample_filter.detach().cpu()
        state[f"convs.{i}.conv2.0.kernel"] = kernel.clone()
        state[f"convs.{i}.skip.0.kernel"] = kernel.clone()
    return state
