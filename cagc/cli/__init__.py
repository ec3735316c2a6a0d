"""Content-aware compression of style-based GANs. `cagc COMMAND --help` lists the options of a command."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Union

import tyro

from .. import __version__
from ..common import distributed
from ..common.console import command_streams, one_line_errors, option_errors, shown_warnings
from ..common.errors import CagcError
from ..distill import DistillConfig
from ..recipes import RECIPES, Recipe, recipe
from ..runs import open_device
from .commands import Compress, Convert, Distill, Evaluate, Export, Generate, Prune, Score
from .editing import Edit, Mix, Morph, Project

__all__ = ["main"]


def _named_recipe(args: list[str]) -> Recipe | None:
    """Return the recipe given by --recipe, whose settings become the defaults of other options, or None."""
    for i, word in enumerate(args):
        option, equals, value = word.partition("=")
        if option == "--recipe" and (equals or i + 1 < len(args)):
            return recipe(value if equals else args[i + 1])
    return None


def _given_settings(args: list[str]) -> tuple[str, ...]:
    """Return the names of the distillation's settings that the command line gives."""
    prefix = "--distillation."
    words = [word.partition("=")[0].removeprefix(prefix) for word in args if word.startswith(prefix)]
    return tuple(word.removeprefix("no-").replace("-", "_") for word in words)


def _commands(named: Recipe | None, given: tuple[str, ...]) -> type:
    compress = Compress(distillation=(named or RECIPES["quick"]).distillation, given=given)
    distill = Distill(out=tyro.MISSING, config=named.distillation if named else DistillConfig())
    return Union[
        Annotated[Compress, tyro.conf.subcommand("compress", default=compress)],
        Score,
        Prune,
        Annotated[Distill, tyro.conf.subcommand("distill", default=distill)],
        Evaluate,
        Generate,
        Project,
        Mix,
        Morph,
        Edit,
        Convert,
        Export,
    ]


_SHARED = (Score, Distill, Evaluate)
_STYLE = (tyro.conf.PositionalMetavarFromFieldName,)


def _run(command: Any) -> None:
    """Run ``command`` in every process that ``torchrun`` started."""
    distributed.launch_rank()
    if distributed.launched() == 1:
        return command.run()
    if not isinstance(command, _SHARED):
        names = ", ".join(kind.__name__.lower() for kind in _SHARED)
        raise CagcError(f"torchrun: got {distributed.launched()} processes, which only {names} can share")
    with distributed.process_group(open_device(command.device)):
        command.run()


def main(args: list[str] | None = None) -> None:
    """Run one command; see :func:`cagc.common.console.one_line_errors`."""
    args = list(sys.argv[1:] if args is None else args)
    with command_streams(), one_line_errors():
        if args == ["--version"]:
            print(__version__)
            return
        commands = _commands(_named_recipe(args), _given_settings(args))
        with option_errors():
            command = tyro.cli(commands, prog="cagc", description=__doc__, args=args, config=_STYLE)
        with shown_warnings():
            _run(command)
