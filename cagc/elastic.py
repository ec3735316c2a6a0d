"""One full generator at any width: a plan applied when the generator runs, instead of by slicing it.

A view convolves with the channels that its plan keeps, read out of the full weights in place
(:func:`cagc_kernels.sparse_channel_conv2d`); it computes what the pruned student would, up to rounding. Its cost
follows its plan's MACs, its memory is the full generator's, and switching between budgets costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cagc_kernels import bias_act, modulated_conv2d, sparse_channel_conv2d

from .budget import plan_channels
from .checkpoints import generator_hash
from .checks import choice
from .errors import CagcError
from .models.stylegan2 import Generator, SynthesisBlock, SynthesisLayer, SynthesisNetwork, ToRGB
from .plan import ChannelPlan, check_kept
from .prune import prune
from .scores.document import ChannelScores, check_widths

RESCALES = ("keep", "none")


class _Kept:
    """Ascending channel indices of one layer, held on the device where they were last used."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.count = len(indices)
        self._index = torch.tensor(indices)

    def on(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._index.device != tensor.device:
            self._index = self._index.to(tensor.device)
        return self._index


class ElasticLayer(nn.Module):
    """A :class:`SynthesisLayer` at the kept widths: x [N, I', h, w] → [N, O', up·h, up·w].

    The equalised learning rate of the student, 1/√fan_in of the kept width, scales the styles and not the weight:
    the demodulated convolution is the same, its 1e-8 included.
    """

    def __init__(self, layer: SynthesisLayer, inputs: _Kept, outputs: _Kept) -> None:
        super().__init__()
        self.layer, self.inputs, self.outputs = layer, inputs, outputs
        self.gain = 1 / math.sqrt(inputs.count * 9)

    def affine(self, w: torch.Tensor) -> torch.Tensor:
        return self.layer.affine(w).index_select(1, self.inputs.on(w))

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: str | torch.Tensor) -> torch.Tensor:
        layer, outputs = self.layer, self.outputs.on(x)
        x = sparse_channel_conv2d(
            x,
            layer.weight,
            self.inputs.on(x),
            outputs,
            self.affine(w) * self.gain,
            flip_weight=layer.up == 1,
            up=layer.up,
            resample_filter=layer.resample_filter if layer.up > 1 else None,
        )
        noise = layer._noise(x.shape[0], noise)
        x = x if noise is None else x + noise.to(x.dtype)
        return bias_act(x, layer.bias.index_select(0, outputs), act="lrelu", clamp=layer.clamp)


class ElasticToRGB(nn.Module):
    """A :class:`ToRGB` at the kept width: x [N, I', h, w] → [N, 3, h, w]."""

    def __init__(self, layer: ToRGB, inputs: _Kept, keep_scale: bool) -> None:
        super().__init__()
        self.layer, self.inputs = layer, inputs
        self.gain = layer.weight_gain if keep_scale else 1 / math.sqrt(inputs.count)

    def affine(self, w: torch.Tensor) -> torch.Tensor:
        return self.layer.affine(w).index_select(1, self.inputs.on(w))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        # A handful of numbers per channel: gathering them is cheaper than any kernel that would not.
        weight = self.layer.weight.index_select(1, self.inputs.on(x))
        x = modulated_conv2d(x, weight, self.affine(w) * self.gain, demodulate=False)
        return bias_act(x, self.layer.bias, clamp=self.layer.clamp)


class ElasticBlock(nn.Module):
    """A :class:`SynthesisBlock` at the kept widths."""

    def __init__(
        self, block: SynthesisBlock, below: _Kept | None, inputs: _Kept, outputs: _Kept, keep_rgb_scale: bool
    ) -> None:
        super().__init__()
        self.inputs = inputs
        if below is None:
            self.full_const = block.const
        else:
            self.conv0 = ElasticLayer(block.conv0, below, inputs)
        self.conv1 = ElasticLayer(block.conv1, inputs, outputs)
        self.to_rgb = ElasticToRGB(block.to_rgb, outputs, keep_rgb_scale)

    @property
    def const(self) -> torch.Tensor:
        return self.full_const.index_select(0, self.inputs.on(self.full_const))


