"""Style mixing by layer, and interpolation between latents."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..common.errors import CagcError
from ..common.files import atomic_write
from ..models import AnyGenerator
from ..pictures import image_grid
from .layers import check_layers

ANIMATIONS = {".gif": "GIF", ".webp": "WEBP", ".mp4": "MP4", ".png": "PNG"}


def mix_styles(ws: Tensor, styles: Tensor, layers: Sequence[int]) -> Tensor:
    """``ws`` [N, num_ws, w_dim] with ``layers`` taken from ``styles`` of the same shape (Karras et al. 2019, 3.1).

    Raises:
        CagcError: a layer is out of range. ValueError: the shapes differ.
    """
    if styles.shape != ws.shape:
        raise ValueError(f"styles: got shape {list(styles.shape)}, expected {list(ws.shape)} as ws")
    chosen = check_layers(layers, ws.shape[1])
    mixed = ws.clone()
    mixed[:, chosen] = styles[:, chosen]
    return mixed


@torch.inference_mode()
def morph(
    generator: AnyGenerator,
    start: Tensor,
    end: Tensor,
    steps: int = 24,
    noise: str | Sequence[Tensor] = "const",
    end_noise: Sequence[Tensor] | None = None,
    batch: int = 8,
) -> Tensor:
    """Images [steps, 3, R, R] on the straight line in W+ from ``start`` to ``end`` [num_ws, w_dim].

    Noise maps [1, 1, h, w] given for both ends are interpolated too, at unit variance.

    Raises:
        ValueError: fewer than two steps.
    """
    if steps < 2:
        raise ValueError(f"steps: got {steps}, expected at least 2")
    images = []
    for part in torch.linspace(0, 1, steps, device=start.device).split(batch):
        weight = part.to(start.dtype)
        ws = torch.lerp(start[None], end[None], weight[:, None, None])
        maps = noise if end_noise is None else list(_noises(noise, end_noise, weight))
        images.append(generator.synthesis(ws, noise=maps).clamp(-1, 1))
    return torch.cat(images)


def _noises(start: Sequence[Tensor], end: Sequence[Tensor], weight: Tensor) -> Iterator[Tensor]:
    t = weight[:, None, None, None]
    for a, b in zip(start, end, strict=True):
        yield ((1 - t) * a + t * b) / ((1 - t).square() + t.square()).sqrt()


def check_animation(path: str | Path) -> str:
    """Kind of the animation ``path``, a value of :data:`ANIMATIONS`.

    Raises:
        CagcError: another suffix, or .mp4 without the package av.
    """
    kind = ANIMATIONS.get(Path(path).suffix.lower())
    if kind is None:
        raise CagcError(f"out: got {Path(path).name!r}, expected a name that ends in {', '.join(ANIMATIONS)}")
    if kind == "MP4" and importlib.util.find_spec("av") is None:
        raise CagcError("out: .mp4 needs the package av: pip install av")
    return kind


def write_animation(path: str | Path, strips: Sequence[Tensor], milliseconds: int = 60) -> None:
    """Write strips [T, 3, R, R] in [-1, 1], one per generator, side by side.

    A ``.gif``, ``.webp`` or ``.mp4`` plays forwards and backwards; a ``.png`` has one row per strip.

    Raises:
        CagcError: as :func:`check_animation`, or no such folder.
    """
    kind = check_animation(path)
    with atomic_write(path) as temporary:
        if kind == "PNG":
            image_grid(torch.cat(list(strips)), columns=len(strips[0])).save(temporary)
            return
        frames = [image_grid(torch.stack(moment)) for moment in zip(*strips, strict=True)]
        first, *others = frames + frames[-2:0:-1]
        if kind == "MP4":
            _write_video(temporary, [first, *others], milliseconds)
            return
        first.save(temporary, kind, save_all=True, append_images=others, duration=milliseconds, loop=0)


def _write_video(path: Path, frames: Sequence[Image.Image], milliseconds: int) -> None:
    import av

    # Colour is stored at half the size, which must be whole.
    width, height = (side + side % 2 for side in frames[0].size)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(1000, milliseconds))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            canvas = Image.new("RGB", (width, height), "white")
            canvas.paste(frame)
            file.mux(stream.encode(av.VideoFrame.from_image(canvas)))
        file.mux(stream.encode(None))
