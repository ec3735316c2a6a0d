"""StyleGAN3 generator, configurations T and R, with a width per layer.

Karras et al., "Alias-Free Generative Adversarial Networks", NeurIPS 2021. Names of parameters and buffers are those of
NVlabs' code, but for the layers, which are numbered alone: "L3", where theirs is "L3_52_512".
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from cagc_kernels import filtered_lrelu, modulated_conv2d
from cagc_kernels.profiling import layer_range
from cagc_kernels.synthesis import FilteredWeights

from .base import BaseGenerator, BaseSynthesis
from .layers import FullyConnected, bounded, wide
from .protocol import Noise
from .stylegan2 import MappingNetwork
from .stylegan3_config import LayerPlan, StyleGAN3Config, lowpass
from .stylegan3_frozen import filtered_weights, not_compiled

# Decay of the running mean square of a layer's input, per call.
MAGNITUDE_DECAY = 0.999


class FourierInput(nn.Module):
    """Fourier features of a rotated and translated pixel grid: w [N, w_dim] → x [N, C, h, w].

    Attributes:
        transform: [3, 3], the inverse of the transform of the image, as in NVlabs' code; :meth:`inverted` makes it.
        freqs: [F, 2], frequencies (x, y) in cycles per image. phases: [F], in cycles.
    """

    def __init__(self, config: StyleGAN3Config) -> None:
        super().__init__()
        plan, features = config.plans()[0], config.frequencies
        self.size, self.rate, self.cutoff = plan.in_size, plan.in_rate, plan.in_cutoff
        # Uniform over a disc of radius ``cutoff``, by way of the normal distribution (section 3.2).
        freqs = torch.randn(features, 2)
        radii = freqs.square().sum(dim=1, keepdim=True).sqrt()
        freqs = freqs / (radii * radii.square().exp().pow(0.25)) * self.cutoff
        self.weight = nn.Parameter(torch.randn(config.channels["input"], features))
        self.weight_gain = 1 / math.sqrt(features)
        self.affine = FullyConnected(config.style_dim, 4)
        nn.init.zeros_(self.affine.weight)
        self.affine.bias.data.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand(features) - 0.5)

    def forward(self, w: torch.Tensor, transform: torch.Tensor | None = None) -> torch.Tensor:
        """Input of the first convolution; ``transform`` ([3, 3] or [N, 3, 3]) replaces the buffer."""
        t = self.affine(w)
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        cos, sin, shift_x, shift_y = t.unbind(dim=1)
        rotation = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)
        user = (self.transform if transform is None else transform).to(t)
        # Rotation, then translation, then the user's transform, all of the coordinates of a pixel.
        linear = rotation @ user[..., :2, :2]
        offset = rotation @ (user[..., :2, 2:] - torch.stack([shift_x, shift_y], dim=1)[:, :, None])
        freqs = self.freqs.to(t) @ linear
        phases = self.phases.to(t) + (self.freqs.to(t) @ offset)[..., 0]
        # Frequencies that the transform takes out of band fade out.
        fading = (freqs.norm(dim=2) - self.cutoff) / (self.rate / 2 - self.cutoff)
        amplitudes = (1 - fading).clamp(0, 1)
        # sin(a + b) = sin(a) cos(b) + cos(a) sin(b): sines of each column and row instead of each pixel.
        y, x = ((torch.arange(n, device=t.device, dtype=t.dtype) + (0.5 - n / 2)) / self.rate for n in self.size)
        across = 2 * math.pi * freqs[:, :, :1] * x
        down = 2 * math.pi * (freqs[:, :, 1:] * y + phases[:, :, None])
        down_sin, down_cos = (amplitudes[:, :, None, None] * f(down)[..., None] for f in (torch.sin, torch.cos))
        x = across.sin()[:, :, None] * down_cos + across.cos()[:, :, None] * down_sin
        weight = self.weight.to(t.dtype) * self.weight_gain
        return (weight @ x.flatten(2)).unflatten(2, self.size).to(self.weight.dtype)

    @staticmethod
    def inverted(transform: torch.Tensor) -> torch.Tensor:
        """Inverse of a transform of the image, for the buffer ``transform``: [3, 3], or [N, 3, 3].

        ``transform`` maps points (x, y, 1), the image being [-0.5, 0.5]² with y downwards.

        Raises:
            ValueError: it has another shape or last row, or is not invertible.
        """
        if not isinstance(transform, torch.Tensor) or transform.ndim not in (2, 3) or transform.shape[-2:] != (3, 3):
            got = list(transform.shape) if isinstance(transform, torch.Tensor) else type(transform).__name__
            raise ValueError(f"transform: got {got}, expected a tensor [3, 3] or [N, 3, 3]")
        matrix = transform.detach().double()
        if not matrix.isfinite().all() or not torch.equal(matrix[..., 2, :], matrix.new_tensor([0, 0, 1]).expand_as(
            matrix[..., 2, :]
        )):  # fmt: skip
            raise ValueError(f"transform: got {matrix.tolist()}, expected finite numbers and a last row of 0, 0, 1")
        linear = matrix[..., :2, :2]
        if not (torch.linalg.svdvals(linear)[..., -1] > 1e-6 * torch.linalg.matrix_norm(linear)).all():
            raise ValueError(f"transform: got {matrix.tolist()}, which is not invertible")
        return torch.linalg.inv(matrix).to(transform.dtype)


class SynthesisLayer(nn.Module):
    """Modulated convolution, then a filtered leaky ReLU: x [N, I, h, w] → [N, O, h', w'].

    The input is divided by the root of its running mean square, ``magnitude_ema``. toRGB is one without demodulation,
    with a linear activation.
    """

    def __init__(self, config: StyleGAN3Config, plan: LayerPlan, in_channels: int, out_channels: int, rgb: bool):
        super().__init__()
        kernel = 1 if rgb else config.conv_kernel
        self.plan, self.padding, self.clamp, self.rgb = plan, kernel - 1, config.conv_clamp, rgb
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel**2)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.affine = FullyConnected(config.style_dim, in_channels, bias_init=1)
        self.register_buffer("magnitude_ema", torch.ones([]))
        up = lowpass(plan.up_taps, plan.in_cutoff, 2 * plan.in_half_width, plan.rate)
        down = lowpass(plan.down_taps, plan.out_cutoff, 2 * plan.out_half_width, plan.rate, plan.radial)
        for name, taps in (("up_filter", up), ("down_filter", down)):
            self.register_buffer(name, None if taps is None else taps.clone(), persistent=False)

    @property
    def input_gain(self) -> torch.Tensor:
        """Factor on the input, a number in float32 or float64."""
        return self.magnitude_ema.rsqrt()

    def forward(self, x: torch.Tensor, w: torch.Tensor, next_gain: torch.Tensor | None = None) -> torch.Tensor:
        """Output times ``next_gain``, of ``x`` that is already multiplied by :attr:`input_gain`."""
        styles = self.affine(w)
        styles = styles * self.weight_gain if self.rgb else bounded(styles)
        x = modulated_conv2d(x, self.weight, styles, padding=self.padding, demodulate=not self.rgb)
        plan, down = self.plan, self.down_filter
        if next_gain is not None and down is not None:  # the last filter multiplies by it without a pass of its own
            down = down * next_gain.to(down.dtype) ** (1 / (3 - down.ndim))
        x = filtered_lrelu(
            x,
            self.up_filter,
            down,
            self.bias.to(x.dtype),
            plan.up,
            plan.down,
            plan.padding,
            gain=1 if self.rgb else math.sqrt(2),
            slope=1 if self.rgb else 0.2,
            clamp=self.clamp,
        )
        return x if next_gain is None or down is not None else x * next_gain.to(x.dtype)

    @torch.no_grad()
    def track(self, x: torch.Tensor) -> None:
        """Move ``magnitude_ema`` towards the mean square of the input ``x``."""
        mean = x.detach().to(self.magnitude_ema.dtype).square().mean()
        self.magnitude_ema.copy_(mean.lerp(self.magnitude_ema, MAGNITUDE_DECAY))


class SynthesisNetwork(BaseSynthesis):
    """ws → image."""

    def __init__(self, config: StyleGAN3Config) -> None:
        super().__init__()
        self.config = config
        self.input = FourierInput(config)
        self.layers, below = [], config.channels["input"]
        plans = config.plans()
        for name, plan in zip(list(config.channels)[1:], plans, strict=False):
            self.add_module(name, SynthesisLayer(config, plan, below, config.channels[name], rgb=False))
            self.layers.append(name)
            below = config.channels[name]
        self.to_rgb = SynthesisLayer(config, plans[-1], below, config.img_channels, rgb=True)
        self.layers.append("to_rgb")

    def forward(
        self,
        ws: torch.Tensor,
        noise_mode: str = "none",
        noise: Noise | None = None,
        return_rgbs: bool = False,
        features: dict[str, torch.Tensor] | None = None,
        transform: torch.Tensor | None = None,
        update_emas: bool = False,
        **options: Any,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Image [N, img_channels, *img_size], nominally in [-1, 1], from ``ws`` [N, num_ws, w_dim].

        Args:
            ws: one w for the input and one per layer.
            noise_mode, noise: accepted and without effect: this model has none.
            return_rgbs: return a list, which holds the image alone.
            features: a dict to fill with the output [N, C, h, w] of each layer, by its name in ``config.channels``.
            transform: moves the image: a matrix [3, 3] or [N, 3, 3] of points (x, y, 1), the image being [-0.5, 0.5]²
                with y downwards; None: what the buffer ``input.transform`` says.
            update_emas: track the magnitudes of the layers' inputs, as in NVlabs' training.
            options: ``force_fp32`` and ``fused_modconv`` of NVlabs' scripts, without effect.

        Raises:
            ValueError: the shape of ``ws`` is not as above, or ``transform`` is not invertible.
            TypeError: another option.
        """
        self.check_options(options)
        self.check_ws(ws)
        transform = None if transform is None else self.input.inverted(transform)
        layers = [getattr(self, name) for name in self.layers]
        with layer_range("synthesis.input"):
            x = self.input(ws[:, 0], transform)
        # Where nothing looks at a layer's output, the filter before it multiplies by its gain.
        folds = features is None and not update_emas
        for i, (name, layer) in enumerate(zip(self.layers, layers, strict=True)):
            if features is not None:
                features["input" if i == 0 else self.layers[i - 1]] = x
            with layer_range(f"synthesis.{name}"):
                if update_emas:
                    layer.track(x)
                if i == 0 or not folds:
                    x = x * layer.input_gain.to(x.dtype)
                x = layer(x, ws[:, i + 1], layers[i + 1].input_gain if folds and i + 1 < len(layers) else None)
        image = wide(x * self.config.output_scale)
        return [image] if return_rgbs else image

    def styles(self, ws: torch.Tensor) -> dict[str, torch.Tensor]:
        """Styles [N, I] of every modulated convolution, by its name ("L0", ..., "to_rgb")."""
        self.check_ws(ws)
        return {name: getattr(self, name).affine(ws[:, i + 1]) for i, name in enumerate(self.layers)}


class StyleGAN3Generator(BaseGenerator):
    """StyleGAN3 generator."""

    def __init__(self, config: StyleGAN3Config) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config)
        self.synthesis = SynthesisNetwork(config)

    def no_filtered_weights(self) -> str | None:
        """Why the compiled program of StyleGAN3 does not run this generator; None if it does."""
        return not_compiled(self.config)

    def filtered_weights(self) -> FilteredWeights:
        """Weights of the synthesis network for the compiled program, in float64 on the CPU."""
        return filtered_weights(self.synthesis)
