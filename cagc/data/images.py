"""Opens an untrusted image: documented formats only, within limits, as 8-bit RGB or as a content mask.

Only `open_image` passes a file to Pillow, with a list of formats: Pillow's own list includes PostScript, which starts
another program.
"""

from __future__ import annotations

import functools
import io
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ..common.errors import CagcError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""Pillow's names of the formats that are read; a file's format is detected from its content."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
"""Suffixes, in lower case, of the files in a folder or zip that count as images."""
MAX_PIXELS = 1 << 26
"""Largest image, 67 megapixels; also the most pixels that the threads of a process decode at the same time."""

# Rawmodes of 16-bit colour (channels and byte order), of which Pillow keeps only the high byte of each sample.
_DEEP_COLOUR = re.compile(r"(RGBX?|RGBA|LA);16([BLN])")
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_BITS, _PHOTOMETRIC, _PLANES = 258, 262, 284  # TIFF tags


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # AVIF and WebP depend on how Pillow was built


_header_lock = threading.Lock()


def open_image(data: bytes) -> Image.Image:
    """Return the image in `data` with its header read and its pixels not yet decoded.

    Raises:
        CagcError: it is not an image of `FORMATS`, or larger than `MAX_PIXELS`. A damaged header may raise anything.
    """
    from PIL import Image, UnidentifiedImageError

    # Warning filters are global to the process, so one thread at a time; decoding runs outside the lock.
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data), formats=_formats())
            count = image.width * image.height
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            count = MAX_PIXELS + 1
        except UnidentifiedImageError:
            raise CagcError("not an image") from None
    if count > MAX_PIXELS:
        raise CagcError(f"got more than {MAX_PIXELS / 1e6:.0f} megapixels, expected at most that many (MAX_PIXELS)")
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANES) == 2 and max(tags.get(_BITS, (8,))) > 8 and image.tile[0].codec_name == "raw":
        raise CagcError("got 16-bit samples in uncompressed planes, which Pillow misreads, expected interleaved ones")
    key, depth = image.info.get("transparency"), {"L;2": 2, "L;4": 4}.get(_rawmode(image))
    if depth and isinstance(key, int):
        image.info["transparency"] = key * 255 // (2**depth - 1)  # Pillow scales the samples but not this value
    return image


def _rawmode(image: Image.Image) -> str | None:
    """Return how samples are stored, in Pillow's notation; None if it differs between tiles. Call before decoding."""
    names = {tile.args if isinstance(tile.args, str) else tile.args[0] for tile in image.tile if tile.args}
    name = names.pop() if len(names) == 1 else None
    return name if isinstance(name, str) else None


