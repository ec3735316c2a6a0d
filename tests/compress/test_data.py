"""Image sets: every kind of file a folder can hold, and an order that can be replayed."""

import io
import re
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from cagc.distill.data import ImageDataset, ImageStream, read_image
from cagc.errors import CagcError


def gradient(width=24, height=24):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], -1).astype(np.uint8)


def write_set(folder, count, size=16):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{i:03d}.png")
    return folder


def uint8(image):
    return ((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_pixels_of_an_image_of_the_right_size_are_exact(tmp_path):
    pixels = gradient()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (image,) = ImageDataset(tmp_path, 24)
    assert image.dtype == torch.float32 and image.shape == (3, 24, 24)
    np.testing.assert_array_equal(uint8(image), pixels)


@pytest.mark.parametrize("width, height", [(48, 24), (24, 41), (25, 24)])
def test_crop_is_central_and_square(tmp_path, width, height):
    pixels = gradient(width, height)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    left, top = (width - 24) // 2, (height - 24) // 2
    data = ImageDataset(tmp_path, 24, convert=True)
    np.testing.assert_array_equal(uint8(data[0]), pixels[top : top + 24, left : left + 24])
    assert data.changed == {"a.png": f"{width} x {height} px, centre-cropped"}


def test_reduction_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    inner = ImageDataset(tmp_path, 16)[0][:, 2:-2, 2:-2]
    assert inner.abs().max() < 0.05  # a plain subsampling would give -1 or 1


DEEP = np.arange(256, dtype=np.uint16) * 256 + 200  # below, at and above the middle between two of 8 bits


def save_modes(folder):
    """Files that all show the red left half and blue right half, or their grey equivalents, in many encodings."""
    base = np.zeros((16, 16, 3), np.uint8)
    base[:, :8, 0], base[:, 8:, 2] = 255, 255
    image = Image.fromarray(base)
    image.save(folder / "rgb.bmp")
    image.convert("CMYK").save(folder / "cmyk.tif")
    image.quantize(4).save(folder / "palette.png")
    alpha = np.full((16, 16), 255, np.uint8)
    alpha[:4] = 0
    image.putalpha(Image.fromarray(alpha))
    image.save(folder / "alpha.png")
    turned = Image.fromarray(np.rot90(base, k=1).copy())  # stored turned left, with the tag that turns it right
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "exif.png", exif=exif)
    ramp = DEEP.reshape(16, 16)
    Image.fromarray(ramp).save(folder / "deep.png")
    Image.fromarray((ramp >> 8).astype(np.uint8)).save(folder / "grey.png")
    Image.fromarray(ramp > 32767).save(folder / "bilevel.png")
    return base


FORMS = {
    "wide": (Image.new("RGB", (24, 18)), "24 x 18 px, RGB"),
    "grey": (Image.new("L", (18, 18)), "18 x 18 px, L"),
    "alpha": (Image.new("RGBA", (18, 18)), "18 x 18 px, RGBA"),
    "palette": (Image.new("P", (18, 18)), "18 x 18 px, P"),
    "cmyk": (Image.new("CMYK", (20, 18)), "20 x 18 px, CMYK"),
}


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["cached", "on demand"])
@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_is_not_square_rgb_is_refused(tmp_path, form, cache_bytes):
    write_set(tmp_path, 3)
    image, shown = FORMS[form]
    image.save(tmp_path / "001.tif")
    expected = f"data: 001.tif in {tmp_path}: {shown}; expected a square RGB image (--convert-images"
    with pytest.raises(CagcError, match=re.escape(expected)):
        ImageDataset(tmp_path, 16, cache_bytes=cache_bytes)
    with pytest.raises(CagcError, match=re.escape(f"001.tif: {shown}; expected a square RGB image")):
        read_image(tmp_path / "001.tif", 16)
    assert len(ImageDataset(tmp_path, 16, cache_bytes=cache_bytes, convert=True)) == 4


