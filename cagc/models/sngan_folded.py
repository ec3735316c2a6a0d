"""The SN-GAN generator for inference where no compiled program runs it, and the weights of that program.

Batch normalisation is folded into convolutions, channels are last.

A 3×3 convolution after nearest up-sampling equals four 2×2 convolutions of the image before it, one per parity of the
output pixel. Together they are one transposed convolution of stride 2 with a 4×4 kernel: 16 multiplications instead of
36, and no up-sampled copy. At 4 px reading the larger kernel costs more than this saves (measured), so that block keeps
the 3×3 convolution.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cagc_kernels.synthesis import ResidualConvWeights, ResidualWeights

from .base import BaseSynthesis

# Row a, column k: whether tap a of the transposed kernel includes tap k of the 3×3 kernel (one axis).
_PARITIES = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift, each [C], that ``norm`` applies at inference."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - scale * norm.running_mean


def upsampling_kernel(weight: Tensor) -> Tensor:
    """weight [O, I, 3, 3] → [I, O, 4, 4] of the transposed convolution that is nearest up-sampling by 2 and ``weight``.

    ``conv2d(interpolate(x, scale_factor=2), weight, padding=1)`` is ``conv_transpose2d(x, kernel, stride=2,
    padding=1)``.
    """
    sums = weight.new_tensor(_PARITIES)
    return torch.einsum("oikl,ak,bl->ioab", weight, sums, sums)


class FoldedBlock(nn.Module):
    """Computes a :class:`cagc.models.sngan.SynthesisBlock` with folded weights: x [N, I, h, w] → [N, O, 2h, 2w].

    Args:
        block: the block whose current weights and statistics are folded.
        height: height of the input in pixels.
        after: normalisation to fold into the output; None where a shortcut reads the output too.
    """

    def __init__(self, block: Any, height: int, after: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.transposed = height > 4
        scale0, shift0 = affine(block.norm0)
        scale1, shift1 = affine(block.norm1)
        up = block.conv0.weight * scale1[:, None, None, None]
        conv, skip, bias = block.conv1.weight, block.skip.weight, block.conv1.bias + block.skip.bias
        if after is not None:
            scale, shift = affine(after)
            conv, skip, bias = (t * scale.view(-1, *[1] * (t.ndim - 1)) for t in (conv, skip, bias))
            bias = bias + shift
        self.register_buffer("scale", scale0[:, None, None].clone())
        self.register_buffer("shift", shift0[:, None, None].clone())
        self.register_buffer("up", _channels_last(upsampling_kernel(up) if self.transposed else up))
        self.register_buffer("up_bias", block.conv0.bias * scale1 + shift1)
        self.register_buffer("conv", _channels_last(conv))
        self.register_buffer("bias", bias.clone())
        self.register_buffer("skip", _channels_last(skip))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.addcmul(self.shift, x, self.scale).relu_()
        if self.transposed:
            hidden = F.conv_transpose2d(hidden, self.up, self.up_bias, stride=2, padding=1)
        else:
            hidden = F.conv2d(F.interpolate(hidden, scale_factor=2), self.up, self.up_bias, padding=1)
        out = F.conv2d(hidden.relu_(), self.conv, self.bias, padding=1)
        return out.add_(F.interpolate(F.conv2d(x, self.skip), scale_factor=2))


class FoldedSynthesis(BaseSynthesis):
    """ws [N, 1, z_dim] → image, as :class:`cagc.models.sngan.SynthesisNetwork` in evaluation mode, up to rounding.

    The weights are copies; there are no gradients.
    """

    @torch.no_grad()
    def __init__(self, synthesis: Any) -> None:
        super().__init__()
        self.config, self.resolutions = synthesis.config, synthesis.resolutions
        # Rows in the memory order of the channels_last image.
        self.register_buffer("fc", synthesis.fc.weight.permute(1, 2, 0, 3).flatten(0, 2).contiguous())
        self.register_buffer("fc_bias", synthesis.fc.bias.permute(1, 2, 0).flatten().contiguous())
        for r in self.resolutions:
            last = synthesis.norm if r == self.resolutions[-1] else None
            self.add_module(f"b{r}", FoldedBlock(getattr(synthesis, f"b{r}"), r // 2, last))
        self.register_buffer("to_rgb", _channels_last(synthesis.to_rgb.weight))
        self.register_buffer("to_rgb_bias", synthesis.to_rgb.bias.clone())

    @torch.no_grad()
    def forward(self, ws: Tensor, noise_mode: str = "none", noise: Any = None) -> Tensor:
        """Image [N, 3, R, R] in [-1, 1] from ``ws`` [N, 1, z_dim]; noise is accepted and without effect.

        Raises:
            ValueError: the shape of ``ws`` is not as above.
        """
        self.check_ws(ws)
        x = F.linear(ws[:, 0], self.fc, self.fc_bias).view(len(ws), 4, 4, -1).permute(0, 3, 1, 2)
        for r in self.resolutions:
            x = getattr(self, f"b{r}")(x)
        return F.conv2d(x.relu_(), self.to_rgb, self.to_rgb_bias, padding=1).tanh_()


def _channels_last(weight: Tensor) -> Tensor:
    return weight.clone(memory_format=torch.channels_last)


@torch.no_grad()
def residual_weights(synthesis: Any) -> ResidualWeights:
    """Weights of ``synthesis``, a :class:`cagc.models.sngan.SynthesisNetwork`, as the compiled program takes them."""
    cpu = copy.deepcopy(synthesis).eval().to("cpu", torch.float64)
    blocks = [getattr(cpu, f"b{r}") for r in cpu.resolutions]
    convs = []
    for r, block, after in zip(cpu.resolutions, blocks, [*(block.norm0 for block in blocks[1:]), cpu.norm]):
        scale, shift = affine(block.norm1)
        up = block.conv0.weight * scale[:, None, None, None]
        convs.append(ResidualConvWeights(up, block.conv0.bias * scale + shift, r))
        bias, shortcut = block.conv1.bias + block.skip.bias, block.skip.weight.flatten(1)
        convs.append(ResidualConvWeights(block.conv1.weight, bias, r, shortcut, *affine(after)))
    convs.append(ResidualConvWeights(cpu.to_rgb.weight, cpu.to_rgb.bias, cpu.resolutions[-1]))
    return ResidualWeights(cpu.fc.weight, cpu.fc.bias, *affine(blocks[0].norm0), convs)
