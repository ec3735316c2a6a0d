"""Shrink image archives to the embedded face set: a zip of square WebP files that keep their original names.

    python tools/faces64/make_images.py --images images-*.zip --out images.zip --size 64 --count 2700 --quality 82

Images are taken at even steps over the sorted names; equal inputs give equal bytes.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

from PIL import Image

from cagc.common.files import atomic_write
from cagc.data.images import open_image, to_rgb

# Zip entries carry a date; a fixed one keeps the archive reproducible.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def list_images(archives: list[Path]) -> list[tuple[str, Path]]:
    entries = []
    for archive in archives:
        with zipfile.ZipFile(archive) as bundle:
            entries += [(name, archive) for name in bundle.namelist() if name.endswith(".webp")]
    return sorted(entries)


def shrink(data: bytes, size: int, quality: int) -> bytes:
    image = to_rgb(open_image(data), data).resize((size, size), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=quality, method=6)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--count", type=int, default=2700)
    parser.add_argument("--quality", type=int, default=82)
    args = parser.parse_args()
    entries = list_images(args.images)
    if not 0 < args.count <= len(entries):
        parser.error(f"--count {args.count}: the archives hold {len(entries)} images")
    chosen = [entries[i * len(entries) // args.count] for i in range(args.count)]
    archives = {path: zipfile.ZipFile(path) for path in args.images}
    with atomic_write(args.out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as bundle:
        for name, path in chosen:
            data = shrink(archives[path].read(name), args.size, args.quality)
            bundle.writestr(zipfile.ZipInfo(Path(name).name, ZIP_DATE), data)
    for archive in archives.values():
        archive.close()
    print(f"{args.out}: {len(chosen)} images, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
