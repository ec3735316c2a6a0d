"""Baseline scores from feature maps, as the paper's code computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from ...models import AnyGenerator
from .samples import SampleBatch


class MapStatistics:
    """Statistics over samples of feature maps [n, C, h, w] that come in batches; float64, Chan's update of moments."""

    def __init__(self) -> None:
        self.samples = 0

    def add(self, maps: torch.Tensor) -> None:
        """Add the samples of ``maps`` [n, C, h, w]."""
        maps = maps.detach().double()
        mean = maps.mean(dim=0)
        squares = (maps - mean).square().sum(dim=0)
        self._join(maps.shape[0], mean, squares, maps.abs().sum(dim=(0, 2, 3)), maps.square().sum(dim=(0, 2, 3)))

    def merge(self, other: MapStatistics) -> None:
        """Add the samples of ``other``."""
        if other.samples:
            moments = (other._mean, other._squares, other._absolute, other._energy)
            self._join(other.samples, *(moment.clone() for moment in moments))

    def cpu(self) -> MapStatistics:
        """Move the statistics to the CPU in place and return them."""
        if self.samples:
            for name in ("_mean", "_squares", "_absolute", "_energy"):
                setattr(self, name, getattr(self, name).cpu())
        return self

    def _join(
        self, n: int, mean: torch.Tensor, squares: torch.Tensor, absolute: torch.Tensor, energy: torch.Tensor
    ) -> None:
        if self.samples == 0:
            self._mean, self._squares, self._absolute, self._energy = mean, squares, absolute, energy
        else:
            total, delta = self.samples + n, mean - self._mean
            self._squares += squares + delta.square() * (self.samples * n / total)
            self._mean += delta * (n / total)
            self._absolute += absolute
            self._energy += energy
        self.samples += n

    def asv(self) -> torch.Tensor:
        """Activation spread [C]: standard deviation over samples of each pixel (divided by N), mean over pixels."""
        return (self._squares / self.samples).sqrt().mean(dim=(1, 2))

    def l1_map(self) -> torch.Tensor:
        """Mean absolute activation [C]."""
        return self._absolute / (self.samples * self._mean[0].numel())

    def l2_map(self) -> torch.Tensor:
        """Euclidean norm [C] of all activations of a channel."""
        return self._energy.sqrt()

    def l1_norm_asv(self) -> torch.Tensor:
        """:meth:`asv` / :meth:`l1_map`; 0 for a channel that is always 0."""
        return _ratio(self.asv(), self.l1_map())

    def l2_norm_asv(self) -> torch.Tensor:
        """:meth:`asv` / :meth:`l2_map`; 0 for a channel that is always 0."""
        return _ratio(self.asv(), self.l2_map())


def _ratio(spread: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    return torch.where(size > 0, spread / size, torch.zeros_like(spread))


ACTIVATION_METRICS: dict[str, Callable[[MapStatistics], torch.Tensor]] = {
    "asv": MapStatistics.asv,
    "l1-norm-asv": MapStatistics.l1_norm_asv,
    "l2-norm-asv": MapStatistics.l2_norm_asv,
    "l1-map": MapStatistics.l1_map,
}


@torch.no_grad()
def map_statistics(
    generator: AnyGenerator, batches: Iterable[SampleBatch], progress: Callable[[int], None] | None = None
) -> dict[str, MapStatistics]:
    """Statistics by group of the output of each layer after noise and activation, on the CPU.

    Every sample counts; the paper's code drops those beyond the last multiple of ten.
    """
    statistics = {group.name: MapStatistics() for group in generator.channel_groups()}
    done = 0
    for batch in batches:
        features: dict[str, torch.Tensor] = {}
        generator.synthesis(batch.ws, noise=batch.noise, features=features)
        for name, statistic in statistics.items():
            statistic.add(features[name])
        done += len(batch)
        if progress is not None:
            progress(done)
    return {name: statistic.cpu() for name, statistic in statistics.items()}


def activation_scores(parts: Sequence[Mapping[str, MapStatistics]], metric: str) -> dict[str, torch.Tensor]:
    """Scores by group, each [width] float64, over the samples of all ``parts``, which are modified.

    The constant input does not depend on z, so measures of spread give all its channels the same score.
    """
    first, *others = parts
    for part in others:
        for name, statistic in first.items():
            statistic.merge(part[name])
    return {name: ACTIVATION_METRICS[metric](statistic) for name, statistic in first.items()}
