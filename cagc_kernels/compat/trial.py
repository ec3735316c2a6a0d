"""One trial of the table of code bases, in a process of its own: builds a generator and draws an image.

``python -m cagc_kernels.compat.trial ROOT MODULE NAME KIND MODE OUT``; see :mod:`.peers`, which starts it.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from types import FrameType, ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import hook

# bare: the code base unchanged; own: its own functions, without compiling; kernels, reference: our functions.
MODES = ("bare", "own", "kernels", "reference")
# The line printed after a successful trial.
READY = "{}"
# The line that says that its import did.
IMPORTED = "[]"
# Name for a folder of ops without a generator.
OPS = "ops"


# Image sides in pixels for the comparison of derivatives, of which the first that a generator can draw is used, and the
# one for timing.
SIZES, TIMED_SIZE = (16, 64), 128
# The end of the error of a generator without a use for the ops.
NO_OP = "no op that is served"


class Kind(NamedTuple):
    """How to build a generator of a given size and draw its images; ``build`` takes its class and the size."""

    build: Callable[[Callable[..., nn.Module], int], nn.Module]
    draw: Callable[[Callable[..., object], Tensor], Tensor]
    shape: Callable[[int], tuple[int, ...]] = lambda size: (1, 64)


def _of_ops(ops: Callable[..., Tensor], z: Tensor) -> Tensor:
    return ops(z.view(1, 4, 4, 4))


def _of_stages(generator: nn.Module, z: Tensor) -> Tensor:
    for stage in generator.MainLayers:  # each casts its input to this dtype
        stage.DataType = z.dtype
    return generator(z)


def _stages(made: Callable[..., nn.Module], size: int) -> nn.Module:
    count = size.bit_length() - 2
    return made(64, [32] * count, [4] * count, [1] * count, 2)


def _sized(made: Callable[..., nn.Module], size: int) -> nn.Module:
    return made(size, 64, 2)


# Values for the parameters of NVlabs' generators and of those made from them, by name. `size` stands for the image's.
_GIVEN = {"z_dim": 64, "c_dim": 0, "w_dim": 64, "img_resolution": "size", "img_channels": 3, "square": True}
# Arguments that some generators look up among those for their layers, without a default.
_ASKED = {"conv_kernel": 3, "use_radial_filters": False}


def _nvlabs(made: type[nn.Module], size: int) -> nn.Module:
    """Build ``made`` with those of the known arguments that it takes, and those that it asks for by a KeyError."""
    classes = made.__mro__[:-1]  # a decorator may hide the parameters of the class itself
    taken = {name for cls in classes for name in signature(cls.__init__).parameters}
    given = {name: size if value == "size" else value for name, value in _GIVEN.items() if name in taken}
    # StyleGAN3 has fourteen layers of 36 px and more at any size of the image.
    if size in SIZES and any("stylegan3" in cls.__module__ for cls in classes):
        given |= {"channel_base": 1024, "channel_max": 64}
    for _ in range(len(_ASKED)):
        try:
            return made(**given)
        except KeyError as error:
            asked = str(error.args[0])
            if asked not in _ASKED or asked in given:
                raise
            given[asked] = _ASKED[asked]
    return made(**given)


def _restored(generator: Callable[..., object], image: Tensor) -> Tensor:
    return generator(image, randomize_noise=False)[0]


# Kinds by the first parameter of the class, or by its name.
KINDS = {
    "size": Kind(_sized, lambda g, z: g([z], randomize_noise=False)[0]),
    "out_size": Kind(_sized, lambda g, z: g([z], randomize_noise=False)[0]),
    "z_dim": Kind(_nvlabs, lambda g, z: g(z, None, noise_mode="const", force_fp32=True)),
    "resolution": Kind(_sized, lambda g, z: g(z[:, None], randomize_noise=False)[0]),
    "NoiseDimension": Kind(_stages, _of_stages),
    "GFPGANv1": Kind(
        lambda made, size: made(size, 64, 1, (1, 3, 3, 1), None, True, 2, 0.01, False, True, 0.25),
        _restored,
        lambda size: (1, 3, size, size),
    ),
    OPS: Kind(lambda made, size: _ops(made), _of_ops),
}
NAMES = ("Generator", "StyleGAN2Generator", "GFPGANv1")


def kind_of(name: str, first: str) -> str | None:
    """Return the key of :data:`KINDS` for the class ``name`` whose first parameter is ``first``; None without one."""
    return next((key for key in (name, first) if key in KINDS), None)


def _ops(module: object) -> nn.Module:
    """Return the ops of a folder as one module: bias and activation, then up-sampling by two."""

    class Ops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(4))
            self.register_buffer("taps", torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([1.0, 3.0, 3.0, 1.0])))

        def forward(self, x: Tensor) -> Tensor:
            folder = module.__name__.rpartition(".")[0]
            for file in ("fused_act", "fused_bias_leakyrelu", "bias_act"):
                for place in (f"{folder}.{file}", f"{folder.rpartition('.')[0]}.{file}"):
                    found = sys.modules.get(place)
                    act = getattr(found, "fused_leaky_relu", None) or getattr(found, "fused_bias_leakyrelu", None)
                    if act is not None:
                        return module.upfirdn2d(act(x, self.bias), self.taps, 2, 1, (2, 1))
            return module.upfirdn2d(x, self.taps, 2, 1, (2, 1))

    return Ops()


def _load(module: str, name: str) -> object:
    loaded = importlib.import_module(module)
    if name != OPS:
        return getattr(loaded, name)
    folder = module.rpartition(".")[0]
    for file in ("fused_act", "fused_bias_leakyrelu", "bias_act"):
        for place in (f"{folder}.{file}", f"{folder.rpartition('.')[0]}.{file}"):
            try:
                importlib.import_module(place)
            except ImportError:
                continue
    return loaded


def derivatives(draw: Callable[[Tensor], Tensor], z: Tensor) -> list[Tensor]:
    """Return an image, the gradient of a weighted sum of it by ``z``, and the gradient of that gradient's square."""
    z = z.clone().requires_grad_()
    image = draw(z)
    weights = torch.linspace(-1, 1, image.numel(), dtype=image.dtype).view_as(image)
    (gradient,) = torch.autograd.grad((image * weights).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), z)
    return [image.detach(), gradient.detach(), second]


