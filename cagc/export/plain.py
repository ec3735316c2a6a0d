"""A generator of frozen weights in the few operators that every converter knows.

The operators are Gemm, Conv, ConvTranspose, Mul, Add, LeakyRelu, Clip, Sqrt and Reciprocal, on at most four dimensions.
The ordinary graph stuffs zeros between pixels of six-dimensional views, which mobile converters refuse; here a
depthwise transposed convolution takes their place, and a product with a constant that of a mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cagc_kernels.synthesis import ConvWeights, ToRGBWeights

from ..common.errors import CagcError
from ..models import AnyGenerator

_GAIN = 2**0.5  # of leaky ReLU
_EPSILON = 1e-8


class PlainGenerator(nn.Module):
    """z [N, z_dim] → image [N, 3, R, R] in float32, with fixed weights, truncation and noise.

    It draws what ``generator(z, truncation_psi=truncation, noise_mode=noise)`` draws, up to rounding.

    Args:
        generator: a generator with frozen weights, on any device.
        truncation: truncation ψ.
        noise: "const" (the stored maps) or "none".

    Raises:
        CagcError: ``generator`` has no frozen weights, such as an SN-GAN.
        ValueError: ``noise`` has another value.
    """

    @torch.no_grad()
    def __init__(self, generator: AnyGenerator, truncation: float = 1.0, noise: str = "const") -> None:
        super().__init__()
        if noise not in ("const", "none"):
            raise ValueError(f"noise: got {noise!r}, expected 'const' or 'none'")
        weights = getattr(generator, "frozen_weights", lambda: None)()
        if weights is None:
            reason = getattr(generator, "not_compiled", lambda: None)()
            reason = reason or f"got a generator of kind {generator.config.architecture}, expected stylegan2"
            raise CagcError(f"plain: {reason}")
        self.mapping = _Mapping(weights.mapping, generator.w_avg, weights.style_dim, truncation)
        taps = 2 * torch.tensor(weights.fir, dtype=torch.float64)
        kernel = (taps[:, None] * taps).flip((0, 1))
        noisy = [generator.get_submodule(spec.module) for spec in generator.config.layers() if spec.noise]
        maps = [layer.noise_const.to("cpu", torch.float64) if noise == "const" else None for layer in noisy]
        self.layers = nn.ModuleList(
            _Styled(conv, kernel, noise_map, weights.clamp) for conv, noise_map in zip(weights.convs, maps, strict=True)
        )
        self.register_buffer("constant", weights.constant[None].float())
        # Transposed: it spreads each pixel over the taps that the correlation of the generator gathers from.
        self.register_buffer("up", kernel.flip((0, 1))[None, None].repeat(3, 1, 1, 1).float())

    def forward(self, z: Tensor) -> Tensor:
        w, x, image = self.mapping(z), self.constant, None
        for layer in self.layers:
            x = layer(x, w)
            if layer.to_rgb is None:
                continue
            drawn = layer.to_rgb(x, w)
            if image is not None:
                drawn = drawn + F.conv_transpose2d(image, self.up, stride=2, padding=1, groups=3)
            image = drawn
        return image


class _Mapping(nn.Module):
    """z → truncated w [N, style_dim]."""

    def __init__(
        self, layers: Sequence[tuple[Tensor, Tensor]], w_avg: Tensor, style_dim: int, truncation: float
    ) -> None:
        super().__init__()
        self.depth, self.truncation = len(layers), truncation
        for i, (weight, bias) in enumerate(layers):
            _keep(self, **{f"weight{i}": weight * _GAIN, f"bias{i}": bias * _GAIN})
        # The mean of squares as a product, because converters differ in how they take a reduction's axes.
        _keep(self, mean=torch.full((1, style_dim), 1 / style_dim), epsilon=torch.full((1,), _EPSILON))
        _keep(self, centre=w_avg.to("cpu") * (1 - truncation))

    def forward(self, z: Tensor) -> Tensor:
        w = z * torch.rsqrt(F.linear(z * z, self.mean, self.epsilon))
        for i in range(self.depth):
            w = F.leaky_relu(F.linear(w, getattr(self, f"weight{i}"), getattr(self, f"bias{i}")), 0.2)
        return w if self.truncation == 1 else w * self.truncation + self.centre


class _Styled(nn.Module):
    """A styled 3x3 convolution: x [N, I, h, w] and w [N, style_dim] → [N, O, r, r]."""

    def __init__(self, conv: ConvWeights, kernel: Tensor, noise: Tensor | None, clamp: float | None) -> None:
        super().__init__()
        self.up, self.clamp = conv.up == 2, clamp
        self.to_rgb = None if conv.to_rgb is None else _ToRGB(conv.to_rgb, clamp)
        out = conv.weight.shape[0]
        # The gain of leaky ReLU is multiplied into everything that it acts on: demodulation, noise and bias.
        _keep(
            self, affine=conv.affine, affine_bias=conv.affine_bias, bias=conv.bias.reshape(1, -1, 1, 1) * _GAIN,
            weight=conv.weight.transpose(0, 1) if self.up else conv.weight,
            energy=conv.weight.square().sum((2, 3)) / 2, epsilon=torch.full((out,), _EPSILON / 2),
        )  # fmt: skip
        if self.up:
            _keep(self, fir=kernel[None, None].repeat(out, 1, 1, 1))
        self.noisy = noise is not None
        if noise is not None:
            _keep(self, noise=(noise * conv.noise_strength * _GAIN)[None, None])

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = F.linear(w, self.affine, self.affine_bias)
        scale = torch.rsqrt(F.linear(style * style, self.energy, self.epsilon))
        x = x * _channels(style)
        if self.up:
            x = F.conv2d(F.conv_transpose2d(x, self.weight, stride=2), self.fir, padding=1, groups=self.fir.shape[0])
        else:
            x = F.conv2d(x, self.weight, padding=1)
        x = x * _channels(scale) + self.bias
        x = F.leaky_relu(x + self.noise if self.noisy else x, 0.2)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class _ToRGB(nn.Module):
    """A modulated 1x1 convolution to the image: x [N, O, r, r] and w [N, style_dim] → [N, 3, r, r]."""

    def __init__(self, layer: ToRGBWeights, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        _keep(self, affine=layer.affine, affine_bias=layer.affine_bias, bias=layer.bias)
        _keep(self, weight=layer.weight[:, :, None, None])

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = F.linear(w, self.affine, self.affine_bias)
        image = F.conv2d(x * _channels(style), self.weight, self.bias)
        return image if self.clamp is None else image.clamp(-self.clamp, self.clamp)


def _keep(module: nn.Module, **tensors: Tensor) -> None:
    """Register ``tensors`` as contiguous float32 buffers of ``module``."""
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor.float().contiguous())


def _channels(vector: Tensor) -> Tensor:
    """``vector`` [N, C] as [N, C, 1, 1]."""
    return vector.reshape(vector.shape[0], -1, 1, 1)
