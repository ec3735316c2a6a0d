"""Train the embedded face parser and write it as safetensors.

    python tools/faces64/train_parser.py --images images-*.zip --labels latents_labels.npz --out parser.safetensors

`--images`: zips of NNNNN.webp. `--labels`: an npz with `labels` [n, H, W] uint8 (0 background, 1 person, 2 face), row i
for image i, and optionally `face_found` [n] bool. The last `--held-out` images are not trained on; the IoU is theirs.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cagc.common.files import atomic_write
from cagc.data.images import open_image, to_rgb
from cagc.models.face_parser import CLASSES, WIDTHS, WORKING_RESOLUTION, FaceParser, label_pixels


def load_images(archives: list[Path], size: int) -> dict[int, np.ndarray]:
    images = {}
    for archive in archives:
        with zipfile.ZipFile(archive) as bundle:
            for name in bundle.namelist():
                data = bundle.read(name)
                image = to_rgb(open_image(data), data)
                if image.size != (size, size):
                    image = image.resize((size, size), Image.Resampling.BOX)
                images[int(Path(name).stem)] = np.asarray(image)
    return images


def load_data(archives: list[Path], labels_path: Path) -> tuple[Tensor, Tensor]:
    """Return uint8 images [n, 3, H, W] and labels [n, H, W] of the images whose face was found, in index order."""
    with np.load(labels_path) as table:
        labels = table["labels"]
        found = table["face_found"] if "face_found" in table.files else np.ones(len(labels), bool)
    by_index = load_images(archives, labels.shape[-1])
    rows = [i for i in sorted(by_index) if i < len(labels) and found[i]]
    images = np.stack([by_index[i] for i in rows]).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels[rows])


def to_float(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each sample [C, H, W] by its own standard deviation `sigma` [N], in pixels."""
    radius = max(1, math.ceil(2.5 * float(sigma.max())))
    x = torch.arange(-radius, radius + 1, dtype=images.dtype)
    taps = torch.exp(-0.5 * (x / sigma.clamp_min(1e-3)[:, None]) ** 2)
    taps = taps / taps.sum(1, keepdim=True)
    n, c, h, w = images.shape
    padded = F.pad(images, [radius] * 4, mode="reflect").reshape(1, n * c, h + 2 * radius, w + 2 * radius)
    taps = taps.repeat_interleave(c, 0)
    rows = F.conv2d(padded, taps[:, None, :, None], groups=n * c)
    return F.conv2d(rows, taps[:, None, None, :], groups=n * c).reshape(n, c, h, w)


def random_affine(n: int, rng: torch.Generator) -> Tensor:
    """Draw affine matrices [N, 2, 3]: rotation ±12°, scale 0.8-1.25, shift ±12 % of the side, half mirrored."""
    u = torch.rand(n, 5, generator=rng) * 2 - 1
    angle, scale = u[:, 0] * math.radians(12), torch.exp(u[:, 1] * math.log(1.25))
    mirror = torch.sign(u[:, 4])
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    return torch.stack([cos * mirror, -sin, u[:, 2] * 0.24, sin * mirror, cos, u[:, 3] * 0.24], 1).view(n, 2, 3)