def test_rgb_with_a_transparent_colour_is_refused(tmp_path):
    Image.new("RGB", (18, 18)).save(tmp_path / "a.png", transparency=(0, 0, 0))
    with pytest.raises(CagcError, match="18 x 18 px, RGB with transparency"):
        ImageDataset(tmp_path, 16)


def test_every_mode_becomes_rgb(tmp_path):
    base = save_modes(tmp_path)
    data = ImageDataset(tmp_path, 16, convert=True)
    assert not data.skipped
    images = {name: uint8(data[i]) for i, name in enumerate(data.names)}
    for name in ("rgb.bmp", "cmyk.tif", "palette.png", "exif.png"):
        np.testing.assert_array_equal(images[name], base, err_msg=name)
    np.testing.assert_array_equal(images["alpha.png"][4:], base[4:])
    assert (images["alpha.png"][:4] == 255).all()
    ramp = DEEP.reshape(16, 16)
    np.testing.assert_array_equal(images["deep.png"], np.repeat(np.rint(ramp / 257).astype(np.uint8)[..., None], 3, -1))
    np.testing.assert_array_equal(images["grey.png"][..., 1], (ramp >> 8).astype(np.uint8))
    assert set(np.unique(images["bilevel.png"])) == {0, 255}


def truncated_png():
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()[:1500]


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["cached", "on demand"])
def test_broken_files_are_named_skipped_and_counted(tmp_path, cache_bytes):
    write_set(tmp_path, 3)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing more")
    (tmp_path / "cut.png").write_bytes(truncated_png())
    (tmp_path / "notes.txt").write_text("not meant to be an image")
    with pytest.warns(UserWarning, match="skipped") as seen:
        data = ImageDataset(tmp_path, 8, cache_bytes=cache_bytes)
        images = [data[i] for i in range(len(data))]
    assert set(data.skipped) == {"broken.png", "cut.png"}
    text = " ".join(str(w.message) for w in seen)
    assert "broken.png" in text and "cut.png" in text and "notes.txt" not in text
    assert all(image.isfinite().all() for image in images)
    good = {uint8(image).tobytes() for image in images}
    assert len(good) == 3


def test_cached_and_on_demand_agree(tmp_path):
    write_set(tmp_path, 4, size=21)
    cached, lazy = ImageDataset(tmp_path, 8), ImageDataset(tmp_path, 8, cache_bytes=0)
    assert torch.equal(cached.batch([3, 0, -1]), lazy.batch([3, 0, -1]))
    with pytest.raises(IndexError, match="4"):
        cached.batch([4])


def test_zip_equals_folder_and_ignores_junk(tmp_path):
    folder = write_set(tmp_path / "images" / "deep", 3).parent
    (folder / ".hidden.png").write_bytes(b"junk")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._000.png").write_bytes(b"junk")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.mkdir("empty.png")
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    from_folder, from_zip = ImageDataset(folder, 8), ImageDataset(tmp_path / "set.zip", 8)
    assert from_zip.names == from_folder.names == [f"deep/{i:03d}.png" for i in range(3)]
    assert not from_zip.skipped
    assert torch.equal(from_zip.batch(range(3)), from_folder.batch(range(3)))
    assert from_zip.describe() == "set.zip: 3 images at 8 px"


def test_a_program_behind_an_image_suffix_is_not_run(tmp_path):
    write_set(tmp_path, 1)
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nquit\n")
    with pytest.warns(UserWarning, match=r"a\.png \(not an image\)"):
        assert len(ImageDataset(tmp_path, 8)) == 1


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "does not exist"),
        ({}, "holds no image"),
        ({"readme.txt": b"hello"}, "holds no image"),
        ({"a.png": b"broken", "b.jpg": b""}, "none of the 2 images.*a.png.*b.jpg"),
    ],
)
def test_nothing_usable_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "data"
    if content is not None:
        path.mkdir()
        for name, data in content.items():
            (path / name).write_bytes(data)
    with pytest.raises(CagcError, match=message):
        ImageDataset(path, 8)


