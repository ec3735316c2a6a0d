"""Adaptive discriminator augmentation for small sets of images (Karras et al., NeurIPS 2020).

The images for the discriminator, real and generated, are flipped, rotated, translated, scaled and recoloured, each kind
of change with probability p, which follows how much the discriminator overfits. Everything is twice differentiable in
the images.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cagc_kernels import downsample2d, setup_filter, upsample2d

from .draws import SampleStreams

# Taps of the low-pass filter before and after resampling: a Kaiser-windowed sinc, symmetric against shifts.
_TAPS = 12
# Uniform random numbers per image: a gate for each of 13 changes, and 15 parameters.
_NUMBERS = 28
# Images over which p can go from 0 to 1, and updates between two adjustments of p.
_RAMP_IMAGES, _INTERVAL = 500_000, 4


class Augment:
    """The pipeline with its probability.

    Attributes:
        p: probability of each kind of change, in [0, 1]; at 0 images are unchanged.
        target: mean sign of the logits of real images at which p stays constant: the sign is 0 for a discriminator that
            guesses, 1 for one that overfits completely.
    """

    def __init__(self, target: float = 0.6, p: float = 0.0) -> None:
        self.target, self.p = target, p
        self._sum, self._updates, self._images = 0.0, 0, 0

    def draw(self, streams: SampleStreams) -> Tensor:
        """Random numbers [N, 28] of one call, uniform in [0, 1)."""
        return streams.uniform("numbers", _NUMBERS)

    def adapt(self, sign: Tensor, images: int) -> Tensor:
        """Count an update that saw ``images`` real images with the mean ``sign`` of their logits; return p, scalar."""
        self._sum, self._updates, self._images = self._sum + sign.item(), self._updates + 1, self._images + images
        if self._updates == _INTERVAL:
            direction = math.copysign(1, self._sum / _INTERVAL - self.target)
            self.p = min(1.0, max(0.0, self.p + direction * self._images / _RAMP_IMAGES))
            self._sum, self._updates, self._images = 0.0, 0, 0
        return sign.new_tensor(self.p)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Images [N, 3, R, R] → the same shape. ``numbers`` [N, 28]: see :meth:`draw`.

        An image without any change is returned bit for bit.
        """
        if self.p == 0:
            return images
        dice = _Dice(numbers, self.p)
        images = _blit(dice, images)
        dice.hit()
        warp = _warp(dice)
        images = _where(dice.hit(), _resample(images, warp), images)
        colour = _colour(dice)
        return _where(dice.hit(), _recolour(images, colour), images)

    def state_dict(self) -> dict[str, Any]:
        """p, and the statistics for its next adjustment."""
        return {"p": self.p, "sum": self._sum, "updates": self._updates, "images": self._images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.p, self._sum = state["p"], state["sum"]
        self._updates, self._images = state["updates"], state["images"]


class _Dice:
    """Columns of uniform random numbers, consumed from the left."""

    def __init__(self, numbers: Tensor, p: float) -> None:
        self._columns, self.p = iter(numbers.unbind(1)), p
        self._hit = torch.zeros_like(numbers[:, 0], dtype=torch.bool)

    def gate(self, p: float | None = None) -> Tensor:
        """Whether a change happens [N]."""
        gate = next(self._columns) < (self.p if p is None else p)
        self._hit = self._hit | gate
        return gate

    def hit(self) -> Tensor:
        """Whether any gate has opened since the last call, [N]."""
        hit, self._hit = self._hit, torch.zeros_like(self._hit)
        return hit

    def uniform(self, low: float, high: float, gate: Tensor) -> Tensor:
        """Uniform in [low, high) where ``gate`` is open, else 0, [N]."""
        return torch.where(gate, low + (high - low) * next(self._columns), 0.0)

    def normal(self, deviation: float, gate: Tensor) -> Tensor:
        """Normal with mean 0 where ``gate`` is open, else 0, [N]."""
        inner = (2 * next(self._columns) - 1).clamp(-1 + 1e-6, 1 - 1e-6)
        return torch.where(gate, deviation * math.sqrt(2) * torch.erfinv(inner), 0.0)


def _where(chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], a, b)


def _matrix(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """Matrices [N, r, c] from entries that are numbers or tensors [N]."""
    entries = [[e if isinstance(e, Tensor) else torch.full_like(like, e) for e in row] for row in rows]
    return torch.stack([torch.stack(row, dim=-1) for row in entries], dim=-2)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]], x)


def _rotation(angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return _matrix([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]], angle)


def _translation(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]], x)


def _blit(dice: _Dice, images: Tensor) -> Tensor:
    """Flip, rotate by multiples of 90° (of 180° where images are not square), translate by whole pixels."""
    images = _where(dice.uniform(0, 2, dice.gate()) >= 1, images.flip(3), images)
    quarters = dice.uniform(0, 4, dice.gate()).floor()
    for quarter in (1, 2, 3) if images.shape[2] == images.shape[3] else (2,):
        images = _where(quarters == quarter, images.rot90(quarter, (2, 3)), images)
    gate = dice.gate()
    for axis in (2, 3):
        size = images.shape[axis]
        move = (dice.uniform(-0.125, 0.125, gate) * size).round().long()
        source = (torch.arange(size, device=images.device) - move[:, None]) % (2 * size)
        source = torch.minimum(source, 2 * size - 1 - source)
        shape = [len(images), 1, 1, 1]
        shape[axis] = size
        images = images.gather(axis, source.reshape(shape).expand_as(images))
    return images


