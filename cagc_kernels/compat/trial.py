"""One trial of the table of code bases, in a process of its own: builds a generator and draws an image.

``python -m cagc_kernels.compat.trial ROOT MODULE NAME KIND MODE OUT``; see :mod:`.peers`, which starts it.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
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


# Image side in pixels for the comparison of derivatives, and for timing.
SIZE, TIMED_SIZE = 16, 128


class Kind(NamedTuple):
    """How to build a generator of a given size and draw its images."""

    arguments: Callable[[int], tuple[object, ...]]
    draw: Callable[[Callable[..., object], Tensor], Tensor]
    shape: Callable[[int], tuple[int, ...]] = lambda size: (1, 64)


def _of_ops(ops: Callable[..., Tensor], z: Tensor) -> Tensor:
    return ops(z.view(1, 4, 4, 4))


def _of_stages(generator: nn.Module, z: Tensor) -> Tensor:
    for stage in generator.MainLayers:  # each casts its input to this dtype
        stage.DataType = z.dtype
    return generator(z)


def _stages(size: int) -> tuple[object, ...]:
    count = size.bit_length() - 2
    return 64, [32] * count, [4] * count, [1] * count, 2


def _restored(generator: Callable[..., object], image: Tensor) -> Tensor:
    return generator(image, randomize_noise=False)[0]


# Kinds by the first parameter of the class, or by its name.
KINDS = {
    "size": Kind(lambda size: (size, 64, 2), lambda g, z: g([z], randomize_noise=False)[0]),
    "out_size": Kind(lambda size: (size, 64, 2), lambda g, z: g([z], randomize_noise=False)[0]),
    "z_dim": Kind(lambda size: (64, 0, 64, size, 3), lambda g, z: g(z, None, noise_mode="const", force_fp32=True)),
    "resolution": Kind(lambda size: (size, 64, 2), lambda g, z: g(z[:, None], randomize_noise=False)[0]),
    "NoiseDimension": Kind(_stages, _of_stages),
    "GFPGANv1": Kind(
        lambda size: (size, 64, 1, (1, 3, 3, 1), None, True, 2, 0.01, False, True, 0.25),
        _restored,
        lambda size: (1, 3, size, size),
    ),
    OPS: Kind(lambda size: (), _of_ops),
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
        raise RuntimeError("imports no op that is served")
    print(IMPORTED, flush=True)
    kind = KINDS[kind_name]

    def build(size: int) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        # StyleGAN3 has fourteen layers of 36 px and more at any size of the image.
        narrow = {"channel_base": 1024, "channel_max": 64} if "stylegan3" in module and size == SIZE else {}
        made = _ops(loaded) if name == OPS else loaded(*kind.arguments(size), **narrow)
        return made.eval(), torch.randn(kind.shape(size))

    generator, z = build(SIZE)
    generator.double()
    with _in_double(root):
        torch.save(derivatives(lambda z: kind.draw(generator, z), z.double()), out)
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
