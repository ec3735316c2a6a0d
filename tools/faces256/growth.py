"""Grows a generator and its discriminator by blocks of higher resolution, and runs parts of a generator."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cagc.models import Discriminator, Generator
from cagc.models.stylegan2_config import block_resolutions
from cagc_kernels import upsample2d

# Modulation that is initially weaker than in a random layer is learnt faster from w (found at 64 px).
MODULATION_INIT = 0.4


def grow_generator(small: Generator, widths: dict[int, int]) -> Generator:
    """Return a generator with the weights of ``small`` and new blocks up to the last resolution of ``widths``.

    At first the new blocks add nothing to the image: it is that of ``small``, enlarged by the resampling filter.
    """
    config, resolution = small.config, small.config.resolution
    while resolution < max(widths):
        resolution *= 2
        layers = {f"b{resolution}.{conv}": widths[resolution] for conv in ("conv0", "conv1")}
        config = replace(config, resolution=resolution, channels=config.channels | layers)
    if config == small.config:
        return small
    large = Generator(config)
    large.load_state_dict(small.state_dict(), strict=False)
    for side in block_resolutions(resolution):
        if side > small.config.resolution:
            block = getattr(large.synthesis, f"b{side}")
            for layer in (block.conv0, block.conv1, block.to_rgb):
                layer.affine.weight.data *= MODULATION_INIT
            block.to_rgb.weight.data.zero_()
    return large


def grow_discriminator(small: Discriminator, widths: dict[int, int]) -> Discriminator:
    """Return a discriminator with a new block of each width before those of ``small``, whose input layer is dropped."""
    config = replace(small.config, resolution=max(widths), channels=small.config.channels | widths)
    large = Discriminator(config)
    inherited = {name: value for name, value in small.state_dict().items() if not name.startswith("from_rgb.")}
    large.load_state_dict(inherited, strict=False)
    return large


def synthesise(
    generator: Generator, w: Tensor, resolution: int, train_from: int = 4, corner: tuple[int, int, int] | None = None
) -> Tensor:
    """Draw images [N, 3, resolution, resolution], float32, from w [N, style_dim] without noise.

    Args:
        resolution: resolution of the last block to run.
        train_from: blocks below this resolution run without gradients.
        corner: window (top, left, side), in pixels of the last block's input, to which that block is restricted; the
            image is then [N, 3, 2·side, 2·side].
    """
    network, rgb, x = generator.synthesis, None, None
    for side in block_resolutions(resolution):
        block = getattr(network, f"b{side}")
        with torch.set_grad_enabled(torch.is_grad_enabled() and side >= train_from):
            if side == resolution and corner:
                top, left, length = corner
                x, rgb = (t[..., top : top + length, left : left + length] for t in (x, rgb))
            if side == 4:
                x = block.const.expand(len(w), -1, -1, -1)
            else:
                x = block.conv0(x.contiguous(), w, "none")
            x = block.conv1(x, w, "none")
            added = block.to_rgb(x, w).float()
            rgb = added if rgb is None else upsample2d(rgb.contiguous(), network.resample_filter) + added
    return rgb