def _warp(dice: _Dice) -> Tensor:
    """Affine maps [N, 3, 3] from output to input positions, in units of half the side from the centre."""
    scale = torch.exp2(dice.normal(0.2, dice.gate()))
    warp = _scaling(scale, scale)
    # Two rotations, before and after the anisotropic scaling, of which one or both happen with probability p.
    turn = 1 - math.sqrt(1 - dice.p)
    warp = warp @ _rotation(dice.uniform(-math.pi, math.pi, dice.gate(turn)))
    stretch = torch.exp2(dice.normal(0.2, dice.gate()))
    warp = warp @ _scaling(stretch, 1 / stretch)
    warp = warp @ _rotation(dice.uniform(-math.pi, math.pi, dice.gate(turn)))
    gate = dice.gate()
    return warp @ _translation(*(2 * dice.normal(0.125, gate) for _ in range(2)))


def _colour(dice: _Dice) -> Tensor:
    """Colour matrices [N, 4, 4] for (R, G, B, 1): brightness, contrast, luma inversion, hue, saturation."""
    shift = dice.normal(0.2, dice.gate())
    contrast = torch.exp2(dice.normal(0.5, dice.gate()))
    gate = dice.gate()
    inverted = dice.uniform(0, 2, gate).floor()
    angle = dice.uniform(-math.pi, math.pi, dice.gate())
    saturation = torch.exp2(dice.normal(1.0, dice.gate()))
    grey = shift.new_full((3, 3), 1 / 3)
    one = torch.eye(3, dtype=shift.dtype, device=shift.device)
    a = 1 / math.sqrt(3)
    cross = shift.new_tensor([[0, -a, a], [a, 0, -a], [-a, a, 0]])
    # Rotation about the grey axis (Rodrigues' formula).
    c, s, i, k = (v[:, None, None] for v in (angle.cos(), angle.sin(), inverted, saturation))
    linear = grey + k * (c * (one - grey) + s * cross)
    linear = linear @ (one - 2 * i * grey) * contrast[:, None, None]
    offset = linear @ shift[:, None, None].expand(-1, 3, 1)
    return torch.cat([linear, offset], dim=2)


def _recolour(images: Tensor, colour: Tensor) -> Tensor:
    """``images`` [N, C, H, W] by ``colour`` [N, 3, 4]: RGB, the RGB of RGBA, or grey as the mean of what it becomes.

    Images of other channels have no colours.
    """
    colour = colour.to(images)
    n, channels, height, width = images.shape
    if channels == 1:
        grey = colour.mean(dim=1)
        return images * grey[:, :3].sum(dim=1)[:, None, None, None] + grey[:, 3][:, None, None, None]
    if channels not in (3, 4):
        return images
    pixels = colour[:, :, :3] @ images[:, :3].reshape(n, 3, -1) + colour[:, :, 3:]
    return torch.cat([pixels.reshape(n, 3, height, width), images[:, 3:]], dim=1)


def _resample(images: Tensor, warp: Tensor) -> Tensor:
    """Resample ``images`` by the map ``warp``, with mirrored borders and low-pass filters against aliasing."""
    n, channels, height, width = images.shape
    position = torch.arange(_TAPS, dtype=torch.float32) - (_TAPS - 1) / 2
    window = torch.kaiser_window(_TAPS, periodic=False, beta=4.0, dtype=torch.float32)
    taps = setup_filter(torch.sinc(position / 2) * window, device=images.device)
    # Resampling runs at twice the resolution, with a margin for the support of the filters.
    margin = _TAPS // 2
    padded = _mirrored(images, margin)
    fine = upsample2d(padded, taps, padding=-margin)
    down, across = 2 * height + 2 * margin, 2 * width + 2 * margin
    # Positions count in half sides: a rotation mixes axes of different units where height and width differ.
    units = [[1, down / across, 2 * width / across], [across / down, 1, 2 * height / down]]
    theta = warp[:, :2].to(images) * images.new_tensor(units)
    grid = F.affine_grid(theta, [n, channels, down, across], align_corners=False)
    return downsample2d(_Sample.apply(fine, grid), taps, padding=-margin)


def _mirrored(images: Tensor, margin: int) -> Tensor:
    """``images`` [N, C, h, w] with ``margin`` mirrored pixels on each side, repeatedly where it exceeds h or w."""
    while margin:
        # A whole period ends where it may be mirrored once more.
        step = min(margin, max(1, min(images.shape[-2:]) - 1))
        images, margin = F.pad(images, [step] * 4, mode="reflect"), margin - step
    return images


class _Sample(torch.autograd.Function):
    """Bilinear sampling of images at a grid, twice differentiable: as it is linear, its gradient is its transpose."""

    @staticmethod
    def forward(ctx, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _SampleTransposed.apply(gradient, *ctx.saved_tensors, ctx.shape), None


class _SampleTransposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        bilinear, reflection = 0, 2
        images = gradient.new_empty(1).expand(shape)
        arguments = (gradient, images, grid, bilinear, reflection, False, [True, False])
        return torch.ops.aten.grid_sampler_2d_backward(*arguments)[0]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Sample.apply(gradient, *ctx.saved_tensors), None, None
