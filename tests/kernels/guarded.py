"""Calls of the CPU kernels on random shapes, every buffer between two pages that cannot be touched.

``python -m tests.kernels.guarded CALLS SEED`` makes the calls, first printing what each is: a kernel that reads or
writes outside of a buffer ends the process, and the last line names the call.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import random
import sys
from collections.abc import Callable

import torch

from cagc.models import Generator, GeneratorConfig
from cagc.models.stylegan2_config import layer_names
from cagc.runtime.program import program
from cagc_kernels import bias_act, filtered_lrelu, layout, native, sparse_channel_conv2d, upfirdn2d
from cagc_kernels.arguments import Epilogue
from cagc_kernels.native import synthesis
from cagc_kernels.ops.epilogue import epilogue
from cagc_kernels.reference.bias_act import ACTIVATIONS

PAGE = mmap.PAGESIZE
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_libc = ctypes.CDLL(None, use_errno=True)


def guarded(t: torch.Tensor, at_end: bool | None = None) -> torch.Tensor:
    """Return a copy of ``t``, with its strides, whose memory ends (or begins, at random) at a forbidden page."""
    extent = 1 + sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0
    size = max(1, extent * t.element_size())
    pages = -(-size // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (0, pages + 1):
        code = _libc.mprotect(ctypes.c_void_p(address + page * PAGE), ctypes.c_size_t(PAGE), 0)
        assert code == 0, ctypes.get_errno()
    at_end = random.random() < 0.7 if at_end is None else at_end
    offset = PAGE + (pages * PAGE - size if at_end else 0)
    flat = torch.frombuffer(memory, dtype=t.dtype, count=max(1, extent), offset=offset)
    return flat.as_strided(t.shape, t.stride()).copy_(t.detach())


def guard_allocations() -> None:
    """Guard outputs, partial sums and workspaces too, and fill them with NaN."""

    def poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(*arguments, **options):
            t = allocate(*arguments, **options)
            return guarded(t.fill_(float("nan")) if t.is_floating_point() else t)

        return call

    layout.allocate = poisoned(torch.empty_like)
    layout.allocate_images = poisoned(layout.empty_images)
    torch.Tensor.new_empty = poisoned(torch.Tensor.new_empty)
    empty, zeros = torch.empty, torch.zeros

    class Torch:  # the module `torch` as cagc_kernels.native.synthesis sees it
        __getattr__ = staticmethod(torch.__getattribute__)
        empty = staticmethod(lambda *size: guarded(empty(*size).fill_(float("nan")), at_end=True))
        zeros = staticmethod(lambda *size, **options: guarded(zeros(*size, **options), at_end=True))

    synthesis.torch = Torch()


def images(dtype: torch.dtype) -> torch.Tensor:
    """Return images of a random size in one of the memory orders that kernels accept or copy."""
    n, c = random.randint(1, 3), random.choice((1, 2, 3, 5, 8, 16, 33))
    height, width = random.randint(1, 19), random.choice((1, 2, 4, 7, 15, 16, 17, 31, 32, 40))
    x = torch.randn(n, c, height, width, dtype=torch.float64).to(dtype)
    order = random.choice(("contiguous", "channels_last", "rows apart"))
    if order == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif order == "rows apart":
        x = torch.cat([x, x], dim=3)[..., :width]
    return guarded(x)


def gradients(y: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return gradients of ``leaves``, and second gradients of them and of the gradient of ``y``."""
    g = guarded(torch.randn_like(y)).requires_grad_()
    first = torch.autograd.grad(y, leaves, g, create_graph=True)
    second = torch.autograd.grad(sum(t.double().sum() for t in first), [g, *leaves], allow_unused=True)
    return [t for t in (*first, *second) if t is not None]


def call_bias_act(dtype: torch.dtype) -> list[torch.Tensor]:
    x = images(dtype).requires_grad_()
    dim = random.randrange(4)
    b = guarded(torch.randn(x.shape[dim]).to(dtype)).requires_grad_()
    act, clamp = random.choice(list(ACTIVATIONS)), random.choice((None, 0.7))
    print(f"bias_act {list(x.shape)} {x.stride()} {dtype} dim={dim} {act} clamp={clamp}", flush=True)
    y = bias_act(x, b, dim, act, clamp=clamp, backend="native")
    return [y, *gradients(y, [x, b])]


def call_upfirdn2d(dtype: torch.dtype) -> list[torch.Tensor]:
    x = images(dtype).requires_grad_()
    f = torch.rand(random.choice(((4,), (4, 4), (4, 4), (1,), (3, 5), (7,), (2, 1))))
    f = guarded(torch.outer(f[0], f[0]) if f.shape == (4, 4) and random.random() < 0.7 else f)
    up, down = random.choice(((1, 1), (1, 1), (2, 1), (1, 2), (3, 2)))
    padding = [random.randint(0, 4) for _ in range(4)]
    padding = [p + 3 * f.shape[0] if min(x.shape[2:]) * up < 8 else p for p in padding]
    print(f"upfirdn2d {list(x.shape)} {x.stride()} {dtype} {list(f.shape)} {up} {down} {padding}", flush=True)
    y = upfirdn2d(x, f, up, down, padding, random.random() < 0.5, backend="native")
    return [y, *gradients(y, [x])]


