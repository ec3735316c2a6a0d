"""What surrounds the dense convolution of a modulated one, by the compiled kernels, CPU and CUDA.

The convolution itself is PyTorch's. No autograd here: see :mod:`cagc_kernels.ops.epilogue`.
"""

from __future__ import annotations

import torch

from .. import layout
from . import _C
from .bias_act import ACTS, DTYPES, _pointer

# Values of a sample that one partial sum of the gradients covers; the same for any number of threads.
_CHUNK = {"cpu": 65536, "cuda": 16384}


def epilogue(x, f, d, noise, b, s, pad_x, pad_y, height, width, act, alpha, gain, clamp, inplace=False) -> torch.Tensor:
    """``clamp(gain * act(u * d + noise + b)) * s`` for u = x, or x filtered by the correlation ``f`` [4, 4].

    ``d``, ``s`` [N, C], ``noise`` [N or 1, 1, height, width], ``b`` [C] and ``f`` are float32 (float64 beside float64),
    or None; ``act`` is linear, relu or lrelu; ``clamp < 0`` is none. The result is laid out as ``x``, contiguous or
    channels_last; ``inplace``, without ``f``, overwrites ``x``.
    """
    x, last = layout.packed(x)
    out = x if inplace and f is None else layout.allocate_images(x, height, width)
    _launch(x, None, f, d, noise, b, s, out, None, None, last, pad_x, pad_y, 1, act, alpha, gain, clamp)
    return out


def epilogue_gradient(g, x, d, noise, b, s, act, alpha, gain, clamp) -> tuple[torch.Tensor, ...]:
    """Gradients of :func:`epilogue` without filter, in x, d [N, C], noise [N, 1, H, W], b [C] and s [N, C]."""
    x, last = layout.packed(x)
    g = layout.dense_like(g, x)
    n, c, height, width = x.shape
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    chunk = max(1, _CHUNK[x.device.type] // max(1, c))
    sums = x.new_zeros(3, n, -(-height * width // chunk), c, dtype=wide)
    dnoise = x.new_zeros(n, 1, height, width, dtype=wide)
    out = layout.allocate_images(x, height, width)
    _launch(x, g, None, d, noise, b, s, out, sums, dnoise, last, 0, 0, chunk, act, alpha, gain, clamp)
    return out, sums[0].sum(1), dnoise, sums[1].sum((0, 1)), sums[2].sum(1)


def _launch(x, g, f, d, noise, b, s, out, sums, dnoise, last, pad_x, pad_y, chunk, act, alpha, gain, clamp) -> None:
    if out.numel() == 0:
        return
    f, d, noise, b, s = (t if t is None else t.contiguous() for t in (f, d, noise, b, s))
    n, c, height, width = out.shape
    noise_step = 0 if noise is None or noise.shape[0] == 1 else height * width
    arguments = (
        x.data_ptr(), *map(_pointer, (g, f, d, noise, b, s, out, sums, dnoise)), n, c, *x.shape[2:], height, width,
        pad_x, pad_y, noise_step, chunk, last, alpha, gain, clamp, ACTS[act], DTYPES[x.dtype],
    )  # fmt: skip
    if x.is_cuda:
        with torch.cuda.device(x.device):
            _C.modulated_conv2d_cuda(*arguments, torch.cuda.current_stream().cuda_stream)
    else:
        _C.modulated_conv2d_cpu(*arguments, torch.get_num_threads())
