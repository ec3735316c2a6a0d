"""Generators and discriminators.

:mod:`cagc.models.protocol` says what a generator offers; nothing outside this package asks which of the models it is.
To add an architecture, write its module here (a config with ``layers()``, a mapping and a synthesis network) and name
it in ``_GENERATORS``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..common.checks import choice
from ..common.errors import CagcError
from .base import BaseSynthesis
from .discriminator import Discriminator, DiscriminatorConfig
from .protocol import Config as AnyConfig
from .protocol import Generator as AnyGenerator
from .protocol import LayerSpec, Noise
from .sngan import SNGANConfig, SNGANDiscriminator, SNGANDiscriminatorConfig, SNGANGenerator
from .stylegan2 import Generator
from .stylegan2_config import GeneratorConfig, block_resolutions
from .stylegan2_elastic import ElasticSynthesis
from .stylegan3 import StyleGAN3Generator
from .stylegan3_config import StyleGAN3Config

AnyDiscriminator = Discriminator | SNGANDiscriminator

_GENERATORS = {
    "stylegan2": (Generator, GeneratorConfig),
    "stylegan3": (StyleGAN3Generator, StyleGAN3Config),
    "sngan": (SNGANGenerator, SNGANConfig),
}
_DISCRIMINATORS = {
    "stylegan2": (Discriminator, DiscriminatorConfig),
    "sngan": (SNGANDiscriminator, SNGANDiscriminatorConfig),
}

# Synthesis networks that read a subset of the channels of another network's weights, by architecture.
_VIEWS = {"stylegan2": ElasticSynthesis}

__all__ = [
    "AnyConfig",
    "AnyDiscriminator",
    "AnyGenerator",
    "Discriminator",
    "DiscriminatorConfig",
    "Generator",
    "GeneratorConfig",
    "LayerSpec",
    "Noise",
    "SNGANConfig",
    "SNGANDiscriminator",
    "SNGANDiscriminatorConfig",
    "SNGANGenerator",
    "StyleGAN3Config",
    "StyleGAN3Generator",
    "build_discriminator",
    "build_generator",
    "new_discriminator",
    "synthesis_view",
]


def build_generator(options: dict[str, Any]) -> AnyGenerator:
    """Build the generator that ``config.to_dict()`` describes; a dictionary without "architecture" is a StyleGAN2.

    Raises:
        ValueError, TypeError: an unknown architecture or an option that it does not have.
    """
    return _build(_GENERATORS, options)


def build_discriminator(options: dict[str, Any]) -> AnyDiscriminator:
    """Build the discriminator that ``config.to_dict()`` describes; otherwise as :func:`build_generator`."""
    return _build(_DISCRIMINATORS, options)


def _build(known: dict[str, tuple[type, type]], options: dict[str, Any]) -> Any:
    name = options.get("architecture", "stylegan2")
    choice("architecture", name, known)
    network, config = known[name]
    return network(config(**options))


def new_discriminator(config: AnyConfig) -> AnyDiscriminator:
    """Untrained discriminator for a generator of ``config``: equally wide, or of the published width for SN-GAN."""
    if isinstance(config, SNGANConfig):
        return SNGANDiscriminator(SNGANDiscriminatorConfig(config.resolution))
    if isinstance(config, StyleGAN3Config):
        widest, last = max(config.channels.values()), list(config.channels.values())[-1]
        widths = {r: min(widest, last * config.resolution // r) for r in block_resolutions(config.resolution)}
        return Discriminator(
            DiscriminatorConfig(config.resolution, widths, c_dim=config.c_dim, img_channels=config.img_channels)
        )
    widths = {r: config.channels[f"b{r}.conv1"] for r in block_resolutions(config.resolution)}
    options = {name: getattr(config, name) for name in ("c_dim", "img_channels", "const_size")}
    return Discriminator(DiscriminatorConfig(config.resolution, widths, **options))


def synthesis_view(generator: AnyGenerator, kept: Mapping[str, Sequence[int]], keep_rgb_scale: bool) -> BaseSynthesis:
    """The synthesis network of ``generator`` at the channels ``kept`` (group → ascending indices), sharing its weights.

    ``keep_rgb_scale``: toRGB layers keep the scale that the full width gave them.

    Raises:
        CagcError: the architecture has no such network.
    """
    name = generator.config.architecture
    if name not in _VIEWS:
        raise CagcError(f"plan: a view runs generators of architecture {', '.join(_VIEWS)}, got {name}")
    return _VIEWS[name](generator.synthesis, kept, keep_rgb_scale)
