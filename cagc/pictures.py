"""Picture rows that put generators side by side on the same latents and noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from .common.rgb import shown
from .common.seeds import inputs_of_seeds
from .editing.directions import edited_images, find_directions
from .metrics.sampling import noise_for

GAP = 2
"""Pixels between neighbouring tiles."""
STRENGTHS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""Standard deviations of w that an edit is shown at."""
MOST_LABELS = 4
"""Labels that the figure by label shows."""
DIFFERENCE_GAIN = 3
"""Factor on shown differences: those of a good student, about a tenth of the range, would be hard to see."""
OUTLINE = (255, 196, 0)
"""Colour of the content outline, readable on skin, hair and both backgrounds."""


@dataclass(frozen=True)
class Row:
    """One strip of a figure. label: short text at its left; alt: alternative text for screen readers."""

    label: str
    alt: str
    image: Image.Image


@dataclass(frozen=True)
class Figure:
    """Rows under one title. name: stem of the file name (letters, digits, dashes); caption: one or two sentences."""

    name: str
    title: str
    caption: str
    rows: tuple[Row, ...]

    def composite(self) -> Image.Image:
        """All rows in one picture, labels at the left, for the file on disk."""
        font = ImageFont.load_default(size=14)
        margin = 16 + max(int(font.getlength(row.label)) for row in self.rows)
        width = margin + max(row.image.width for row in self.rows)
        sheet = Image.new("RGB", (width, sum(row.image.height + 6 for row in self.rows) - 6), "white")
        top, draw = 0, ImageDraw.Draw(sheet)
        for row in self.rows:
            sheet.paste(row.image, (margin, top), row.image if row.image.mode == "RGBA" else None)
            draw.text((8, top + row.image.height / 2), row.label, "black", font, anchor="lm")
            top += row.image.height + 6
        return sheet


def _tiles(images: Tensor, tile: int) -> Tensor:
    """[N, C, H, W] in [-1, 1] → [N, 3, h, w], the longer side `tile` px, clamped."""
    images = shown(images.detach().float().cpu())
    if max(images.shape[-2:]) != tile:
        size = _tile_size(images, tile)
        images = F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True)
    return images.clamp(-1, 1)


def _tile_size(images: Tensor, tile: int) -> tuple[int, int]:
    """Height and width of images whose longer side is `tile`."""
    height, width = images.shape[-2:]
    return max(1, round(height * tile / max(height, width))), max(1, round(width * tile / max(height, width)))


def _tile_side(resolution: int) -> int:
    """Side in pixels at which an image is shown: small images are doubled, large ones reduced to keep reports small."""
    return min(max(resolution, min(2 * resolution, 128)), 256)


