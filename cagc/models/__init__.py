"""Generators and discriminators.

A generator has ``config`` (``resolution``, ``channels``, ``style_dim``, ``num_ws``), ``ws(z)``, ``synthesis(ws)`` and
``channel_groups()``; nothing outside this package asks which of the models it is.
"""

from typing import Any

from ..checks import choice
from .discriminator import Discriminator, DiscriminatorConfig
from .sngan import SNGANConfig, SNGANDiscriminator, SNGANDiscriminatorConfig, SNGANGenerator
from .stylegan2 import Generator, GeneratorConfig, block_resolutions

AnyGenerator = Generator | SNGANGenerator
AnyConfig = GeneratorConfig | SNGANConfig
AnyDiscriminator = Discriminator | SNGANDiscriminator

_GENERATORS = {"stylegan2": (Generator, GeneratorConfig), "sngan": (SNGANGenerator, SNGANConfig)}
_DISCRIMINATORS = {
    "stylegan2": (Discriminator, DiscriminatorConfig),
    "sngan": (SNGANDiscriminator, SNGANDiscriminatorConfig),
}

__all__ = [
    "AnyConfig",
    "AnyDiscriminator",
    "AnyGenerator",
    "Discriminator",
    "DiscriminatorConfig",
    "Generator",
    "GeneratorConfig",
    "SNGANConfig",
    "SNGANDiscriminator",
    "SNGANDiscriminatorConfig",
    "SNGANGenerator",
    "build_discriminator",
    "build_generator",
    "new_discriminator",
]


def build_generator(options: dict[str, Any]) -> AnyGenerator:
    """Generator of ``config.to_dict()``; a dictionary without "architecture" is a StyleGAN2.

    Raises:
        ValueError, TypeError: an unknown architecture or an option that it does not have.
    """
    return _build(_GENERATORS, options)


def build_discriminator(options: dict[str, Any]) -> AnyDiscriminator:
    """As :func:`build_generator`."""
    return _build(_DISCRIMINATORS, options)


def _build(known: dict[str, tuple[type, type]], options: dict[str, Any]) -> Any:
    name = options.get("architecture", "stylegan2")
    choice("architecture", name, known)
    network, config = known[name]
    return network(config(**options))


def new_discriminator(config: AnyConfig) -> AnyDiscriminator:
    """Untrained discriminator to go with a generator: as wide as it, or of the published width for SN-GAN."""
    if isinstance(config, SNGANConfig):
        return SNGANDiscriminator(SNGANDiscriminatorConfig(config.resolution))
    widths = {r: config.channels[f"b{r}.conv1"] for r in block_resolutions(config.resolution)}
    return Discriminator(DiscriminatorConfig(config.resolution, widths))
