"""Names and shapes of rosinality's StyleGAN2 state dicts, which the paper's authors share.

Everything about a network (resolution, widths, latent size, mapping depth, filter) is inferred from names and shapes,
never from the order of keys.
"""

from __future__ import annotations

from typing import Any

import torch

from .errors import CagcError
from .models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from .models.stylegan2 import block_resolutions, layer_names
from .state_dicts import State, count, filter_taps, load, need

LAYOUT = "rosinality's StyleGAN2 layout"
_AFFINE = {"affine.weight": "modulation.weight", "affine.bias": "modulation.bias"}


def _generator_names(config: GeneratorConfig) -> dict[str, str]:
    """Our parameter and buffer names → theirs."""
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


def _state(document: Any, source: str) -> State:
    if not isinstance(document, dict) or not all(isinstance(t, torch.Tensor) for t in document.values()):
        raise CagcError(f"{source}: got {type(document).__name__}, expected a state dict of tensors")
    return {key.removeprefix("module."): tensor for key, tensor in document.items()}


def generator_config(state: State, source: str) -> GeneratorConfig:
    """Configuration of a generator from the shapes of its state dict.

    Raises:
        CagcError: a tensor that every such generator has is missing or has another rank.
    """
    convs = count(state, r"convs\.(\d+)\.conv\.weight")
    if convs % 2:
        raise CagcError(f"{source}: got {convs} convolutions after the first, expected two per resolution")
    resolution = 4 * 2 ** (convs // 2)
    constant = need(state, "input.input", source, LAYOUT)
    widths = [constant.shape[1]]
    for key in ["conv1.conv.weight"] + [f"convs.{i}.conv.weight" for i in range(convs)]:
        weight = need(state, key, source, LAYOUT)
        if weight.ndim != 5:
            raise CagcError(f"{source}: {key} has shape {list(weight.shape)}, expected [1, out, in, 3, 3]")
        widths.append(weight.shape[1])
    affine = need(state, "conv1.conv.modulation.weight", source, LAYOUT)
    return GeneratorConfig(
        resolution=resolution,
        channels=dict(zip(layer_names(resolution), widths)),
        style_dim=affine.shape[1],
        mapping_layers=count(state, r"style\.(\d+)\.weight") - 1,
        resample_filter=filter_taps(state, r"to_rgbs\.\d+\.upsample\.kernel"),
    )


def generator_from_rosinality(document: Any, source: str = "state dict") -> Generator:
    """Generator, float32, of a "g" or "g_ema" state dict, pruned or not; ``w_avg`` is left at zero.

    Raises:
        CagcError: names the tensor that is missing or has another shape.
    """
    state = _state(document, source)
    generator = Generator(generator_config(state, source))
    load(generator, state, _generator_names(generator.config), source, LAYOUT, optional="noise_const")
    return generator


def discriminator_from_rosinality(document: Any, source: str = "state dict") -> Discriminator:
    """Discriminator, float32, of a "d" state dict.

    Raises:
        CagcError: names the tensor that is missing or has another shape.
    """
    state = _state(document, source)
    blocks = count(state, r"convs\.(\d+)\.conv1\.0\.weight") - 1
    resolution = 4 * 2 ** max(blocks, 0)
    widths = [need(state, "convs.0.0.weight", source, LAYOUT).shape[0]]
    widths += [need(state, f"convs.{i}.conv2.1.weight", source, LAYOUT).shape[0] for i in range(1, blocks + 1)]
    channels = dict(zip(reversed(block_resolutions(resolution)), widths))
    taps = filter_taps(state, r"convs\.\d+\.skip\.0\.kernel")
    discriminator = Discriminator(DiscriminatorConfig(resolution, channels, resample_filter=taps))
    load(discriminator, state, _discriminator_names(discriminator.config), source, LAYOUT)
    return discriminator


def generator_to_rosinality(generator: Generator) -> State:
    """State dict that rosinality's and the authors' ``Generator`` load with ``strict=True``.

    It has no place for ``conv_clamp``, which is left out, and theirs has one ``lr_multiplier``, which the mapping's
    weights are adapted to.
    """
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


def discriminator_to_rosinality(discriminator: Discriminator) -> State:
    """State dict that rosinality's and the authors' ``Discriminator`` load with ``strict=True``."""
    ours = discriminator.state_dict()
    names = _discriminator_names(discriminator.config)
    state = {theirs: ours[name].detach().cpu().clone() for name, theirs in names.items()}
    for i, resolution in enumerate(list(discriminator.config.channels)[:-1], start=1):
        kernel = getattr(discriminator, f"b{resolution}").skip.resample_filter.detach().cpu()
        state[f"convs.{i}.conv2.0.kernel"] = kernel.clone()
        state[f"convs.{i}.skip.0.kernel"] = kernel.clone()
    return state
