"""Multiply-accumulates and parameters of a generator, from its configuration alone.

The convention is that of the paper's code: weights of convolutions and fully connected layers count, an up-sampling
convolution at its **input** resolution; blur, noise, demodulation, biases and activations do not.
"""

from __future__ import annotations

from functools import singledispatch

from ..models import AnyConfig, AnyGenerator, GeneratorConfig, SNGANConfig


def count_macs(generator: AnyGenerator | AnyConfig) -> dict[str, int]:
    """MACs of one image by layer.

    StyleGAN2 has "mapping", "b{r}.conv0", "b{r}.conv1", "b{r}.to_rgb" and their ".affine" layers; SN-GAN "fc",
    "b{r}.conv0", "b{r}.conv1", "b{r}.skip" and "to_rgb".
    """
    return _macs(getattr(generator, "config", generator))


def count_parameters(generator: AnyGenerator | AnyConfig) -> dict[str, int]:
    """Trainable parameters by layer: the layers of :func:`count_macs`, and StyleGAN2's "b4.const" or SN-GAN's norms."""
    return _parameters(getattr(generator, "config", generator))


def total_macs(generator: AnyGenerator | AnyConfig) -> int:
    """MACs for one image: 45,124,673,536 for the published 256 px StyleGAN2, 1.681 G for SN-GAN."""
    return sum(count_macs(generator).values())


def total_parameters(generator: AnyGenerator | AnyConfig) -> int:
    """Trainable parameters: 30,034,338 for the published 256 px StyleGAN2, 4,276,739 for SN-GAN."""
    return sum(count_parameters(generator).values())


@singledispatch
def _macs(config: GeneratorConfig) -> dict[str, int]:
    names = list(config.channels)
    macs = {"mapping": config.mapping_layers * config.style_dim**2}
    for previous, name in zip(names, names[1:]):
        block = name.split(".")[0]
        resolution = int(block[1:])
        pixels = (resolution // 2 if name.endswith("conv0") else resolution) ** 2
        width_in, width_out = config.channels[previous], config.channels[name]
        macs[name] = 9 * width_in * width_out * pixels
        macs[f"{name}.affine"] = config.style_dim * width_in
        if name.endswith("conv1"):
            macs[f"{block}.to_rgb"] = 3 * width_out * resolution**2
            macs[f"{block}.to_rgb.affine"] = config.style_dim * width_out
    return macs


@singledispatch
def _parameters(config: GeneratorConfig) -> dict[str, int]:
    names = list(config.channels)
    parameters = {
        "mapping": config.mapping_layers * (config.style_dim**2 + config.style_dim),
        "b4.const": 16 * config.channels["b4.const"],
    }
    for previous, name in zip(names, names[1:]):
        block = name.split(".")[0]
        width_in, width_out = config.channels[previous], config.channels[name]
        parameters[name] = 9 * width_in * width_out + width_out + 1
        parameters[f"{name}.affine"] = (config.style_dim + 1) * width_in
        if name.endswith("conv1"):
            parameters[f"{block}.to_rgb"] = 3 * width_out + 3
            parameters[f"{block}.to_rgb.affine"] = (config.style_dim + 1) * width_out
    return parameters


def _sngan_layers(config: SNGANConfig) -> dict[str, tuple[int, int, int, int]]:
    """Inputs, outputs, taps and pixels of each convolution; a shortcut counts at the resolution of its sum."""
    layers, width = {}, config.channels["b4"]
    for hidden, out in zip(list(config.channels)[1::2], list(config.channels)[2::2]):
        block = out.split(".")[0]
        pixels = int(block[1:]) ** 2
        layers[hidden] = (width, config.channels[hidden], 9, pixels)
        layers[out] = (config.channels[hidden], config.channels[out], 9, pixels)
        layers[f"{block}.skip"] = (width, config.channels[out], 1, pixels)
        width = config.channels[out]
    return layers | {"to_rgb": (width, 3, 9, config.resolution**2)}


@_macs.register
def _(config: SNGANConfig) -> dict[str, int]:
    macs = {"fc": 16 * config.z_dim * config.channels["b4"]}
    return macs | {name: i * o * taps * pixels for name, (i, o, taps, pixels) in _sngan_layers(config).items()}


@_parameters.register
def _(config: SNGANConfig) -> dict[str, int]:
    parameters = {"fc": 16 * (config.z_dim + 1) * config.channels["b4"]}
    parameters |= {name: (i * taps + 1) * o for name, (i, o, taps, _) in _sngan_layers(config).items()}
    return parameters | {f"{name}.norm": 2 * width for name, width in config.channels.items()}
