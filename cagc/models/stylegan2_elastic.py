"""The synthesis network of StyleGAN2 with some channels of each layer, read out of the full weights in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from cagc_kernels import bias_act, modulated_conv2d, sparse_channel_conv2d

from .layers import enlarged
from .stylegan2 import Shortcut, SynthesisBlock, SynthesisLayer, SynthesisNetwork, ToRGB


class _Kept:
    """Ascending channel indices of one layer, cached on the device where they were last used."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.count = len(indices)
        self._index = torch.tensor(indices)

    def on(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._index.device != tensor.device:
            self._index = self._index.to(tensor.device)
        return self._index


class ElasticLayer(nn.Module):
    """A :class:`SynthesisLayer` at the kept widths: x [N, I', h, w] → [N, O', up·h, up·w].

    The equalised learning rate of the student, 1/√fan_in of the kept width, scales the styles and not the weight:
    the demodulated convolution is the same, its 1e-8 included.
    """

    def __init__(self, layer: SynthesisLayer, inputs: _Kept, outputs: _Kept) -> None:
        super().__init__()
        self.layer, self.inputs, self.outputs = layer, inputs, outputs
        self.gain = 1 / math.sqrt(inputs.count * 9)

    def affine(self, w: torch.Tensor) -> torch.Tensor:
        return self.layer.affine(w).index_select(1, self.inputs.on(w))

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: str | torch.Tensor) -> torch.Tensor:
        layer, outputs = self.layer, self.outputs.on(x)
        x = sparse_channel_conv2d(
            enlarged(x) if layer.bilinear else x,
            layer.weight,
            self.inputs.on(x),
            outputs,
            self.affine(w) * self.gain,
            flip_weight=layer.up == 1,
            up=layer.up,
            resample_filter=layer.resample_filter if layer.up > 1 else None,
        )
        noise = layer._noise(x.shape[0], noise)
        x = x if noise is None else x + noise.to(x.dtype)
        return bias_act(x, layer.bias.index_select(0, outputs), act=layer.act, gain=layer.gain, clamp=layer.clamp)


class ElasticToRGB(nn.Module):
    """A :class:`ToRGB` at the kept width: x [N, I', h, w] → [N, img_channels, h, w]."""

    def __init__(self, layer: ToRGB, inputs: _Kept, keep_scale: bool) -> None:
        super().__init__()
        self.layer, self.inputs = layer, inputs
        self.gain = layer.weight_gain if keep_scale else 1 / math.sqrt(inputs.count)

    def affine(self, w: torch.Tensor) -> torch.Tensor:
        return self.layer.affine(w).index_select(1, self.inputs.on(w))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        # A weight per channel and colour: copying the kept ones costs less than a kernel that reads them in place.
        weight = self.layer.weight.index_select(1, self.inputs.on(x))
        x = modulated_conv2d(x, weight, self.affine(w) * self.gain, demodulate=False)
        return bias_act(x, self.layer.bias, clamp=self.layer.clamp)


class ElasticShortcut(nn.Module):
    """A :class:`Shortcut` at the kept widths: x [N, I', h, w] → [N, O', 2h, 2w]."""

    def __init__(self, layer: Shortcut, inputs: _Kept, outputs: _Kept, keep_scale: bool) -> None:
        super().__init__()
        self.layer, self.inputs, self.outputs = layer, inputs, outputs
        self.gain = math.sqrt(0.5) * (layer.weight_gain if keep_scale else 1 / math.sqrt(inputs.count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.layer.weight.index_select(0, self.outputs.on(x)).index_select(1, self.inputs.on(x))
        return self.layer.upsampled(F.conv2d(x, weight * self.gain))


class ElasticBlock(nn.Module):
    """A :class:`SynthesisBlock` at the kept widths; ``keep_scale``: layers without demodulation keep their scale."""

    fuses_styles = False

    def __init__(
        self, block: SynthesisBlock, below: _Kept | None, inputs: _Kept, outputs: _Kept, keep_scale: bool
    ) -> None:
        super().__init__()
        self.inputs, self.skip, self.to_rgb = inputs, None, None
        if below is None:
            self.full_const = block.const
        else:
            self.conv0 = ElasticLayer(block.conv0, below, inputs)
            if block.skip is not None:
                self.skip = ElasticShortcut(block.skip, below, outputs, keep_scale)
        self.conv1 = ElasticLayer(block.conv1, inputs, outputs)
        if block.to_rgb is not None:
            self.to_rgb = ElasticToRGB(block.to_rgb, outputs, keep_scale)

    @property
    def const(self) -> torch.Tensor:
        return self.full_const.index_select(0, self.inputs.on(self.full_const))


class ElasticSynthesis(SynthesisNetwork):
    """The synthesis network at the kept widths; arguments and results are those of :class:`SynthesisNetwork`."""

    def __init__(self, full: SynthesisNetwork, kept: Mapping[str, Sequence[int]], keep_rgb_scale: bool) -> None:
        nn.Module.__init__(self)
        self.config = replace(full.config, channels={name: len(indices) for name, indices in kept.items()})
        self.resolutions = full.resolutions
        object.__setattr__(self, "full", full)
        kept = {name: _Kept(indices) for name, indices in kept.items()}
        below = None
        for r in self.resolutions:
            inputs, outputs = kept["b4.const" if r == 4 else f"b{r}.conv0"], kept[f"b{r}.conv1"]
            self.add_module(f"b{r}", ElasticBlock(getattr(full, f"b{r}"), below, inputs, outputs, keep_rgb_scale))
            below = outputs

    @property
    def resample_filter(self) -> torch.Tensor:
        return self.full.resample_filter

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> ElasticSynthesis:
        self.full._apply(fn, recurse)  # the wrapped network's buffers move too, which are not registered in this module
        return self
