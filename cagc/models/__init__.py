"""Generators and discriminators."""

from .discriminator import Discriminator, DiscriminatorConfig
from .stylegan2 import Generator, GeneratorConfig

__all__ = ["Discriminator", "DiscriminatorConfig", "Generator", "GeneratorConfig"]
