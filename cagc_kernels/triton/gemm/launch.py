"""Launches of the implicit GEMM and of the kernels before and after it, on plain tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import triton

from ... import layout
from ...arguments import Epilogue, accumulator
from ..start import start
from .configs import PLAIN, POLYPHASE, TRANSPOSED, Config
from .demodulation import demodulation_kernel
from .fir import ROWS, fir_act_kernel
from .kernel import styled_conv2d_kernel
from .packing import PackedWeight, tl_dtype


def activation(epilogue: Epilogue) -> dict[str, object]:
    """Return the compile-time constants of a kernel's epilogue."""
    return {"ACT": epilogue.act, "ALPHA": epilogue.alpha, "GAIN": epilogue.gain, "CLAMP": epilogue.clamp}


class ToRGB(NamedTuple):
    """Arguments of toRGB in the epilogue of the convolution before it, in the order of :func:`.to_rgb.launch_to_rgb`.

    weight [3, O], styles [N, O], bias [3] and taps [4, 4] in float32; skip [N, 3, H / 2, W / 2] and image [N, 3, H, W],
    contiguous; ``keep``: whether the convolution's own output is stored as well.
    """

    weight: torch.Tensor
    styles: torch.Tensor
    bias: torch.Tensor
    skip: torch.Tensor | None
    taps: torch.Tensor
    image: torch.Tensor
    keep: bool