def augment(images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augment float images [N, 3, R, R] and labels [N, H, W]: one affine map for both, then tone, blur and noise."""
    n = len(images)
    theta = random_affine(n, rng)
    images = F.grid_sample(
        images,
        F.affine_grid(theta, images.shape, align_corners=False),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    grid = F.affine_grid(theta, (n, 1, *labels.shape[1:]), align_corners=False)
    labels = F.grid_sample(
        labels[:, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False
    )
    u = torch.rand(n, 8, 1, 1, 1, generator=rng)
    channel_gain = 1 + 0.15 * (torch.rand(n, 3, 1, 1, generator=rng) * 2 - 1)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (0.3 + 1.2 * u[:, 0])
    images = images * (0.6 + 0.7 * u[:, 1]) * channel_gain + 0.4 * (u[:, 2] - 0.5)
    # Generated images are often soft, so half of the samples are blurred, up to sigma 1.8 px at 64 px.
    sigma = 1.8 * u[:, 3, 0, 0, 0] * (u[:, 4, 0, 0, 0] < 0.5)
    images = gaussian_blur(images, sigma)
    noise = torch.randn(images.shape, generator=rng) * 0.15 * u[:, 5] * (u[:, 6] < 0.5)
    return (images + noise).clamp(-1, 1), labels[:, 0].long()


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    pairs = labels.flatten().long() * classes + predicted.flatten()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


@torch.inference_mode()
def iou(model: FaceParser, images: Tensor, labels: Tensor, blur: float = 0.0) -> dict[str, float]:
    """Return per-class and mean intersection over union, with labels at the input's resolution."""
    classes = len(CLASSES)
    table = torch.zeros(classes, classes, dtype=torch.int64)
    for x, y in zip(images.split(100), labels.split(100)):
        x = to_float(x)
        if blur:
            x = gaussian_blur(x, torch.full((len(x),), blur))
        if y.shape[-1] != x.shape[-1]:
            y = F.interpolate(y[:, None].float(), size=x.shape[-2:], mode="nearest-exact")[:, 0]
        table += confusion(label_pixels(model, x), y, classes)
    inter = table.diagonal().double()
    values = inter / (table.sum(0) + table.sum(1) - inter)
    result = {name: round(float(v), 4) for name, v in zip(CLASSES, values)}
    content = table[1:, 1:].sum() / (table.sum() - table[0, 0])
    return {**result, "mean": round(float(values.mean()), 4), "person_or_face": round(float(content), 4)}


def halve(images: Tensor, resolution: int) -> Tensor:
    return F.interpolate(images.float(), size=(resolution, resolution), mode="area").round().to(torch.uint8)


def evaluate(model: FaceParser, images: Tensor, labels: Tensor) -> dict[str, dict[str, float]]:
    small = halve(images, WORKING_RESOLUTION)
    full = images.shape[-1]
    return {
        f"{WORKING_RESOLUTION}px": iou(model, small, labels),
        f"{full}px": iou(model, images, labels),
        f"{WORKING_RESOLUTION}px blurred, sigma 1 px": iou(model, small, labels, blur=1.0),
        f"{full}px blurred, sigma 2 px": iou(model, images, labels, blur=2.0),
    }


def fold(trained: FaceParser) -> FaceParser:
    """Return the same network without batch normalisation, folded into the convolutions before it."""
    plain = FaceParser(trained.widths)
    for target, source in zip([*plain.down, *plain.up], [*trained.down, *trained.up]):
        convs = [fuse_conv_bn_eval(source[i].eval(), source[i + 1].eval()) for i in (0, 3)]
        for index, conv in zip((0, 2), convs):
            target[index].load_state_dict(conv.state_dict())
    plain.head.load_state_dict(trained.head.state_dict())
    return plain.eval()


def train(images: Tensor, labels: Tensor, args: argparse.Namespace) -> FaceParser:
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    model = FaceParser(batch_norm=True).to(memory_format=torch.channels_last)
    steps = args.epochs * (len(images) // args.batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=steps, pct_start=0.1)
    class_weights = torch.tensor([1.0, 1.0, 1.3])
    started, step = time.time(), 0
    for epoch in range(args.epochs):
        total = 0.0
        for rows in torch.randperm(len(images), generator=rng).split(args.batch):
            if len(rows) < args.batch:
                continue
            x, y = augment(to_float(images[rows]), labels[rows], rng)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
                logits = model(x.contiguous(memory_format=torch.channels_last))
            # Labels are finer than the working resolution, so the loss uses enlarged logits, as inference does.
            logits = F.interpolate(logits.float(), size=y.shape[-2:], mode="bilinear", align_corners=False)
            loss = F.cross_entropy(logits, y, class_weights, label_smoothing=0.02)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            step, total = step + 1, total + loss.item()
        print(
            f"epoch {epoch + 1}/{args.epochs} step {step} loss {total / (len(images) // args.batch):.4f} "
            f"{time.time() - started:.0f} s",
            flush=True,
        )
    return fold(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true", help="bfloat16 autocast; twice as fast if native")
    args = parser.parse_args()
    if not args.out.parent.is_dir():
        parser.error(f"--out {args.out}: no such folder")
    images, labels = load_data(args.images, args.labels)
    held_images, held_labels = images[-args.held_out :], labels[-args.held_out :]
    train_images = halve(images[: -args.held_out], WORKING_RESOLUTION)
    print(f"{len(train_images)} images to train on, {len(held_images)} held out", flush=True)
    model = train(train_images, labels[: -args.held_out], args)
    model = model.half().float()
    scores = evaluate(model, held_images, held_labels)
    print(json.dumps(scores, indent=1), flush=True)
    facts = {
        "images": len(train_images),
        "held_out": len(held_images),
        "epochs": args.epochs,
        "batch": args.batch,
        "lr": args.lr,
        "seed": args.seed,
        "bfloat16": args.bfloat16,
        "label_resolution": labels.shape[-1],
    }
    metadata = {
        "format": "cagc-face-parser",
        "classes": json.dumps(CLASSES),
        "widths": json.dumps(WIDTHS),
        "resolution": str(WORKING_RESOLUTION),
        "training": json.dumps(facts),
        "iou": json.dumps(scores),
    }
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    with atomic_write(args.out) as temporary:
        save_file(weights, temporary, metadata)
    print(f"{args.out}: {args.out.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
