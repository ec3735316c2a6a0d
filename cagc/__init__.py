"""Content-aware compression of style-based GANs.

    g = cagc.load_generator(path)
    scores = cagc.score_channels(g, metric="content-aware", parser=cagc.content.load("faces"))
    plan = cagc.plan_channels(g, scores, macs=1 / 11)
    student = cagc.prune(g, plan)

Attributes load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from cagc_kernels import __version__

_HOME = {
    "CagcError": "errors",
    "ChannelPlan": "budget",
    "DistillConfig": "distill",
    "Generator": "models",
    "GeneratorConfig": "models",
    "content": "content",
    "distill": "distill",
    "evaluate": "evaluation",
    "load_discriminator": "checkpoints",
    "load_generator": "checkpoints",
    "plan_channels": "budget",
    "prune": "prune",
    "save_generator": "checkpoints",
    "score_channels": "scores",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from . import content
    from .budget import ChannelPlan, plan_channels
    from .checkpoints import load_discriminator, load_generator, save_generator
    from .distill import DistillConfig, distill
    from .errors import CagcError
    from .evaluation import evaluate
    from .models import Generator, GeneratorConfig
    from .prune import prune
    from .scores import score_channels


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_HOME[name]}", __name__)
    # A submodule of the same name would otherwise hide its function from the second use on.
    globals()[name] = value = module if name == "content" else getattr(module, name)
    return value


def __dir__():
    return sorted(__all__)