def factors(
    styles: torch.Tensor, energy: torch.Tensor | None, peaks: torch.Tensor | None, outputs: int, normalise: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return (styles for the kernel, factor [N, O] of its sums or None).

    ``normalise`` divides the styles by their largest absolute value and multiplies the factor by it.
    """
    styles = styles.contiguous()
    if energy is None and peaks is None and not normalise:
        return styles, None
    acc = accumulator(styles.dtype)
    (n, inputs), block = styles.shape, 16
    scale = torch.empty(n, outputs, dtype=acc, device=styles.device)
    normalised = torch.empty(n, inputs, dtype=acc, device=styles.device) if normalise else None
    with torch.cuda.device_of(styles):
        start(
            demodulation_kernel, (n, triton.cdiv(outputs, block)),
            styles, energy, peaks, scale, normalised, inputs, outputs, tl_dtype(acc), block, 64,
        )  # fmt: skip
    return normalised if normalise else styles, scale


def device_name(device: torch.device) -> str | None:
    """Return the name of the GPU, by which configs are looked up; None for the interpreter."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def kind(x: torch.Tensor) -> tuple[str, int]:
    """Return (dtype as named in :mod:`.configs`, compute capability); the interpreter has that of an H100."""
    major, minor = torch.cuda.get_device_capability(x.device) if x.is_cuda else (9, 0)
    name = "tf32" if precision(x.dtype) == "tf32" else str(x.dtype).removeprefix("torch.")
    return name, 10 * major + minor


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of a call on the GPU, with cold caches."""
    return triton.testing.do_bench(call, warmup=10, rep=40, return_mode="median")


def precision(dtype: torch.dtype) -> str:
    """Return Triton's input precision: "tf32" for float32 where PyTorch allows it for convolutions, else "ieee"."""
    conv = getattr(torch.backends.cudnn, "conv", None)
    if hasattr(conv, "fp32_precision"):
        allowed = conv.fp32_precision == "tf32"
    else:
        allowed = torch.backends.cudnn.allow_tf32
    return "tf32" if dtype == torch.float32 and allowed else "ieee"


def pixels(x: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """Return (x or an NHWC copy of it, elements per pixel, pixels per image); slices of channels are not copied."""
    _, c, h, w = x.shape
    pixel = x.stride(3)
    if layout.is_channels_last(x) and x.stride(2) == w * pixel and x.stride(0) % pixel == 0:
        return x, pixel, x.stride(0) // pixel
    return x.permute(0, 2, 3, 1).contiguous(), c, h * w


def strides(y: torch.Tensor) -> tuple[int, int]:
    """Return the strides of a pixel and of a channel of a dense output, contiguous or channels_last."""
    return (y.shape[1], 1) if layout.is_channels_last(y) else (1, y.shape[2] * y.shape[3])


def _broadcast(noise: torch.Tensor | None, y: torch.Tensor) -> tuple[torch.Tensor | None, tuple[int, int, int]]:
    """Return the noise with its strides of image, row and column, broadcast to the output."""
    if noise is None:
        return None, (0, 0, 0)
    n, _, h, w = y.shape
    noise = noise.expand(n, 1, h, w)
    return noise, (noise.stride(0), noise.stride(2), noise.stride(3))


_counters: dict[tuple[torch.device, int], torch.Tensor] = {}


def counters(tiles: int, device: torch.device) -> torch.Tensor:
    """Return zeroed counters for split-K; the kernel leaves them zero, so each stream keeps one tensor of them.

    A CUDA graph gets its own, because two graphs may run at the same time.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros(tiles, dtype=torch.int32, device=device)
    key = device, torch.cuda.current_stream(device).cuda_stream
    if key not in _counters or _counters[key].numel() < tiles:
        _counters[key] = torch.zeros(max(tiles, 4096), dtype=torch.int32, device=device)
    return _counters[key]


def constants(config: Config, dtype: torch.dtype, packed: PackedWeight, padding: tuple[int, int]) -> dict[str, object]:
    """Return the compile-time constants of the kernel that follow from a config and a weight."""
    wf, wo, wt, wi = packed.strides
    ci, co = packed.channels
    return {
        "CI": ci, "CO": co, "WF": wf, "WO": wo, "WT": wt, "WI": wi, "K": packed.k, "PY": padding[0], "PX": padding[1],
        "MODE": packed.mode, "PRECISION": precision(dtype), "ACC": tl_dtype(accumulator(dtype)),
        "PACKED": config.packed, "SPLIT": config.split,
        "BM": config.bm, "BN": config.bn, "BN2": config.bn2, "BK": config.bk,
    }  # fmt: skip


def gemm(
    x: torch.Tensor, packed: PackedWeight, y: torch.Tensor, styles: torch.Tensor | None, scale: torch.Tensor | None,
    epilogue: Epilogue, config: Config, padding: tuple[int, int],
    in_index: torch.Tensor | None = None, out_index: torch.Tensor | None = None, blocks: bool = False,
    scatter: bool = False, arrivals: torch.Tensor | None = None, to_rgb: ToRGB | None = None, strength: float = 1.0,
) -> None:  # fmt: skip
    """Fill ``y`` [N, O, H', W'] by one launch.

    ``padding`` is (rows, columns), ``arrivals`` as of :func:`counters`, ``strength`` a factor of the noise.
    """
    source, xp, x_pixels = pixels(x)
    n, _, h, w = x.shape
    oh, ow = y.shape[2:]
    columns = packed.channels[1] * (4 if packed.mode == POLYPHASE else 1)
    rows = {PLAIN: oh * ow, POLYPHASE: h * w, TRANSPOSED: (h + 1) * (w + 1)}[packed.mode]
    tiles = triton.cdiv(rows, config.bm) * n * triton.cdiv(columns, config.bn + config.bn2)
    phases = 4 if packed.mode == TRANSPOSED else 1
    partial = None
    if config.split > 1:
        size = tiles * phases * config.split * config.bm * config.bn
        partial = torch.empty(size, dtype=accumulator(x.dtype), device=x.device)
        if arrivals is None or arrivals.numel() < tiles * phases:
            arrivals = counters(tiles * phases, x.device)
    else:
        arrivals = None
    noise, noise_strides = _broadcast(epilogue.noise, y)
    yp, yc = strides(y)
    with torch.cuda.device_of(x):
        start(
            styled_conv2d_kernel, (tiles, phases, config.split),
            source, packed.weight, y if to_rgb is None or to_rgb.keep else None, styles, scale,
            noise, epilogue.bias, epilogue.next_styles, in_index, out_index,
            partial, arrivals, *((None,) * 6 if to_rgb is None else to_rgb[:6]), n, h, w, oh, ow, x_pixels, oh * ow,
            strength, *noise_strides,
            XP=xp, YN=y.shape[1], YP=yp, YC=yc, BLOCKS=blocks, SCATTER=scatter, **activation(epilogue),
            **constants(config, x.dtype, packed, padding), num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip


def fir_block(channels: int) -> tuple[int, int]:
    """Return (pixels, channels) of a program of the filter, which gives each thread 8 values."""
    width = min(64, triton.next_power_of_2(channels))
    return 1024 // width, width


def fir_act(t: torch.Tensor, taps: torch.Tensor, y: torch.Tensor, epilogue: Epilogue, strength: float = 1.0) -> None:
    """Fill ``y`` [N, O, H', W'] from the transposed convolution ``t`` [N, O, H' + 1, W' + 1] in NHWC memory."""
    n, co, oh, ow = y.shape
    noise, noise_strides = _broadcast(epilogue.noise, y)
    yp, yc = strides(y)
    bq, bc = fir_block(co)
    grid = triton.cdiv(ow, bq) * triton.cdiv(co, bc), triton.cdiv(oh, ROWS.value), n
    with torch.cuda.device_of(t):
        start(
            fir_act_kernel, grid, t, taps, y, noise, epilogue.bias, epilogue.next_styles, *t.shape[2:], oh, ow, oh * ow,
            strength, *noise_strides,
            CO=co, YN=co, YP=yp, YC=yc, **activation(epilogue), ACC=tl_dtype(accumulator(t.dtype)), BQ=bq, BC=bc,
        )  # fmt: skip


def layer(
    x: torch.Tensor, packed: PackedWeight, styles: torch.Tensor | None, epilogue: Epilogue, config: Config,
    padding: tuple[int, int], modulate: bool = True,
) -> torch.Tensor:  # fmt: skip
    """Return the output of a layer from packed weights: demodulation factors, convolution, FIR for TRANSPOSED."""
    normalise = modulate and x.dtype == torch.float16
    s, scale = factors(styles, packed.energy, packed.peaks, packed.channels[1], normalise)
    s = s if modulate else None
    n, _, h, w = x.shape
    co, t = packed.channels[1], None
    if packed.mode == PLAIN:
        h, w = h + 2 * padding[0] - packed.k + 1, w + 2 * padding[1] - packed.k + 1
    else:
        h, w = 2 * h, 2 * w
    if packed.mode == TRANSPOSED:
        t = torch.empty((n, co, h + 1, w + 1), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    y = layout.allocate_images(x, h, w, channels=co)
    convolve(x, packed, y, t, s, scale, epilogue, config, padding)
    return y


def convolve(
    x: torch.Tensor, packed: PackedWeight, y: torch.Tensor, t: torch.Tensor | None, styles: torch.Tensor | None,
    scale: torch.Tensor | None, epilogue: Epilogue, config: Config, padding: tuple[int, int],
    arrivals: torch.Tensor | None = None, to_rgb: ToRGB | None = None, strength: float = 1.0,
) -> None:  # fmt: skip
    """Fill ``y`` by the one or two launches of a variant; TRANSPOSED uses ``t``, in NHWC memory, between them."""
    if packed.mode != TRANSPOSED:
        gemm(
            x, packed, y, styles, scale, epilogue, config, padding,
            arrivals=arrivals, to_rgb=to_rgb, strength=strength,
        )  # fmt: skip
        return
    # The first launch demodulates, so that values stay in range when they are rounded to half precision.
    gemm(x, packed, t, styles, scale, Epilogue(), config, (0, 0), arrivals=arrivals)
    fir_act(t, packed.taps, y, epilogue, strength)
