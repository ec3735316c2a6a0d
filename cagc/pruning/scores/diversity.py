"""Diversity-aware channel scores (Chung et al., "Diversity-aware Channel Pruning for StyleGAN Compression", CVPR 2024).

The score of a channel is the variation, over moves of w, of the gradient magnitude of the weights that read it. With
directions d_i, principal axes of w drawn in proportion to the variance that they explain,

    g_i(c) = mean over out, kh, kw of |∂ Σ|G(w + α·d_i) - G(w)| / ∂W[out, c, kh, kw]|
    score(c) = Σ_i (g_i(c) - mean_j g_j(c))²
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.func import functional_call

from ...models import AnyGenerator
from ...moments import principal_components
from .consumers import accumulated_scores, magnitude, traced_weights
from .samples import SampleBatch, stream


@dataclass(frozen=True)
class PrincipalAxes:
    """Principal axes of a set of w.

    Attributes:
        mean: mean of w, [w_dim].
        axes: [w_dim, w_dim], one unit vector per row, the largest variance first; signs are arbitrary.
        shares: [w_dim], share of the variance along each axis, summing to 1.
    """

    mean: torch.Tensor
    axes: torch.Tensor
    shares: torch.Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, w: torch.Tensor) -> PrincipalAxes:
        """Principal axes of ``w`` [n, w_dim], computed in float64."""
        mean, axes, variances = principal_components(w)
        return cls(mean, axes, variances / variances.sum())

    def draw(self, count: int, rng: torch.Generator) -> torch.Tensor:
        """Draw axes [count, w_dim] with replacement and with probability equal to their share of the variance."""
        return self.axes[torch.multinomial(self.shares.cpu(), count, replacement=True, generator=rng)]


@torch.no_grad()
def principal_axes(generator: AnyGenerator, samples: int = 10_000, seed: int = 0) -> PrincipalAxes:
    """Principal axes of the generator's w, over ``samples`` latents drawn from ``seed``."""
    z = torch.randn(samples, generator.z_dim, generator=stream("principal-axes", seed))
    labels, like = generator.labels, generator.w_avg
    c = None if labels is None else labels.take(range(samples)).to(like).split(1000)
    parts = z.to(like).split(1000)
    return PrincipalAxes.of(torch.cat([generator.mapping.w(part, c and c[i]) for i, part in enumerate(parts)]))


def move_gradients(
    generator: AnyGenerator, batch: SampleBatch, offsets: torch.Tensor, modules: Sequence[str]
) -> list[dict[str, torch.Tensor]]:
    """∂ Σ|G(w + offset) - G(w)| / ∂W [out, in, kh, kw] of the ``weight`` of each of ``modules``, by offset.

    The sum is over the batch, and the gradient flows through both images. ``offsets`` is [n, w_dim]; the unmoved image
    is drawn once for all of them. The generator is not changed.
    """
    synthesis = generator.synthesis
    state, weights = traced_weights(generator, modules)
    gradients = []
    with torch.enable_grad():
        image = functional_call(synthesis, state, (batch.ws.detach(),), {"noise": batch.noise})
        for offset in offsets.to(batch.ws):
            moved = functional_call(synthesis, state, (batch.ws.detach() + offset,), {"noise": batch.noise})
            found = torch.autograd.grad((moved - image).abs().sum(), weights, retain_graph=True)
            gradients.append(dict(zip(modules, found)))
    return gradients


def diversity_scores(
    generator: AnyGenerator,
    batches: Iterable[SampleBatch],
    directions: Callable[[SampleBatch], torch.Tensor],
    strength: float = 5.0,
    batch_rule: str = "per-sample",
    consumers: str = "main",
    progress: Callable[[int], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Scores by group, each [width] float64.

    Args:
        generator: any state and device; not changed.
        batches: the images to score over.
        directions: batch → directions of w [n, w_dim] for this batch.
        strength: α, how far w moves along a direction.
        batch_rule, progress: see :func:`cagc.pruning.scores.consumers.accumulated_scores`. Under "batch-sum"
            gradients are summed over a batch before their magnitude is taken.
        consumers: see :func:`cagc.pruning.scores.consumers.combine_consumers`.
    """

    def measure(part: SampleBatch, modules: Sequence[str]) -> dict[str, torch.Tensor]:
        found = move_gradients(generator, part, strength * directions(part), modules)
        sizes = {module: torch.stack([magnitude(gradients[module]) for gradients in found]) for module in modules}
        return {module: (size - size.mean(dim=0)).square().sum(dim=0) for module, size in sizes.items()}

    return accumulated_scores(generator, batches, measure, batch_rule, consumers, progress)
