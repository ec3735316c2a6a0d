"""Slice a generator down to the channels of a plan."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ..common.checks import choice
from ..models import AnyGenerator
from ..models.channels import slice_state
from .plan import ChannelPlan, check_kept
from .svs import singular_value_scaling

RESCALES = ("keep", "none", "svs")


def prune(generator: AnyGenerator, plan: ChannelPlan, rescale: str = "keep") -> AnyGenerator:
    """A new generator with only the channels that ``plan`` keeps; nothing is shared with ``generator``.

    The mapping network, ``w_avg``, noise strengths, constant noise maps and toRGB biases are copied unchanged.
    Device, dtype and training mode are those of ``generator``; every parameter of the result requires a gradient.

    Weights are stored without their run-time scale 1/√fan_in, which grows when channels are removed. Demodulation
    cancels this in the 3×3 convolutions, up to the 1e-8 under its root; toRGB and shortcuts have no demodulation.

    Args:
        generator: the plan's teacher.
        plan: see :func:`cagc.pruning.budget.plan_channels`.
        rescale: "keep" multiplies the weights of toRGB and of shortcuts by √(kept / full), so that the kept channels
            contribute as before. "none" leaves the weights as the paper's code does: RGB grows √(full / kept) times,
            1.82 times from 512 to 154 channels. "svs" is "none" followed by
            :func:`cagc.pruning.svs.singular_value_scaling`: a starting point for training, not a usable generator.

    Raises:
        ValueError: another ``rescale``.
        CagcError: the plan is for another generator, or its kept channels are invalid.
    """
    choice("rescale", rescale, RESCALES)
    plan.check(generator)
    check_kept("plan", plan.kept, plan.full)
    groups = generator.channel_groups()
    kept = {name: torch.tensor(indices) for name, indices in plan.kept.items()}
    state = slice_state(generator.state_dict(), groups, kept)
    if rescale == "keep":
        for spec in generator.config.layers():
            # Without demodulation the weight's run-time scale shows in the output.
            if spec.equalised and not spec.demodulate:
                state[spec.weight] = state[spec.weight] * math.sqrt(len(plan.kept[spec.reads]) / spec.in_width)
    with torch.random.fork_rng(devices=[]):
        student = type(generator)(replace(generator.config, channels=plan.channels()))
    student.to(generator.w_avg)
    student.load_state_dict(state)
    student.labels = generator.labels
    student.train(generator.training)
    return singular_value_scaling(student) if rescale == "svs" else student