class _Doubled(ModuleType):
    """``torch`` for code that casts its images to float32: it gets float64 under that name."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@contextmanager
def _in_double(root: str) -> Iterator[None]:
    """Let the modules below ``root`` compute in float64."""
    found = [m for m in list(sys.modules.values()) if str(getattr(m, "__file__", "") or "").startswith(root)]
    changed = [module for module in found if vars(module).get("torch") is torch]
    for module in changed:
        module.torch = _Doubled("torch")
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
        for module in changed:
            module.torch = torch


@contextmanager
def _watched() -> Iterator[set[str]]:
    """Collect the names of our modules whose functions are called in the block."""
    called: set[str] = set()
    package = __name__.partition(".")[0]

    def note(frame: FrameType, *_: object) -> None:
        name = str(frame.f_globals.get("__name__"))
        if name.startswith(package) and name != __name__:
            called.add(name)

    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)


def main(root: str, module: str, name: str, kind_name: str, mode: str, out: str) -> None:
    """Write image and gradients of ``name`` to ``out``, print a line, and time an image per line of standard input."""
    sys.path.insert(0, root)
    if mode != "bare":
        hook.install()
        hook.keep_theirs(mode == "own")
    loaded = _load(module, name)
    if mode == "bare":
        print(READY, flush=True)
        return
    if mode != "own" and "replaced" not in hook.explain_install():
        raise RuntimeError(f"imports {NO_OP}")
    print(IMPORTED, flush=True)
    kind = KINDS[kind_name]

    def build(size: int) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        return kind.build(loaded, size).eval(), torch.randn(kind.shape(size))

    def compare(size: int) -> list[Tensor]:
        generator, z = build(size)
        generator.double()
        with _in_double(root):
            return derivatives(lambda z: kind.draw(generator, z), z.double())

    with _watched() as called:
        try:
            found = compare(SIZES[0])
        except Exception:
            found = compare(SIZES[1])
    if mode != "own" and not called:
        raise RuntimeError(f"calls {NO_OP}")
    torch.save(found, out)
    print(READY, flush=True)
    timed: tuple[nn.Module, Tensor] | None = None
    for _ in sys.stdin:
        timed = timed or build(TIMED_SIZE)
        with torch.no_grad():
            start = time.perf_counter()
            kind.draw(*timed)
            print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
