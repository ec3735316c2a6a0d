"""Multiply-accumulates and parameters of a generator, from its configuration alone.

The convention is that of the paper's code: weights of convolutions and fully connected layers count, an up-sampling
convolution at its **input** resolution; blur, noise, demodulation, biases and activations do not.
"""

from __future__ import annotations

from ..models.stylegan2 import Generator, GeneratorConfig


def _config(generator: Generator | GeneratorConfig) -> GeneratorConfig:
    return generator if isinstance(generator, GeneratorConfig) else generator.config


def count_macs(generator: Generator | GeneratorConfig) -> dict[str, int]:
    """MACs of one image by layer: "mapping", "b{r}.conv0", "b{r}.conv1", "b{r}.to_rgb" and their ".affine" layers."""
    config = _config(generator)
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


def total_macs(generator: Generator | GeneratorConfig) -> int:
    """MACs for one image: 45,124,673,536 for the published 256 px generator."""
    return sum(count_macs(generator).values())


def count_parameters(generator: Generator | GeneratorConfig) -> dict[str, int]:
    """Trainable parameters by layer, in the same layers as :func:`count_macs` plus "b4.const"."""
    config = _config(generator)
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


def total_parameters(generator: Generator | GeneratorConfig) -> int:
    """Trainable parameters: 30,034,338 for the published 256 px generator."""
    return sum(count_parameters(generator).values())
