"""Generators and ops of the public code bases, imported from the user's own checkouts and never copied.

``--peers DIR``: DIR is a checkout, or a folder of checkouts, of rosinality/stylegan2-pytorch,
lychenyoko/content-aware-gan-compression, NVlabs/stylegan2-ada-pytorch or NVlabs/stylegan3; they are recognised by their
files. On a GPU their own code builds their CUDA ops; on the CPU their PyTorch code runs, and the build that they start
on import is suppressed. Code that does not import is skipped with the reason.
"""

from __future__ import annotations

import importlib
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
import torch.utils.cpp_extension

from cagc.checkpoints import load_generator
from cagc.checkpoints.rosinality import generator_from_rosinality, generator_to_rosinality
from cagc.models import Generator, StyleGAN3Generator


class Unavailable(Exception):
    """Something cannot run here; the message is the reason."""


@dataclass(frozen=True)
class CodeBase:
    """A peer: how its checkout is recognised, what is imported from it, and how its generator gets our weights."""

    name: str
    marks: tuple[str, ...]
    module: str
    owns: tuple[str, ...]
    make: Callable[[ModuleType, Generator], Callable[[torch.Tensor], torch.Tensor]]


def _authors(module: ModuleType, ours: Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    config = ours.config
    shape = list(config.channels.values())
    theirs = module.Generator(config.resolution, config.style_dim, config.mapping_layers, generator_net_shape=shape)
    return _load_rosinality(theirs, ours)


def _rosinality(module: ModuleType, ours: Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    config = ours.config
    theirs = module.Generator(config.resolution, config.style_dim, config.mapping_layers)
    if theirs.input.input.shape[1] != config.channels["b4.const"]:
        raise Unavailable("its widths are fixed in the code")
    call = _load_rosinality(theirs, ours)
    return lambda z: call(z)[0]


def _load_rosinality(theirs: torch.nn.Module, ours: Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """Load our weights into their network, and check that our reader gets the same weights back."""
    theirs.load_state_dict(generator_to_rosinality(ours))
    _check_read_back(ours, generator_from_rosinality(theirs.state_dict()), "w_avg")
    theirs = theirs.to(ours.w_avg.device).eval().requires_grad_(False)
    return lambda z: theirs([z], randomize_noise=False)


def _check_read_back(ours: Generator, back: Generator, absent: str = "") -> None:
    state = back.state_dict()
    for name, tensor in ours.state_dict().items():
        if name != absent and not torch.equal(state[name], tensor.cpu()):
            raise Unavailable(f"its checkpoint reads back with another {name}")


def _nvlabs(nested: bool, module: ModuleType, ours: Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """Build NVlabs' generator; with ``nested``, synthesis options are a dictionary, as in stylegan2-ada."""
    config, width = ours.config, ours.config.channels
    options = {"channel_base": 4 * config.resolution, "channel_max": 4, "num_fp16_res": 0}
    theirs = module.Generator(
        config.style_dim, 0, config.style_dim, config.resolution, 3,
        mapping_kwargs={"num_layers": config.mapping_layers, "lr_multiplier": config.lr_multiplier},
        **({"synthesis_kwargs": options} if nested else options),
    )  # fmt: skip
    below = 0
    for r in ours.synthesis.resolutions:
        if r > 4 and width[f"b{r}.conv0"] != width[f"b{r}.conv1"]:
            raise Unavailable("it has one width a resolution")
        block = getattr(theirs.synthesis, f"b{r}")
        of = {"resolution": r, "img_channels": 3, "is_last": r == config.resolution, "conv_clamp": None}
        setattr(theirs.synthesis, f"b{r}", type(block)(below, width[f"b{r}.conv1"], config.style_dim, **of))
        below = width[f"b{r}.conv1"]
    state = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        state[name.replace("to_rgb", "torgb").replace("w_avg", "mapping.w_avg")] = tensor
    theirs.load_state_dict(state)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "snapshot.pkl")
        path.write_bytes(pickle.dumps({"G_ema": theirs}))
        _check_read_back(ours, load_generator(path))
    theirs = theirs.to(ours.w_avg.device).eval().requires_grad_(False)
    return lambda z: theirs(z, None, noise_mode="const")


CODE_BASES = (
    CodeBase("authors", ("model.py", "op", "Util/mask_util.py"), "model", ("model", "op"), _authors),
    CodeBase("rosinality", ("model.py", "op", "swagan.py"), "model", ("model", "op"), _rosinality),
    CodeBase(
        "stylegan2-ada", ("training/networks.py", "torch_utils"), "training.networks",
        ("training", "torch_utils", "dnnlib"), partial(_nvlabs, True),
    ),
    CodeBase(
        "stylegan3", ("training/networks_stylegan2.py", "torch_utils"), "training.networks_stylegan2",
        ("training", "torch_utils", "dnnlib"), partial(_nvlabs, False),
    ),
)  # fmt: skip
NAMES = tuple(base.name for base in CODE_BASES)


def find(folder: Path, base: CodeBase) -> Path:
    """Return the checkout of ``base`` in ``folder``. Raises Unavailable if there is none."""
    for place in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        if all((place / mark).exists() for mark in base.marks):
            return place
    raise Unavailable(f"no checkout in {folder} (looked for {', '.join(base.marks)})")


def _forget(names: tuple[str, ...]) -> dict[str, ModuleType]:
    found = [name for name in sys.modules if name.split(".")[0] in names]
    return {name: sys.modules.pop(name) for name in found}


@contextmanager
def _isolated(path: Path, owns: tuple[str, ...], device: str) -> Iterator[None]:
    """Import from ``path`` inside the block, hiding other modules with these names, and restore them afterwards."""
    before, load = _forget(owns), torch.utils.cpp_extension.load
    sys.path.insert(0, str(path))
    absent = [name for name in ("requests", "pkg_resources") if importlib.util.find_spec(name) is None]
    for name in absent:  # imported by NVlabs' code, for downloads and for the version of PyTorch
        sys.modules[name] = ModuleType(name)
        sys.modules[name].parse_version = torch.torch_version.TorchVersion
    if device == "cpu":
        torch.utils.cpp_extension.load = lambda *_, **__: None
    try:
        yield
    finally:
        torch.utils.cpp_extension.load = load
        sys.path.remove(str(path))
        _forget((*owns, *absent))
        sys.modules.update(before)


@contextmanager
def imported(folder: Path | None, name: str, device: str) -> Iterator[ModuleType]:
    """Yield the module with the generator of peer ``name``, while its packages can be imported.

    Raises Unavailable with the reason: there is no checkout, or its code raised on import or inside the block.
    """
    if folder is None:
        raise Unavailable("needs --peers DIR with its public code")
    base = next(base for base in CODE_BASES if base.name == name)
    with _isolated(find(folder, base), base.owns, device):
        try:
            yield importlib.import_module(base.module)
        except Unavailable:
            raise
        except Exception as error:  # their code may raise anything
            raise Unavailable(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def generator(folder: Path | None, name: str, ours: Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return peer ``name``'s generator as a function z [N, z_dim] → image, with the weights and noise maps of ``ours``.

    Raises Unavailable with the reason.
    """
    make = next(base for base in CODE_BASES if base.name == name).make
    with imported(folder, name, ours.w_avg.device.type) as module:
        return make(module, ours)


def ops(folder: Path | None, name: str, device: str) -> dict[str, Callable[..., torch.Tensor]]:
    """Return peer ``name``'s ops: "bias_act" (x, b) with leaky ReLU; "blur" and "up" (x, f) of an up-sampling layer.

    Raises Unavailable with the reason.
    """
    with imported(folder, name, device):
        if "op" in sys.modules:
            theirs = sys.modules["op"]
            return {
                "bias_act": theirs.fused_leaky_relu,
                "blur": lambda x, f: theirs.upfirdn2d(x, f * 4, pad=(1, 1)),
                "up": lambda x, f: theirs.upfirdn2d(x, f * 4, up=2, pad=(2, 1)),
            }
        resample, activate = (importlib.import_module(f"torch_utils.ops.{stem}") for stem in ("upfirdn2d", "bias_act"))
        return {
            "bias_act": lambda x, b: activate.bias_act(x, b, act="lrelu"),
            "blur": lambda x, f: resample.upfirdn2d(x, f, padding=1, gain=4),
            "up": lambda x, f: resample.upsample2d(x, f),
        }


def stylegan3(folder: Path | None, ours: StyleGAN3Generator, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return NVlabs' StyleGAN3 generator as a function z [N, z_dim] → image, with the weights of ``ours``, a full one.

    Raises Unavailable with the reason.
    """
    config, widths = ours.config, list(ours.config.channels.values())
    sizes = {"channel_base": widths[-1] * config.resolution, "channel_max": max(widths)}
    with imported(folder, "stylegan3", device):
        module = importlib.import_module("training.networks_stylegan3")
        theirs = module.Generator(
            config.z_dim, 0, config.w_dim, config.resolution, 3, mapping_kwargs={"num_layers": 2}, num_fp16_res=0,
            **sizes,
        )  # fmt: skip
    layers = dict(zip(ours.synthesis.layers, theirs.synthesis.layer_names, strict=True))
    state = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        network, layer, *rest = ("mapping.w_avg" if name == "w_avg" else name).split(".")
        state[".".join([network, layers.get(layer, layer), *rest])] = tensor
    theirs.load_state_dict(state)
    theirs = theirs.to(device).eval().requires_grad_(False)
    return lambda z: theirs(z, None)
