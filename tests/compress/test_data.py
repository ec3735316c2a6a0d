"""Image sets: every kind of file that a folder or a zip can hold."""

import io
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cagc.common.errors import CagcError
from cagc.data import files, images
from cagc.data.dataset import ImageDataset, read_image
from cagc.data.images import open_image, to_rgb

from .image_forms import png_forms, tiff_forms, write_set


def gradient(width=24, height=24):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], -1).astype(np.uint8)


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


def check_form(name, data, colours, alpha):
    """Compare with numpy: exact, but for soft alpha of 16-bit colours, which are rounded before and after blending."""
    expected = np.rint(255 * (colours * alpha[..., None] + 1 - alpha[..., None]))
    found = np.asarray(to_rgb(open_image(data), data)).astype(float)
    exact = set(np.unique(alpha)) <= {0, 1} or "16" not in name
    assert np.abs(found - expected).max() <= (0 if exact else 1), name


def test_every_form_of_png_and_tiff_shows_its_samples():
    forms = list(png_forms())
    assert len(forms) > 40
    for form in forms:
        check_form(*form)
    pytest.importorskip("tifffile", reason="tifffile is not installed")
    for form in tiff_forms():
        check_form(*form)


def test_pixels_without_a_known_range_are_refused():
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    planes = np.zeros((3, 8, 8), np.uint16)
    for pixels, options, message in (
        (np.zeros((8, 8), np.float32), {}, "floating point"),
        (np.full((8, 8), 70000, np.uint32), {}, "from 70000 to 70000, expected 0 to 65535"),
        (planes, {"photometric": "rgb", "planarconfig": "separate"}, "in uncompressed planes"),
    ):
        stream = io.BytesIO()
        tifffile.imwrite(stream, pixels, **options)
        with pytest.raises(CagcError, match=message):
            to_rgb(open_image(stream.getvalue()), stream.getvalue())


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
    assert from_zip.describe() == "set.zip: 3 images at 8 px, 3 converted (16 x 16 px, resized to 8 px)"
    assert ImageDataset(folder, 16).describe() == "images: 3 images at 16 px"
    late = ImageDataset(folder, 8, cache_bytes=0)
    assert late.changed == from_zip.changed and not late.is_cached


def test_one_place_opens_images():
    root = Path(__file__).resolve().parents[2]
    paths = [path for folder in ("cagc", "tools", "benchmarks") for path in (root / folder).rglob("*.py")]
    assert [path.name for path in paths if "Image.open(" in path.read_text()] == ["images.py"]


def test_a_program_behind_an_image_suffix_is_not_run(tmp_path):
    write_set(tmp_path, 1)
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nquit\n")
    with pytest.warns(UserWarning, match=r"a\.png \(not an image\)"):
        assert len(ImageDataset(tmp_path, 8)) == 1


def test_images_beyond_the_limits_are_named_and_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 4000)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 9000)
    write_set(tmp_path, 2)
    Image.new("RGB", (64, 63)).save(tmp_path / "many.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(tmp_path / "long.bmp")
    with pytest.warns(UserWarning, match="MAX_PIXELS") as seen:
        assert len(ImageDataset(tmp_path, 8)) == 2
    assert "got 10,854 bytes, expected at most 9,000 (MAX_FILE_BYTES)" in str(seen[0].message)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    write_set(tmp_path, 1)
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    with pytest.warns(UserWarning, match="b.png is a FIFO.*c.png is a device"):
        assert len(ImageDataset(tmp_path, 8)) == 1
    for read in (lambda path: ImageDataset(path, 8), lambda path: read_image(path, 8)):
        with pytest.raises(CagcError, match="is a FIFO, expected a file"):
            read(tmp_path / "b.png")


def test_names_of_any_bytes_are_shown_on_one_line(tmp_path):
    folder = write_set(tmp_path / os.fsdecode(b"set \xff"), 1)
    (folder / os.fsdecode(b"a\n[red]\xff.png")).write_bytes(b"broken")
    with pytest.warns(UserWarning) as seen:
        data = ImageDataset(folder, 8)
    text = str(seen[0].message)
    assert r"a\n[red]" in text and "\n" not in text and text.encode() and data.describe().encode()


def test_a_small_zip_cannot_unpack_to_any_size(tmp_path, monkeypatch):
    (tmp_path / "set.zip").write_bytes(zip_of(np.zeros((2, 99, 99, 3), np.uint8), compression=zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(files, "_SMALL_ZIP_BYTES", 100)
    monkeypatch.setattr(files, "MAX_EXPANSION", 1e-3)
    with pytest.raises(CagcError, match=r"set.zip: got images of .* bytes in .*MAX_EXPANSION"):
        ImageDataset(tmp_path / "set.zip", 8)


def zip_of(images, **options):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        for i, pixels in enumerate(images):
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "PNG")
            archive.writestr(f"{i:03d}.png", png.getvalue())
    return bytearray(stream.getvalue())


def test_entries_of_a_zip_that_cannot_be_unpacked_are_skipped(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    whole = zip_of(noise, compression=zipfile.ZIP_DEFLATED)
    directory = whole.index(b"PK\x01\x02")
    for change, message in (
        ({40: 0xFF, 41: 0xFF, 42: 0xFF}, "000.png"),  # the deflated bytes
        ({directory + 10: 99}, "compression method 99, expected 0"),
        ({directory + 8: 1}, "encrypted"),
    ):
        damaged = bytearray(whole)
        for place, value in change.items():
            damaged[place] = value
        (tmp_path / "set.zip").write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"skipped 1 of 3 .*{message}"):
            assert len(ImageDataset(tmp_path / "set.zip", 16)) == 2
    (tmp_path / "set.zip").write_bytes(zip_of(noise, compression=zipfile.ZIP_LZMA))
    with pytest.raises(CagcError, match="compression method 14"):
        ImageDataset(tmp_path / "set.zip", 16)
    overlapping, second = bytearray(whole), whole.index(b"PK\x01\x02", directory + 4)
    overlapping[second + 20 : second + 24] = len(whole).to_bytes(4, "little")
    newer = bytearray(whole)
    newer[directory + 6] = 99
    for damaged, message in (
        (overlapping, "overlap"),
        (newer, "zip file version 9.9"),
        (whole[:-30], "not a zip"),
        (b"\x1f\x8b zipped", "by gzip.*expected a folder or a zip"),
    ):
        (tmp_path / "set.zip").write_bytes(damaged)
        with pytest.raises(CagcError, match=message) as error:
            ImageDataset(tmp_path / "set.zip", 16)
        assert "set.zip" in str(error.value)


def test_workers_that_share_a_zip_read_the_images_of_their_indices(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (120, 24, 24, 3), dtype=np.uint8)
    (tmp_path / "set.zip").write_bytes(zip_of(noise))
    data = ImageDataset(tmp_path / "set.zip", 24, cache_bytes=0)
    right = torch.stack(list(data))
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        assert torch.equal(torch.cat(list(loader)), right)
    assert torch.equal(torch.stack(list(pickle.loads(pickle.dumps(data)))), right)  # as spawn sends it


def test_a_set_is_known_by_its_content(tmp_path):
    first = write_set(tmp_path / "a", 3)
    known = ImageDataset(first, 8).fingerprint()
    shutil.copytree(first, tmp_path / "b")
    os.utime(tmp_path / "b" / "000.png", (0, 0))
    assert ImageDataset(tmp_path / "b", 8).fingerprint() == known != ImageDataset(first, 16).fingerprint()
    shutil.copy2(first / "001.png", tmp_path / "b" / "002.png")
    assert ImageDataset(tmp_path / "b", 8).fingerprint() != known


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