def image_grid(
    images: Tensor, columns: int | None = None, tile: int | None = None, background: str | None = "white"
) -> Image.Image:
    """Lay out images [N, C, H, W] in [-1, 1] row by row; all in one row when `columns` is None.

    tile: longer side of a tile in pixels; by default that of the images, doubled below 128 px and at most 256 px.
    background: colour of gaps and empty cells, for an RGB picture; None leaves them transparent (RGBA).
    """
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(f"images: got shape {list(images.shape)}, expected [N, C, H, W] and not empty")
    tile = tile or _tile_side(max(images.shape[-2:]))
    columns = min(columns or len(images), len(images))
    rows = -(-len(images) // columns)
    pixels = ((_tiles(images, tile) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    height, width = pixels.shape[1:3]
    size = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    grid = Image.new("RGB", size, background) if background else Image.new("RGBA", size, (0, 0, 0, 0))
    for i, image in enumerate(pixels):
        grid.paste(Image.fromarray(image), (i % columns * (width + GAP), i // columns * (height + GAP)))
    return grid


def difference(a: Tensor, b: Tensor, gain: float = 1.0) -> Tensor:
    """gain·|a - b| of images in [-1, 1]: black (-1) where they agree, white (1) from a difference of 2 / gain."""
    return (gain * (a.clamp(-1, 1) - b.clamp(-1, 1)).abs() - 1).clamp(max=1)


def content_overlay(images: Tensor, masks: Tensor, tile: int | None = None) -> Tensor:
    """Images [N, 3, h, w] with the content (mask [N, 1, H, W] = 1) outlined and the rest greyed and darkened."""
    tiles = _tiles(images, tile or _tile_side(max(images.shape[-2:])))
    mask = F.interpolate(masks.detach().float().cpu(), size=tuple(tiles.shape[-2:]), mode="nearest")
    grey = tiles.mean(dim=1, keepdim=True) * 0.35 - 0.5
    edge = F.max_pool2d(mask, 3, stride=1, padding=1) - mask
    colour = torch.tensor(OUTLINE).view(1, 3, 1, 1) / 127.5 - 1
    return torch.where(edge > 0, colour, torch.where(mask > 0, tiles, grey.expand_as(tiles)))


@torch.inference_mode()
def interpolation_strip(
    generator: nn.Module,
    seeds: tuple[int, int],
    steps: int = 8,
    truncation: float = 1.0,
    noise: str | list[Tensor] = "const",
) -> Tensor:
    """Images [steps, 3, R, R] along the straight line in W from the w of one seed to that of the other."""
    if steps < 2:
        raise ValueError(f"steps: got {steps}, expected at least 2")
    z, c = inputs_of_seeds(generator, seeds)
    start, end = generator.ws(z, truncation=truncation, c=c)
    path = torch.stack([torch.lerp(start, end, float(t)) for t in torch.linspace(0, 1, steps)])
    return generator.synthesis(path, noise=noise)


def _row(label: str, images: Tensor, alt: str) -> Row:
    return Row(label, alt, image_grid(images, background=None))


def _comparison(images: Mapping[str, Tensor], seeds: Sequence[int]) -> Figure:
    count = f"{len(seeds)} images"
    drawn = f"{count} drawn from seeds {seeds[0]} to {seeds[-1]}"
    rows = [_row(label, batch, f"{label}: {drawn}") for label, batch in images.items()]
    gap = difference(images["Student"], images["Teacher"], DIFFERENCE_GAIN)
    alt = f"Absolute difference of student and teacher for the same {count}, times {DIFFERENCE_GAIN}"
    rows.append(_row(f"|Difference| x{DIFFERENCE_GAIN}", gap, alt))
    caption = "The same latents and noise in every row. The difference is black where student and teacher agree."
    return Figure("comparison", "Before and after", caption, tuple(rows))


def _by_label(
    generators: Mapping[str, nn.Module], seeds: Sequence[int], truncation: float, noise: list[Tensor]
) -> Figure:
    """Figure of the same latents with each of a few labels, by teacher and student."""
    teacher = next(iter(generators.values()))
    z, _ = inputs_of_seeds(teacher, list(seeds))
    rows = []
    for name, label in teacher.labels.distinct(MOST_LABELS).items():
        c = label.to(z).expand(len(z), -1)
        for who, generator in generators.items():
            images = generator(z, c, truncation_psi=truncation, noise=noise).clamp(-1, 1)
            rows.append(_row(f"{who}, {name}", images, f"{who}: {len(z)} images with label {name}"))
    caption = f"The same latents in every row, with labels {', '.join(teacher.labels.distinct(MOST_LABELS))}."
    return Figure("labels", "By label", caption, tuple(rows))


def _content(images: Tensor, mask: Tensor) -> Figure:
    share = f"{100 * float(mask.float().mean()):.0f} %"
    count = f"{len(images)} images"
    alt = f"The same {count} with all but the content of interest greyed out; content covers {share}"
    rows = (_row("Teacher", images, f"Teacher: the same {count}"), _row("Content", content_overlay(images, mask), alt))
    caption = (
        f"What the content parser finds in the teacher's images: {share} of all pixels. "
        "Channels are scored, and the student is held to its teacher, on these pixels."
    )
    return Figure("content", "Content of interest", caption, rows)


def _interpolation(
    generators: Mapping[str, nn.Module], pairs: Sequence[tuple[int, int]], truncation: float, noise: list[Tensor]
) -> Figure:
    rows = [
        _row(
            label,
            interpolation_strip(generator, pair, truncation=truncation, noise=noise),
            f"{label}: eight steps from seed {pair[0]} to seed {pair[1]}",
        )
        for pair in pairs
        for label, generator in generators.items()
    ]
    caption = "Straight lines in W between two latents, walked by teacher and student."
    return Figure("interpolation", "Latent interpolation", caption, tuple(rows))


def edit_figure(
    generators: Mapping[str, nn.Module], seeds: Sequence[int], strengths: Sequence[float] = STRENGTHS
) -> Figure:
    """Figure of the same edit on every generator: steps along the first principal direction of the first generator."""
    directions = find_directions(next(iter(generators.values())), count=1)
    rows = [
        _row(label, images, f"{label}: seed {seed} moved by {strengths[0]} to {strengths[-1]} standard deviations")
        for seed in seeds
        for label, images in edited_images(generators, directions, seed, 0, strengths).items()
    ]
    caption = (
        f"Steps along the first principal direction of {directions.source}, found on the teacher and applied to both: "
        f"{', '.join(f'{s:+g}' for s in strengths)} standard deviations."
    )
    return Figure("edit", "The same edit", caption, tuple(rows))


@torch.inference_mode()
def comparison_figures(
    teacher: nn.Module,
    student: nn.Module,
    parser: Callable[..., Tensor],
    others: Mapping[str, nn.Module] | None = None,
    seeds: Sequence[int] = range(8),
    interpolations: Sequence[tuple[int, int]] = ((0, 1), (2, 3)),
    truncation: float = 1.0,
) -> list[Figure]:
    """Figures of a compression: teacher against student, the content masks, and latent interpolation (unless no pair).

    others: label → generator for rows between the two, in order (e.g. "Before distillation"). Every row shows the same
    latents `seeds` with the teacher's constant noise maps; parser as in `evaluate_pair`.
    """
    z, c = inputs_of_seeds(teacher, list(seeds))
    noise = noise_for(teacher, seeds, "const")
    generators = {"Teacher": teacher, **(others or {}), "Student": student}
    images = {label: g(z, c, truncation_psi=truncation, noise=noise).clamp(-1, 1) for label, g in generators.items()}
    figures = [
        _comparison(images, seeds),
        _content(images["Teacher"], parser(images["Teacher"], seeds=list(seeds))),
    ]
    pair = {"Teacher": teacher, "Student": student}
    if teacher.labels is not None:
        figures.append(_by_label(pair, seeds, truncation, noise))
    if interpolations:
        figures.append(_interpolation(pair, interpolations, truncation, noise))
        figures.append(edit_figure(pair, seeds[:2]))
    return figures
