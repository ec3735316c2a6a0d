"""One full generator at any width: a plan applied when the generator runs, instead of by slicing it.

A view convolves with the channels that its plan keeps, read out of the full weights in place
(:func:`cagc_kernels.sparse_channel_conv2d`); it computes what the pruned student would, up to rounding. Its cost
follows its plan's MACs, its memory is the full generator's, and switching between budgets costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..checkpoints import generator_hash
from ..common.checks import choice
from ..common.errors import CagcError
from ..models import AnyGenerator, synthesis_view
from ..models.base import BaseGenerator
from .budget import plan_channels
from .plan import ChannelPlan, check_kept
from .prune import prune
from .scores.document import ChannelScores, check_widths

RESCALES = ("keep", "none")


class ElasticGenerator(BaseGenerator):
    """View of a generator at a plan's widths, as :func:`at` returns it; it has no weights of its own.

    Parameters are the full generator's, shared: an optimiser step through one view shows in all others, and moving or
    casting a view moves the generator. Gradients of a weight are zero at the channels that the plan removes.
    ``config`` has the kept widths, so that MACs and parameters are counted for them.
    """

    def __init__(self, full: AnyGenerator, plan: ChannelPlan, rescale: str) -> None:
        nn.Module.__init__(self)
        self.plan, self.rescale = plan, rescale
        self.mapping = full.mapping
        self.synthesis = synthesis_view(full, plan.kept, rescale == "keep")
        self.config = self.synthesis.config
        # Bypasses Module.__setattr__, so that the generator's parameters are not registered a second time here.
        object.__setattr__(self, "full", full)
        self.labels = full.labels

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> ElasticGenerator:
        self.full._apply(fn, recurse)
        return self

    def pruned(self) -> AnyGenerator:
        """The student that :func:`cagc.prune` makes of the generator as it is now, with weights of its own."""
        return prune(self.full, replace(self.plan, teacher=generator_hash(self.full)), self.rescale)

    def channel_groups(self):
        raise CagcError("channel_groups: a view has no weights to slice; take those of the full generator")

    def state_dict(self, *args: Any, **kwargs: Any):
        raise CagcError("state_dict: a view has no weights of its own; save the full generator, or view.pruned()")


def at(generator: AnyGenerator, plan: ChannelPlan, rescale: str = "keep", check: bool = True) -> ElasticGenerator:
    """``generator`` at the widths of ``plan``: a view that shares its weights and slices none.

    The view runs as :func:`cagc.prune` of the same arguments would, up to rounding, with the arguments of
    ``generator``. It costs nothing to make, and any number of them may live at once. :func:`cagc.runtime.compile` takes
    a view in place of the pruned student.

    Args:
        generator: the full generator that the plan was made for, not itself a view.
        plan: see :func:`cagc.plan_channels`; :func:`nested_plans` makes one for each of several budgets.
        rescale: "keep" or "none", as in :func:`cagc.prune`; not "svs", which changes weights: a view has none.
        check: compare the weights with those that the plan was made for. False compares layers and widths only, which
            is quicker and allows a generator that has been trained since.

    Raises:
        ValueError: another ``rescale``.
        CagcError: the plan is for another generator, its kept channels are invalid, or the generator's architecture
            does not support views.
    """
    choice("rescale", rescale, RESCALES)
    if hasattr(generator, "pruned"):
        raise CagcError("plan: the generator is a view at another plan; take the view of the full generator")
    if check:
        plan.check(generator)
    else:
        check_widths("plan", plan.full, generator.channel_groups())
    check_kept("plan", plan.kept, plan.full)
    return ElasticGenerator(generator, plan, rescale)


def nested_plans(
    generator: AnyGenerator, scores: ChannelScores, macs: Sequence[float], **options: Any
) -> list[ChannelPlan]:
    """One plan per budget, in the order of ``macs``; each keeps a subset of the channels of every larger one.

    Each budget is planned on its own (:func:`cagc.plan_channels` with ``options``); a layer that would be wider than
    under a larger budget takes the width it has there. A plan may therefore stay below its budget, never above it.

    Args:
        generator: the generator that ``scores`` were computed for.
        macs: budgets as the ``macs`` of :func:`cagc.plan_channels`, at least one.

    Raises:
        ValueError, TypeError, CagcError: as :func:`cagc.plan_channels`; ValueError if ``macs`` is empty.
    """
    if not macs:
        raise ValueError("macs: got no budget, expected at least one")
    plans = [plan_channels(generator, scores, macs=budget, **options) for budget in macs]
    ceiling = {name: set(range(width)) for name, width in generator.config.channels.items()}
    for i in sorted(range(len(plans)), key=lambda i: -plans[i].cost["macs"][1]):
        plan = plans[i]
        kept = {name: [c for c in indices if c in ceiling[name]] for name, indices in plan.kept.items()}
        plans[i] = ChannelPlan.of(generator, kept, plan.rule | {"nested": list(macs)}, scores, plan.teacher)
        ceiling = {name: set(indices) for name, indices in kept.items()}
    return plans
