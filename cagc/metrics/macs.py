"""Multiply-accumulates and parameters of a generator, from its configuration alone.

The convention is that of the paper's code: weights of convolutions and fully connected layers count, an up-sampling
convolution at its **input** resolution; blur, noise, demodulation, biases and activations do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from ..models import AnyConfig, AnyGenerator, LayerSpec


def count_macs(generator: AnyGenerator | AnyConfig) -> dict[str, int]:
    """MACs of one image by layer: those of :class:`cagc.models.LayerSpec` that multiply, and their ".affine" layers.

    The fully connected layers from z to w are one row, "mapping".
    """
    counts: dict[str, int] = {}
    for spec in _layers(generator):
        if spec.positions:
            _add(counts, spec, spec.macs, spec.affine_macs)
    return counts


def count_parameters(generator: AnyGenerator | AnyConfig) -> dict[str, int]:
    """Trainable parameters by layer: the layers of :func:`count_macs`, learned inputs and normalisations."""
    counts: dict[str, int] = {}
    for spec in _layers(generator):
        _add(counts, spec, spec.parameters, spec.affine_parameters)
    return counts


def total_macs(generator: AnyGenerator | AnyConfig) -> int:
    """MACs for one image: 45,124,673,536 for the published 256 px StyleGAN2, 1.681 G for SN-GAN."""
    return sum(count_macs(generator).values())


def total_parameters(generator: AnyGenerator | AnyConfig) -> int:
    """Trainable parameters: 30,034,338 for the published 256 px StyleGAN2, 4,276,739 for SN-GAN."""
    return sum(count_parameters(generator).values())


class WidthCosts:
    """MACs and parameters of a network at any widths; each layer is counted once per pair of widths."""

    def __init__(self, layers: Sequence[LayerSpec]) -> None:
        self.layers = layers
        self._of_layer = lru_cache(maxsize=None)(self._count)

    def macs(self, widths: Mapping[str, int]) -> int:
        """MACs of one image with the channel groups as wide as ``widths`` (group → width) says."""
        return self._total(widths, 0)

    def parameters(self, widths: Mapping[str, int]) -> int:
        """Trainable parameters at ``widths``."""
        return self._total(widths, 1)

    def _total(self, widths: Mapping[str, int], which: int) -> int:
        return sum(
            self._of_layer(i, widths.get(spec.reads), widths.get(spec.writes))[which]
            for i, spec in enumerate(self.layers)
        )

    def _count(self, index: int, read: int | None, written: int | None) -> tuple[int, int]:
        spec = self.layers[index]
        spec = spec.at({group: w for group, w in ((spec.reads, read), (spec.writes, written)) if w is not None})
        return spec.macs + spec.affine_macs, spec.parameters + spec.affine_parameters


def _layers(generator: AnyGenerator | AnyConfig) -> tuple[LayerSpec, ...]:
    return getattr(generator, "config", generator).layers()


def _add(counts: dict[str, int], spec: LayerSpec, own: int, affine: int) -> None:
    name = "mapping" if spec.kind == "mapping" else spec.name
    counts[name] = counts.get(name, 0) + own
    if spec.w is not None:
        counts[spec.affine] = affine