class Budget:
    """Makes threads wait so that together they hold at most `limit` pixels or bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used, self._changed = limit, 0, threading.Condition()

    @contextmanager
    def spend(self, amount: int) -> Iterator[None]:
        """Hold `amount` of the limit inside the block, or the whole limit if `amount` is larger."""
        amount = min(amount, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._used + amount <= self._limit)
            self._used += amount
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                self._changed.notify_all()


_budget = Budget(MAX_PIXELS)


def looks_like_image(start: bytes) -> bool:
    """Whether a file that begins with `start` may be an image of `FORMATS`, so that unpacking it makes sense."""
    from PIL import Image

    checks = (Image.OPEN[name][1] for name in _formats())
    return any(check is None or check(start[:16]) for check in checks)


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    return image


def _deep_samples(image: Image.Image, data: bytes) -> tuple[np.ndarray, int] | None:
    """Return samples [H, W, C], upright, and the value of white, of an image of more than 8 bits; None for others."""
    rawmode = _rawmode(image) or ""
    if image.mode.startswith("I"):
        top = 4095 if rawmode.startswith("I;12") else 65535
        inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
        samples = np.asarray(_upright(image))[..., None]
        return (top - samples if inverted else samples), top
    if not (found := _DEEP_COLOUR.fullmatch(rawmode)):
        return None
    channels, order = found.groups()
    if channels == "LA":  # read the four bytes of a pixel as four channels
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        pixels = np.asarray(_upright(image)).astype(np.uint16)
        return pixels[..., 0::2] << 8 | pixels[..., 1::2], 65535
    # Pillow keeps the high byte; reading again in the other byte order gives the low byte.
    other, swapped = open_image(data), f"{channels};16{_SWAPPED[order]}"
    other.tile = [
        tile._replace(args=swapped if isinstance(tile.args, str) else (swapped, *tile.args[1:])) for tile in other.tile
    ]
    high, low = (np.asarray(_upright(each)) for each in (image, other))
    samples = high.astype(np.uint16)
    samples <<= 8
    samples |= low
    return samples, 65535


def _opaque(samples: np.ndarray, key: object) -> np.ndarray | None:
    """Return where samples [H, W, 1 or 3] differ from the transparent colour `key`; None if there is no such colour."""
    if not isinstance(key, (int, tuple)):
        return None
    return (samples != np.asarray(key)).any(axis=-1)


def _eight_bits(image: Image.Image, data: bytes) -> Image.Image:
    """Return the image upright, with samples rounded to 8 bits and a transparent colour turned into alpha."""
    from PIL import Image

    if image.mode == "F":
        raise CagcError("floating point pixels have no known range")
    key = image.info.get("transparency")
    if (deep := _deep_samples(image, data)) is None:
        return _upright(image)
    samples, top = deep
    if samples.min() < 0 or samples.max() > top:
        raise CagcError(f"got samples from {samples.min()} to {samples.max()}, expected 0 to {top}")
    opaque = _opaque(samples, key)
    scaled = np.rint(np.arange(top + 1) * 255 / top).astype(np.uint8)[samples]
    if opaque is not None:
        scaled = np.concatenate([scaled, np.where(opaque, 255, 0).astype(np.uint8)[..., None]], axis=-1)
    return Image.fromarray(scaled[..., 0] if scaled.shape[-1] == 1 else scaled)  # 2 channels are LA, 4 are RGBA


def to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """Convert an image from `open_image(data)` to 8-bit RGB: upright by EXIF, transparency composited over white.

    16-bit samples are rounded to 8 bits.

    Raises:
        CagcError: the pixels are floating-point, whose range is unknown, or integers beyond 16 bits. Damaged pixels may
            raise anything.
    """
    from PIL import Image

    with _budget.spend(image.width * image.height):
        image = _eight_bits(image, data)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image if image.mode == "RGB" else image.convert("RGB")


FORMS = {1: "grey", 3: "RGB", 4: "RGBA"}
"""Images of a data set by their number of channels."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def has_form(image: Image.Image, channels: int) -> bool:
    """Whether an image has just these channels of 8 bits: grey without alpha, RGB without transparency, or RGBA."""
    return image.mode == _MODES[channels] and (channels == 4 or not image.has_transparency_data)


def to_form(image: Image.Image, data: bytes, channels: int) -> Image.Image:
    """Convert an image from `open_image(data)` to 8 bits of 1, 3 or 4 channels, as `to_rgb` does for 3."""
    if channels == 3:
        return to_rgb(image, data)
    if channels == 1:
        return to_rgb(image, data).convert("L")
    with _budget.spend(image.width * image.height):
        return _eight_bits(image, data).convert("RGBA")


def read_mask(data: bytes) -> np.ndarray:
    """Return the content that an image file marks, boolean [H, W], upright.

    If any pixel is more than half transparent, alpha is the mask and colours are ignored. Otherwise content is what is
    brighter than mid-grey; in a file of zeros and ones, what is not zero; in a palette image, what is not black.

    Raises:
        CagcError: as `open_image`, or floating-point pixels hold NaN. Damaged pixels may raise anything.
    """
    with open_image(data) as image, _budget.spend(image.width * image.height):
        palette, wide, key = image.mode == "P", image.mode[0] in "IF", image.info.get("transparency")
        if wide:
            deep = _deep_samples(image, data)
            pixels = np.asarray(_upright(image)) if deep is None else deep[0][..., 0]
            alpha = _opaque(pixels[..., None], key)
        else:
            image = _eight_bits(image, data)
            alpha = None
            if image.has_transparency_data:
                image = image.convert("RGBA")
                alpha = np.asarray(image.getchannel("A")) > 127
            pixels = np.asarray(image.convert("L"))
        if alpha is not None and not alpha.all():
            return alpha
        if np.isnan(pixels).any():
            raise CagcError("got NaN among its pixels, expected numbers")
        largest = pixels.max()
        if largest <= 1:
            return pixels > (0.5 if pixels.dtype.kind == "f" else 0)
        return pixels > (0 if palette else 127 if largest <= 255 else 32767)
