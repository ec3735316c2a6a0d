"""Masks drawn by hand: what counts as content in every form of file, and files that are refused."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from cagc import content
from cagc.common.errors import CagcError
from cagc.data import files, images
from cagc.data.images import read_mask

from .image_forms import png, png_forms

CONTENT = np.zeros((16, 16), bool)
CONTENT[4:12, 3:10] = True


def saved(pixels, format="PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def tiff(pixels: np.ndarray) -> bytes:
    return saved(pixels.astype(np.float32), "TIFF")


def with_alpha(colours, alpha) -> bytes:
    colours = np.broadcast_to(colours, (16, 16, 3))
    return saved(np.concatenate([colours, np.broadcast_to(alpha, (16, 16))[..., None]], -1).astype(np.uint8))


def test_where_a_file_has_transparent_pixels_alpha_is_the_mask():
    checked = 0
    for name, data, _, alpha in png_forms():
        if (alpha < 0.5).any():
            np.testing.assert_array_equal(read_mask(data), alpha > 0.5, err_msg=name)
            checked += 1
    assert checked > 25


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (with_alpha(CONTENT[..., None] * 255, 255), CONTENT),
        (with_alpha(CONTENT[..., None] * 255, 200), CONTENT),
        (with_alpha(255, 0), CONTENT & False),
        (with_alpha(0, np.where(CONTENT, 140, 110)), CONTENT),
        (saved(np.stack([CONTENT * 255] * 2, -1).astype(np.uint8)), CONTENT),
        (saved(CONTENT.astype(np.uint16)), CONTENT),
        (saved(np.where(CONTENT, 200, 100).astype(np.uint16)), CONTENT),
        (saved(np.where(CONTENT, 33000, 32000).astype(np.uint16)), CONTENT),
        (png(CONTENT[..., None] * 3, 2, 0), CONTENT),
        (tiff(np.where(CONTENT, 0.6, 0.4)), CONTENT),
        (tiff(CONTENT * 255), CONTENT),
    ],
    ids=["opaque", "nearly opaque", "empty layer", "soft edge", "grey and alpha", "labels of 16 bits",
         "8 bits in 16", "16 bits", "2 bits", "float", "float of 255"],
)  # fmt: skip
def test_what_counts_as_content(data, expected):
    np.testing.assert_array_equal(read_mask(data), expected)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nquit\n"


def read_all(path):
    return content.load(path)(torch.zeros(1, 3, 8, 8), seeds=[7])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (EPS, "not an image"),
        (tiff(np.full((4, 4), np.nan)), "got NaN among its pixels"),
        (saved(np.zeros((70, 70), bool)), r"expected at most that many \(MAX_PIXELS\)"),
        (saved(np.zeros((50, 50, 3), np.uint8), "BMP"), r"expected at most 5,000 \(MAX_FILE_BYTES\)"),
        (saved(CONTENT)[:50], "truncated"),
    ],
    ids=["program", "nan", "pixels", "bytes", "torn"],
)
def test_a_mask_that_cannot_be_used_is_named(tmp_path, monkeypatch, data, message):
    monkeypatch.setattr(images, "MAX_PIXELS", 4096)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 5000)
    (tmp_path / "7.png").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "masks.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.write(tmp_path / "7.png", "7.png")
    for path in (tmp_path, tmp_path / "masks.zip"):
        with pytest.raises(CagcError, match=f"{path}: cannot read mask '7.png': .*{message}"):
            read_all(path)


def test_a_fifo_is_not_waited_for_and_a_long_number_is_no_seed(tmp_path):
    os.mkfifo(tmp_path / "7.png")
    for path, message in ((tmp_path, "'7.png': .* is a FIFO"), (tmp_path / "7.png", "7.png.* is a FIFO")):
        with pytest.raises(CagcError, match=message):
            read_all(path)
    with zipfile.ZipFile(tmp_path / "masks.zip", "w") as bundle:
        bundle.writestr("7" * 5000 + ".png", saved(CONTENT))
    with pytest.raises(CagcError, match="must be named by the seed of its image"):
        read_all(tmp_path / "masks.zip")


def test_masks_and_parsers_are_known_by_their_content(tmp_path):
    known = []
    for folder, value in (("a/masks", CONTENT), ("b/masks", CONTENT), ("c/masks", ~CONTENT)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "7.png").write_bytes(saved(value))
        known.append(content.load(tmp_path / folder).fingerprint)
    assert known[0] == known[1] != known[2] and known[0].startswith("masks:masks ")
    faces = content.load("faces")
    before = faces.fingerprint
    assert before == content.load("faces").fingerprint != content.load("faces", classes="face").fingerprint
    other = content.load("faces")
    next(other.net.parameters()).data.add_(1)
    assert other.fingerprint != before
