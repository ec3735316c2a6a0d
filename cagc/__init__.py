"""Content-aware compression of style-based GANs.

g = cagc.load_generator(path)
scores = cagc.score_channels(g, metric="content-aware", parser=cagc.content.load("faces"))
plan = cagc.plan_channels(g, scores, macs=1 / 11)
student = cagc.prune(g, plan)
"""

from cagc_kernels import __version__

from . import content, runtime
from .budget import ChannelPlan, plan_channels
from .checkpoints import load_discriminator, load_generator, save_generator
from .distill import DistillConfig, distill
from .elastic import at, nested_plans
from .errors import CagcError
from .evaluation import evaluate
from .models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from .prune import prune
from .scores import ChannelScores, score_channels

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
]