class ElasticSynthesis(SynthesisNetwork):
    """The synthesis network at the kept widths; arguments and results are those of :class:`SynthesisNetwork`."""

    def __init__(self, full: SynthesisNetwork, plan: ChannelPlan, keep_rgb_scale: bool) -> None:
        nn.Module.__init__(self)
        self.config = replace(full.config, channels=plan.channels())
        self.resolutions = full.resolutions
        object.__setattr__(self, "full", full)
        kept = {name: _Kept(indices) for name, indices in plan.kept.items()}
        below = None
        for r in self.resolutions:
            inputs, outputs = kept["b4.const" if r == 4 else f"b{r}.conv0"], kept[f"b{r}.conv1"]
            self.add_module(f"b{r}", ElasticBlock(getattr(full, f"b{r}"), below, inputs, outputs, keep_rgb_scale))
            below = outputs

    @property
    def resample_filter(self) -> torch.Tensor:
        return self.full.resample_filter

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> ElasticSynthesis:
        self.full._apply(fn, recurse)  # its buffers too, which are none of this module's
        return self


class ElasticGenerator(Generator):
    """What :func:`at` returns: runs as a generator of the plan's widths, owns no weight.

    Parameters are the full generator's, shared: an optimiser step through one view shows in all others, and moving or
    casting a view moves the generator. Gradients of a weight are zero at the channels that the plan removes.
    ``config`` has the kept widths, so that MACs and parameters are counted for them.
    """

    def __init__(self, full: Generator, plan: ChannelPlan, rescale: str) -> None:
        nn.Module.__init__(self)
        self.plan, self.rescale = plan, rescale
        self.mapping = full.mapping
        self.synthesis = ElasticSynthesis(full.synthesis, plan, rescale == "keep")
        self.config = self.synthesis.config
        # Past Module.__setattr__: the generator's parameters are registered once, and a buffer that moves is followed.
        object.__setattr__(self, "full", full)

    @property
    def w_avg(self) -> torch.Tensor:
        return self.full.w_avg

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> ElasticGenerator:
        self.full._apply(fn, recurse)
        return self

    def pruned(self) -> Generator:
        """The student that :func:`cagc.prune` makes of the generator as it is now, with weights of its own."""
        return prune(self.full, replace(self.plan, teacher=generator_hash(self.full)), self.rescale)

    def channel_groups(self):
        raise CagcError("channel_groups: a view has no weights to slice; take those of the full generator")

    def state_dict(self, *args: Any, **kwargs: Any):
        raise CagcError("state_dict: a view has no weights of its own; save the full generator, or view.pruned()")


def at(generator: Generator, plan: ChannelPlan, rescale: str = "keep", check: bool = True) -> ElasticGenerator:
    """``generator.at(plan)``: the generator at the widths of ``plan``, as a view that shares its weights, slicing none.

    The view runs as :func:`cagc.prune` of the same arguments would, up to rounding, with the arguments of
    ``generator``. It costs nothing to make, and any number of them may live at once. :func:`cagc.runtime.compile` takes
    a view for the student that it stands for.

    Args:
        generator: the plan's, not itself a view.
        plan: see :func:`cagc.plan_channels`; :func:`nested_plans` makes one for each of several budgets.
        rescale: "keep" or "none", as in :func:`cagc.prune`; "svs" changes weights, and a view has none of its own.
        check: compare the weights with those that the plan was made for. False compares layers and widths only:
            quicker, and right for a generator that has been trained since.

    Raises:
        ValueError: another ``rescale``.
        CagcError: the plan is for another generator, or the channels it keeps are not as they must be.
    """
    choice("rescale", rescale, RESCALES)
    if isinstance(generator, ElasticGenerator):
        raise CagcError("plan: the generator is a view at another plan; take the view of the full generator")
    if check:
        plan.check(generator)
    else:
        check_widths("plan", plan.full, generator.channel_groups())
    check_kept("plan", plan.kept, plan.full)
    return ElasticGenerator(generator, plan, rescale)


def nested_plans(
    generator: Generator, scores: ChannelScores, macs: Sequence[float], **options: Any
) -> list[ChannelPlan]:
    """A plan per budget, in the order of ``macs``, each keeping only channels that every larger one keeps.

    A budget is planned as if it were alone (:func:`cagc.plan_channels` with ``options``); where that gives a layer
    more channels than a larger budget does, the layer takes the larger budget's. A plan may so stay below its budget,
    never above it.

    Args:
        generator: that ``scores`` were made for.
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
