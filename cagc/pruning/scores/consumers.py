"""Combines values per input channel of each convolution into scores per channel group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from ...models import AnyGenerator
from ...models.channels import ChannelGroup
from .samples import SampleBatch

BATCH_RULES = ("per-sample", "batch-sum")
CONSUMERS = ("main", "all")


def consumer_names(groups: Sequence[ChannelGroup], consumers: str) -> list[str]:
    """Modules whose input channels are scored: the first consumer of each group ("main") or every consumer ("all")."""
    chosen = [group.consumers[:1] if consumers == "main" else group.consumers for group in groups]
    return [name for names in chosen for name in names]


def combine_consumers(
    groups: Sequence[ChannelGroup], values: Mapping[str, torch.Tensor], consumers: str
) -> dict[str, torch.Tensor]:
    """Scores by group from ``values`` (module → [in channels]).

    ``consumers`` "main": only the next convolution counts, and for the last group the last toRGB, as in the paper's
    code. "all": the values of the next convolution and of the toRGB that reads the same channels are added.
    """
    count = 1 if consumers == "main" else None
    return {group.name: torch.stack([values[name] for name in group.consumers[:count]]).sum(dim=0) for group in groups}


def traced_weights(
    generator: AnyGenerator, modules: Sequence[str]
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Detached parameters of the synthesis network by name, and the ``weight`` among them of each of ``modules``.

    These weights require gradients; the generator is not changed.
    """
    names = {parameter: name for name, parameter in generator.synthesis.named_parameters()}
    state = {name: parameter.detach() for parameter, name in names.items()}
    weights = [state[names[generator.get_submodule(module).weight]].requires_grad_() for module in modules]
    return state, weights


def magnitude(gradient: torch.Tensor) -> torch.Tensor:
    """Mean of |gradient [out, in, kh, kw]| for each input channel, [in] float64."""
    return gradient.abs().mean(dim=(0, 2, 3), dtype=torch.float64)


def accumulated_scores(
    generator: AnyGenerator,
    batches: Iterable[SampleBatch],
    measure: Callable[[SampleBatch, Sequence[str]], Mapping[str, torch.Tensor]],
    batch_rule: str,
    consumers: str,
    progress: Callable[[int], None] | None,
) -> dict[str, torch.Tensor]:
    """Scores by group, [width] float64, from ``measure(batch, modules)``: module → [in channels].

    ``batch_rule`` "per-sample" measures each sample alone and takes the mean over samples, whatever the batches.
    "batch-sum", the rule of the papers' codes, measures whole batches and adds the results. ``progress`` is called with
    the number of samples done.
    """
    groups = generator.channel_groups()
    modules = consumer_names(groups, consumers)
    totals, done = dict.fromkeys(modules, 0.0), 0
    for batch in batches:
        for part in batch.singles() if batch_rule == "per-sample" else [batch]:
            for module, values in measure(part, modules).items():
                totals[module] = totals[module] + values
            done += len(part)
            if progress is not None:
                progress(done)
    count = done if batch_rule == "per-sample" else 1
    return combine_consumers(groups, {module: (total / count).cpu() for module, total in totals.items()}, consumers)