def test_a_file_that_is_no_zip_is_an_error(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"PK but not really")
    with pytest.raises(CagcError, match="zip"):
        ImageDataset(tmp_path / "set.zip", 8)
    with pytest.raises(ValueError, match="resolution"):
        ImageDataset(tmp_path, 0)


def take(stream, count):
    return [next(stream) for _ in range(count)]


def test_stream_repeats_with_its_seed_and_changes_with_another(tmp_path):
    data = ImageDataset(write_set(tmp_path, 7), 8)
    first, again, other = (take(ImageStream(data, 3, seed), 6) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not all(torch.equal(a, b) for a, b in zip(first, other))


def test_every_epoch_shows_every_image_once_in_another_order(tmp_path):
    data = ImageDataset(write_set(tmp_path, 6), 8)
    images = torch.cat(take(ImageStream(data, 2, seed=1, flip=False), 6))
    key = {data[i].numpy().tobytes(): i for i in range(6)}
    order = [key[image.numpy().tobytes()] for image in images]
    assert sorted(order[:6]) == sorted(order[6:]) == list(range(6))
    assert order[:6] != order[6:]


def test_about_half_of_the_images_are_mirrored(tmp_path):
    data = ImageDataset(write_set(tmp_path, 10), 8)
    plain = torch.cat(take(ImageStream(data, 10, seed=3, flip=False), 40))
    flipped = torch.cat(take(ImageStream(data, 10, seed=3), 40))
    same = (plain == flipped).flatten(1).all(1)
    mirrored = (plain.flip(3) == flipped).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 160 < mirrored.sum() < 240


@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_position_survives_a_restart_exactly(tmp_path, stop):
    data = ImageDataset(write_set(tmp_path, 7), 8)
    stream = ImageStream(data, 3, seed=2)
    take(stream, stop)
    state = stream.state_dict()
    ahead = take(stream, 5)
    restored = ImageStream(ImageDataset(tmp_path, 8), 3, seed=2)
    restored.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(ahead, take(restored, 5)))


def test_position_of_another_run_is_refused(tmp_path):
    data = ImageDataset(write_set(tmp_path, 4), 8)
    state = ImageStream(data, 2, seed=1).state_dict()
    for stream, key in ((ImageStream(data, 2, seed=2), "seed"), (ImageStream(data, 2, seed=1, flip=False), "flip")):
        with pytest.raises(CagcError, match=key):
            stream.load_state_dict(state)
    with pytest.raises(CagcError, match="images"):
        ImageStream(data, 2, seed=1).load_state_dict(state | {"images": 5})
    with pytest.raises(CagcError, match="position"):
        ImageStream(data, 2, seed=1).load_state_dict({"seed": 1})


def test_a_set_smaller_than_the_batch_is_refused(tmp_path):
    data = ImageDataset(write_set(tmp_path, 3), 8)
    with pytest.raises(CagcError, match="3 usable images are fewer than the batch of 4"):
        ImageStream(data, 4)
    with pytest.raises(ValueError, match="batch"):
        ImageStream(data, 0)


def test_good_sets_give_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(ImageStream(ImageDataset(write_set(tmp_path, 2), 8), 2))


def test_images_decoded_ahead_come_in_the_same_order(tmp_path):
    write_set(tmp_path, 7)
    kept, late = ImageDataset(tmp_path, 8), ImageDataset(tmp_path, 8, cache_bytes=0)
    assert kept.is_cached and not late.is_cached
    expected = take(ImageStream(kept, 3, seed=2), 8)
    stream = ImageStream(late, 3, seed=2)
    for batch in expected[:3]:
        assert torch.equal(next(stream), batch)
    restored = ImageStream(late, 3, seed=2)
    next(restored)
    restored.load_state_dict(stream.state_dict())
    for batch in expected[3:]:
        assert torch.equal(next(restored), batch)
