"""Baseline scores from weights and styles, as the paper's code computes them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ...models import AnyGenerator
from .consumers import combine_consumers, consumer_names
from .samples import SampleBatch, stream


def outgoing_l1(weight: torch.Tensor) -> torch.Tensor:
    """Σ over out, kh, kw of |weight [O, I, kh, kw]| → [I]."""
    return weight.abs().sum(dim=(0, 2, 3))


def incoming_l1(weight: torch.Tensor) -> torch.Tensor:
    """Σ over in, kh, kw of |weight [O, I, kh, kw]| → [O]."""
    return weight.abs().sum(dim=(1, 2, 3))


def _scaled_weight(generator: AnyGenerator, module: str) -> tuple[torch.Tensor, bool]:
    layer = generator.get_submodule(module)
    demodulate = any(spec.demodulate for spec in generator.config.layers() if spec.module == module)
    return (layer.weight * layer.weight_gain).detach().double(), demodulate


def _demodulation(weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    return (styles.square() @ weight.square().sum(dim=(2, 3)).t() + 1e-8).rsqrt()


def effective_weights(generator: AnyGenerator, module: str, styles: torch.Tensor) -> torch.Tensor:
    """Effective weights of ``module``, [N, O, I, kh, kw] float64: scaled, modulated by ``styles`` [N, I], demodulated.

    Demodulation applies to the layers whose :class:`cagc.models.LayerSpec` has ``demodulate``.
    """
    weight, demodulate = _scaled_weight(generator, module)
    styles = styles.double()
    effective = weight * styles[:, None, :, None, None]
    return effective * _demodulation(weight, styles)[:, :, None, None, None] if demodulate else effective


def mean_effective_weight(generator: AnyGenerator, module: str, styles: torch.Tensor) -> torch.Tensor:
    """Signed mean of :func:`effective_weights` over samples, [O, I, kh, kw], without forming them."""
    weight, demodulate = _scaled_weight(generator, module)
    styles = styles.double()
    scale = _demodulation(weight, styles) if demodulate else styles.new_ones(len(styles), weight.shape[0])
    return weight * (scale.t() @ styles / len(styles))[:, :, None, None]


@torch.no_grad()
def _styles(generator: AnyGenerator, batches: Iterable[SampleBatch]) -> dict[str, torch.Tensor]:
    """Styles [N, I] of every convolution by module, over all batches; ones for layers without modulation."""
    specs = [spec for spec in generator.config.layers() if spec.kind in ("conv", "to_rgb")]
    modulated = any(spec.w is not None for spec in specs)
    found: dict[str, list[torch.Tensor]] = {spec.module: [] for spec in specs}
    for batch in batches:
        styles = generator.synthesis.styles(batch.ws) if modulated else {}
        for spec in specs:
            ones = batch.ws.new_ones(len(batch), spec.in_width)
            found[spec.module].append(ones if spec.w is None else styles[spec.name])
    return {module: torch.cat(parts).double() for module, parts in found.items()}


@torch.no_grad()
def l1_out_scores(
    generator: AnyGenerator, batches: Iterable[SampleBatch], consumers: str = "main"
) -> dict[str, torch.Tensor]:
    """L1 norm of the signed mean over samples of the effective weights that read each channel."""
    styles, groups = _styles(generator, batches), generator.channel_groups()
    values = {
        name: outgoing_l1(mean_effective_weight(generator, name, styles[name])).cpu()
        for name in consumer_names(groups, consumers)
    }
    return combine_consumers(groups, values, consumers)


@torch.no_grad()
def l1_in_scores(generator: AnyGenerator, batches: Iterable[SampleBatch], seed: int = 0) -> dict[str, torch.Tensor]:
    """L1 norm of the signed mean of the effective weights that produce each channel.

    Nothing produces the constant input: its scores are random, from ``seed``.
    """
    styles, (first, *groups) = _styles(generator, batches), generator.channel_groups()
    scores = {first.name: torch.rand(first.width, generator=stream("l1-in", seed), dtype=torch.float64)}
    for group in groups:
        mean = mean_effective_weight(generator, group.producer, styles[group.producer])
        scores[group.name] = incoming_l1(mean).cpu()
    return scores


def l1_style_scores(
    generator: AnyGenerator, batches: Iterable[SampleBatch], consumers: str = "main"
) -> dict[str, torch.Tensor]:
    """Magnitude of the mean style by which each channel is multiplied when it is read."""
    styles, groups = _styles(generator, batches), generator.channel_groups()
    values = {name: styles[name].mean(dim=0).abs().cpu() for name in consumer_names(groups, consumers)}
    return combine_consumers(groups, values, consumers)


def random_scores(generator: AnyGenerator, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random scores, uniform in [0, 1), from ``seed``."""
    rng = stream("random-scores", seed)
    return {g.name: torch.rand(g.width, generator=rng, dtype=torch.float64) for g in generator.channel_groups()}