def call_epilogue(dtype: torch.dtype) -> list[torch.Tensor]:
    x, wide = images(dtype).requires_grad_(), torch.float64 if dtype == torch.float64 else torch.float32
    (n, c, *size), f = x.shape, None
    if min(size) > 1 and random.random() < 0.5:
        size, f = [s - 1 for s in size], guarded(torch.randn(4, 4, dtype=wide))
    shapes = (n, c), (random.choice((1, n)), 1, *size), (c,), (n, c)
    factors = [guarded(torch.randn(shape, dtype=wide)).requires_grad_() for shape in shapes]
    print(f"epilogue {list(x.shape)} {x.stride()} {dtype} filtered={f is not None}", flush=True)
    scale, *rest = factors
    given = Epilogue(*rest, "lrelu", 0.2, 1.4, random.choice((-1.0, 0.7)))
    y = epilogue(x, f, scale, given, (1, 1), size, "native")
    return [y, *gradients(y, [x, *factors])]


def call_sparse_channel_conv2d(dtype: torch.dtype) -> list[torch.Tensor]:
    x = images(dtype).requires_grad_()
    i, o, k = x.shape[1], random.choice((1, 3, 12, 13, 20)), random.choice((1, 3, 3, 2))
    weight = torch.randn(o + random.randint(0, 5), i + random.randint(0, 5), k, k).to(dtype)
    weight = guarded(weight.contiguous(memory_format=random.choice((torch.contiguous_format, torch.channels_last))))
    chosen = [guarded(torch.randperm(n)[:m].sort().values) for n, m in ((weight.shape[1], i), (weight.shape[0], o))]
    styles = guarded(torch.randn(x.shape[:2]).to(dtype)) if random.random() < 0.7 else None
    options = {"padding": random.randint(k - 1, k), "scatter": random.random() < 0.3, "up": random.choice((1, 1, 2))}
    print(f"sparse_channel_conv2d {list(x.shape)} {x.stride()} {dtype} {list(weight.shape)} {options}", flush=True)
    y = sparse_channel_conv2d(x, weight.requires_grad_(), *chosen, styles, backend="native", **options)
    return [y, *gradients(y, [x, weight])]


def call_filtered_lrelu(dtype: torch.dtype) -> list[torch.Tensor]:
    x = images(dtype).requires_grad_()
    native._C.use_instructions(random.choice(native._C.instruction_sets()))
    up, down = random.choice(((1, 1), (2, 2), (4, 2), (2, 1), (3, 2)))
    fu, fd = (guarded(torch.rand(random.choice(((6 * k,), (k,), (5, 6), (1, 1))))) for k in (up, down))
    b = guarded(torch.randn(x.shape[1]).to(dtype)).requires_grad_()
    padding = [random.randint(-1, 3) + (len(fu) + len(fd)) // 2 + 6 for _ in range(4)]
    scalars = {"clamp": random.choice((None, 0.7)), "flip_filter": random.random() < 0.5}
    shapes = f"{list(x.shape)} {x.stride()} {list(fu.shape)} {list(fd.shape)}"
    print(f"filtered_lrelu {shapes} {dtype} {up} {down} {padding} {scalars}", flush=True)
    y = filtered_lrelu(x, fu, fd, b, up, down, padding, **scalars, backend="native")
    found = [y, *gradients(y, [x, b])]
    native._C.use_instructions(native._C.instruction_sets()[0])
    return found


def call_synthesis(_: torch.dtype) -> list[torch.Tensor]:
    resolution, batch = random.choice((4, 8, 16, 16, 32, 64, 128)), random.randint(1, 3)
    channels = {name: random.choice((1, 3, 8, 13, 20)) for name in layer_names(resolution)}
    instructions = random.choice(synthesis.instruction_sets())
    print(f"synthesis {resolution} batch={batch} {instructions} {channels}", flush=True)
    config = GeneratorConfig(resolution, channels, style_dim=random.choice((5, 8)), mapping_layers=2)
    generator = Generator(config).requires_grad_(False)
    compiled = program(generator, batch, instructions)
    ws = compiled.map(guarded(torch.randn(batch, config.style_dim)))[:, None].expand(-1, config.num_ws, -1)
    noise = [guarded(n) for n in generator.make_noise(batch, seed=1)]
    return [compiled.images(guarded(ws.contiguous()), noise)]


CALLS = (call_bias_act, call_upfirdn2d, call_epilogue, call_sparse_channel_conv2d, call_filtered_lrelu)


def check_guards() -> None:
    """Check that the element before a buffer and the one after it cannot be read."""
    for at_end, beyond in ((True, 3), (False, -1)):
        t = guarded(torch.ones(3, dtype=torch.uint8), at_end)
        if (child := os.fork()) == 0:
            ctypes.string_at(t.data_ptr() + beyond, 1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] != 0, "no page is guarded"


def main(calls: int, seed: int) -> None:
    check_guards()
    faulthandler.enable()
    random.seed(seed)
    torch.manual_seed(seed)
    guard_allocations()
    for i in range(calls):
        call = call_synthesis if i % 10 == 9 else random.choice(CALLS)
        for result in call(random.choice(DTYPES)):
            assert not result.isnan().any(), "an element was not written, or was made from one that was not"


if __name__ == "__main__":
    assert native.REASON is None, native.REASON
    main(int(sys.argv[1]), int(sys.argv[2]))
    print("nothing outside of the buffers was touched")
