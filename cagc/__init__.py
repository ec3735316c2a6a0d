"""Content-aware compression of style-based GANs.

g = cagc.load_generator(path)
scores = cagc.score_channels(g, metric="content-aware", parser=cagc.content.load("faces"))
plan = cagc.plan_channels(g, scores, macs=1 / 11)
student = cagc.prune(g, plan)
"""

import sys

import cagc_command  # noqa: F401 - first, for interrupts while the rest loads
from cagc_kernels import __version__

from . import content, runtime
from .checkpoints import load_discriminator, load_generator, save_generator
from .common.errors import CagcError
from .distill import DistillConfig, distill
from .evaluation import evaluate
from .models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from .pruning import scores
from .pruning.budget import ChannelPlan, plan_channels
from .pruning.elastic import at, nested_plans
from .pruning.prune import prune
from .pruning.scores import ChannelScores, score_channels

__all__ = [
    "CagcError",
    "ChannelPlan",
    "ChannelScores",
    "Discriminator",
    "DiscriminatorConfig",
    "DistillConfig",
    "Generator",
    "GeneratorConfig",
    "__version__",
    "at",
    "content",
    "distill",
    "evaluate",
    "load_discriminator",
    "load_generator",
    "nested_plans",
    "plan_channels",
    "prune",
    "runtime",
    "save_generator",
    "score_channels",
    "scores",
]

# Modules keep the import paths that they had before they moved: cagc.plan, cagc.errors, cagc.metrics.latency, ...
_MOVED = {
    name: name.replace(".pruning.", ".", 1).replace(".common.", ".", 1)
    for name in sys.modules
    if name.startswith(("cagc.pruning.", "cagc.common."))
} | {
    "cagc.latency.measure": "cagc.metrics.latency",
    "cagc.latency.table": "cagc.metrics.latency_table",
    "cagc.latency.layers": "cagc.metrics.layer_latency",
    "cagc.latency.work": "cagc.metrics.work",
}
for _name, _earlier in _MOVED.items():
    sys.modules[_earlier] = sys.modules[_name]
