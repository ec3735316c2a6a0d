"""Draw faces at 256 px from the public generator in the registry package random-face, with known seeds and w.

Image i comes from `numpy.random.default_rng(i).standard_normal((1, 512))` → mapping → w → synthesis at 1024 px, and is
area-averaged to 256 px. Writes `images-NNNNN.zip` (`NNNNN.webp`, one archive for each 500 images) and skips existing
images, so that the same command resumes. Needs numpy, Pillow and openvino, but not cagc:

    pip download --no-deps random-face==2021.7.21.1
    python tools/faces256/draw_images.py --wheel random_face-2021.7.21.1-py3-none-any.whl --out drawn --count 9000
"""

from __future__ import annotations

import argparse
import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
from PIL import Image

SHARD = 500
DRAWN_SIZE = 1024


def load_networks(wheel: Path, threads: int) -> Callable[[int], np.ndarray]:
    """Return a function from a seed to an image [1024, 1024, 3], uint8, by the networks inside the wheel."""
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": threads})
    compiled = []
    with zipfile.ZipFile(wheel) as bundle:
        for name in ("MappingNetwork", "SynthesisNetwork"):
            xml, weights = (bundle.read(f"random_face/data/{name}.{end}") for end in ("xml", "bin"))
            model = core.read_model(xml, openvino.Tensor(np.frombuffer(weights, np.uint8)))
            compiled.append(core.compile_model(model, "CPU"))
    mapping, synthesis = compiled

    def draw(seed: int) -> np.ndarray:
        z = np.random.default_rng(seed).standard_normal((1, 512)).astype(np.float32)
        image = synthesis([mapping([z])[0]])[0][0]
        return (np.clip(image * 0.5 + 0.5, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)

    return draw


def encode(image: np.ndarray, size: int, quality: int) -> bytes:
    """Encode the image as WebP, area-averaged to ``size``."""
    out = io.BytesIO()
    Image.fromarray(image).reduce(DRAWN_SIZE // size).save(out, "WEBP", quality=quality, method=4)
    return out.getvalue()


def drawn_already(archive: Path) -> set[str]:
    if not archive.exists():
        return set()
    with zipfile.ZipFile(archive) as bundle:
        return set(bundle.namelist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--first", type=int, default=0, help="seed of the first image")
    parser.add_argument("--count", type=int, default=9000)
    parser.add_argument("--size", type=int, default=256, choices=[64, 128, 256, 512, 1024])
    parser.add_argument("--quality", type=int, default=92)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    draw = load_networks(args.wheel, args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    started, made, last = time.monotonic(), 0, args.first + args.count
    for start in range(args.first - args.first % SHARD, last, SHARD):
        archive = args.out / f"images-{start:05d}.zip"
        done = drawn_already(archive)
        for seed in range(max(start, args.first), min(start + SHARD, last)):
            name = f"{seed:05d}.webp"
            if name in done:
                continue
            data = encode(draw(seed), args.size, args.quality)
            # Opened for each image, so that an interrupted run leaves a valid archive.
            with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as bundle:
                bundle.writestr(name, data)
            made += 1
            if made % 50 == 0:
                print(f"image {seed}: {made} drawn, {(time.monotonic() - started) / made:.2f} s each", flush=True)


if __name__ == "__main__":
    main()
