"""A small U-Net that labels the pixels of a portrait: background, person, face.

Weights ship in `cagc/assets/faces64/parser.safetensors`; `tools/faces64/train_parser.py` made them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = ("background", "person", "face")
WORKING_RESOLUTION = 64
WIDTHS = (16, 32, 64, 96)


class ConvBlock(nn.Sequential):
    """Two 3×3 convolutions with ReLU; `batch_norm` inserts the layers that training needs and that export folds."""

    def __init__(self, in_channels: int, out_channels: int, batch_norm: bool) -> None:
        layers: list[nn.Module] = []
        for width_in in (in_channels, out_channels):
            layers.append(nn.Conv2d(width_in, out_channels, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class FaceParser(nn.Module):
    """images [N, 3, R, R] in [-1, 1] → logits [N, classes, R, R]; R must be a multiple of 2**(len(widths) - 1)."""

    def __init__(
        self, widths: Sequence[int] = WIDTHS, num_classes: int = len(CLASSES), batch_norm: bool = False
    ) -> None:
        super().__init__()
        widths = tuple(widths)
        self.widths = widths
        self.down = nn.ModuleList(ConvBlock(w_in, w_out, batch_norm) for w_in, w_out in zip((3, *widths[:-1]), widths))
        self.up = nn.ModuleList(
            ConvBlock(deep + skip, skip, batch_norm) for deep, skip in zip(widths[:0:-1], widths[-2::-1])
        )
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        skips: list[Tensor] = []
        x = images
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()], dim=1))
        return self.head(x)


def to_working_resolution(images: Tensor, resolution: int = WORKING_RESOLUTION) -> Tensor:
    """Resize [N, 3, H, W] to the parser's square; antialiased, so a large image is averaged, not subsampled."""
    if images.shape[-2:] == (resolution, resolution):
        return images
    return F.interpolate(images, size=(resolution, resolution), mode="bilinear", antialias=True, align_corners=False)


def label_pixels(model: FaceParser, images: Tensor, resolution: int = WORKING_RESOLUTION) -> Tensor:
    """images [N, 3, H, W] in [-1, 1] of any size → class index per pixel [N, H, W] int64.

    The logits are enlarged before the decision, which gives smoother borders than enlarging the labels.
    """
    # On the CPU antialiased resizing does not support half precision, which images have under autocast.
    logits = model(to_working_resolution(images, resolution)).to(images.dtype)
    if logits.shape[-2:] != images.shape[-2:]:
        logits = F.interpolate(logits, size=images.shape[-2:], mode="bilinear", antialias=True, align_corners=False)
    return largest(logits)


def largest(logits: Tensor) -> Tensor:
    """``logits.argmax(dim=1)``, by comparing whole planes: on the CPU eight times as fast for three classes."""
    best, index = logits[:, 0], torch.zeros_like(logits[:, 0], dtype=torch.int64)
    for number in range(1, logits.shape[1]):
        larger = logits[:, number] > best
        index = index.masked_fill(larger, number)
        best = torch.maximum(best, logits[:, number])
    return index
