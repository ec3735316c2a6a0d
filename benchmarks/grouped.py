"""Runs a generator as the public code bases do: weights modulated per sample, one grouped convolution per layer.

Every sample has its own modulated and demodulated filters, so a batch is a convolution with one group per sample, and
each other step is one pass over memory. It uses the weights of a :class:`cagc.Generator`, so the comparison needs no
code of others; ``--peers`` adds the public code itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cagc.models import Generator
from cagc.models.stylegan2 import SynthesisLayer, ToRGB


def _filter(x: torch.Tensor, f: torch.Tensor, up: int, pad: tuple[int, int]) -> torch.Tensor:
    """Insert zeros, pad, and convolve each plane with the taps ``f``."""
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n * c, 1, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1])
    x = F.pad(x.reshape(n * c, 1, h * up, w * up), [*pad, *pad])
    y = F.conv2d(x, f.flip(0, 1)[None, None].to(x.dtype))
    return y.reshape(n, c, *y.shape[2:])


def _modulated(weight: torch.Tensor, styles: torch.Tensor, demodulate: bool) -> torch.Tensor:
    weight = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        weight = weight * (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    return weight


def _convolve(x: torch.Tensor, weight: torch.Tensor, up: int) -> torch.Tensor:
    """Convolve x [N, I, h, w] with weight [N, O, I, k, k], one group per sample; returns [N, O, ...]."""
    n, i, h, w = x.shape
    o, k = weight.shape[1], weight.shape[-1]
    x = x.reshape(1, n * i, h, w)
    if up > 1:
        y = F.conv_transpose2d(x, weight.transpose(1, 2).reshape(n * i, o, k, k), stride=up, groups=n)
    else:
        y = F.conv2d(x, weight.reshape(n * o, i, k, k), padding=k // 2, groups=n)
    return y.reshape(n, o, *y.shape[2:])


def _layer(layer: SynthesisLayer, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    weight = _modulated(layer.weight * layer.weight_gain, layer.affine(w), True)
    x = _convolve(x, weight, layer.up)
    if layer.up > 1:
        x = _filter(x, layer.resample_filter * layer.up**2, 1, (1, 1))
    x = x + layer.noise_const * layer.noise_strength
    return F.leaky_relu(x + layer.bias[:, None, None], 0.2) * 2**0.5


def _to_rgb(layer: ToRGB, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    weight = _modulated(layer.weight * layer.weight_gain, layer.affine(w), False)
    return _convolve(x, weight, 1) + layer.bias[:, None, None]


def grouped_synthesis(generator: Generator, ws: torch.Tensor) -> torch.Tensor:
    """Draw images [N, 3, R, R] from ``ws`` [N, num_ws, w_dim], with the stored noise maps."""
    synthesis, rgb, index = generator.synthesis, None, 0
    x = synthesis.b4.const.expand(len(ws), -1, -1, -1)
    for resolution in synthesis.resolutions:
        block = getattr(synthesis, f"b{resolution}")
        for name in ("conv0", "conv1"):
            if hasattr(block, name):
                x = _layer(getattr(block, name), x, ws[:, index])
                index += 1
        if rgb is not None:
            rgb = _filter(rgb, synthesis.resample_filter * 4, 2, (2, 1))
        out = _to_rgb(block.to_rgb, x, ws[:, index])
        rgb = out if rgb is None else rgb + out
    return rgb
