"""Train a small generator against recorded images whose w is known, with a discriminator on the same images.

The embedded teacher of `cagc/assets/faces64` was trained with it: first with `--config.gan-weight 0`, then from that
result with a small GAN weight. Writes a run folder (see `cagc.distill.distill`), which then holds
`teacher.safetensors` with the averaged generator and the discriminator in float16.

    python tools/faces64/train_teacher.py --images a.zip b.zip --latents latents.npz --init start.pt --out run
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro

from cagc.checkpoints import Checkpoint, load_checkpoint, load_discriminator, save_checkpoint
from cagc.common.console import one_line_errors
from cagc.common.errors import CagcError
from cagc.distill import DistillConfig, ImageDataset, RecordedTeacher, distill


def recipe() -> DistillConfig:
    """Return settings that suit a small teacher better than those for distilling a student."""
    return DistillConfig(
        steps=5000,
        batch_size=32,
        learning_rate=0.0025,
        lr_schedule="cosine",
        gan_weight=0.1,
        gan_delay=200,
        gan_ramp=500,
        r1_gamma=0.5,
        path_weight=0.0,
        perceptual_size=128,
        frozen=("mapping.*",),
        flip=False,
        checkpoint_every=250,
        sample_every=250,
    )


@dataclass
class Options:
    """Options of the command.

    Attributes:
        images: zips or folders of images named by number, such as 00017.webp.
        latents: .npz with `w` [n, style_dim]; row i - `first` (an entry, 0 if absent) belongs to image i.
        init: initial checkpoint: the generator, whose mapping network made the w, and its discriminator if any.
        out: folder of the run.
        discriminator: another checkpoint to take the discriminator from.
        without_noise: fix every noise strength to zero, because the recorded images contain no noise of ours.
        held_out: number of images, the last ones, that are used for measuring and not for training.
        resume: continue the run in `out`.
        overwrite: replace the run in `out`.
        threads: number of PyTorch's threads; 0 for its default.
        device: device such as cpu or cuda.
        config: settings of the training.
    """

    images: list[Path]
    latents: Path
    init: Path
    out: Path
    discriminator: Path | None = None
    without_noise: bool = False
    held_out: int = 200
    resume: bool = False
    overwrite: bool = False
    threads: int = 0
    device: str = "cpu"
    config: DistillConfig = field(default_factory=recipe)


def read_recorded(images: list[Path], latents: Path, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return w [n, style_dim] float32 and images [n, 3, R, R] uint8, in the order of the image numbers."""
    try:
        with np.load(latents) as arrays:
            w, first = arrays["w"], int(arrays["first"]) if "first" in arrays else 0
    except (OSError, KeyError, ValueError) as error:
        raise CagcError(f"latents: {latents} is no .npz with an array 'w': {error}") from error
    rows, parts = [], []
    for path in images:
        data = ImageDataset(path, resolution)
        numbers = [int(Path(name).stem) - first if Path(name).stem.isdecimal() else -1 for name in data.names]
        if not all(0 <= number < len(w) for number in numbers):
            raise CagcError(f"images: {path} has names that are no number of a row of {latents}")
        rows += numbers
        parts += [data.batch([i]).add(1).mul(127.5).round().to(torch.uint8) for i in range(len(data))]
    order = np.argsort(rows)
    return torch.from_numpy(w[np.array(rows)[order]]).float(), torch.cat(parts)[torch.from_numpy(order)]


def train(options: Options) -> None:
    """Run the training and print the error on held-out images."""
    if options.threads:
        torch.set_num_threads(options.threads)
    start = load_checkpoint(options.init, options.device)
    generator = start.g_ema or start.g
    if generator is None:
        raise CagcError(f"init: {options.init} holds no generator")
    discriminator = load_discriminator(options.discriminator, options.device) if options.discriminator else start.d
    config = options.config
    if options.without_noise:
        for name, parameter in generator.named_parameters():
            if name.endswith(".noise_strength"):
                parameter.zero_()
        config = DistillConfig.from_dict(
            config.to_dict() | {"noise": "none", "frozen": [*config.frozen, "*.noise_strength"]}
        )
    ws, images = read_recorded(options.images, options.latents, generator.config.resolution)
    if not 0 < options.held_out < len(ws):
        raise CagcError(f"held_out: got {options.held_out}, expected 1 to {len(ws) - 1}")
    seen, unseen = slice(0, len(ws) - options.held_out), slice(len(ws) - options.held_out, None)
    teacher = RecordedTeacher(ws[seen], images[seen], options.device)
    average = distill(
        generator,
        teacher,
        discriminator,
        teacher,
        config,
        options.out,
        resume=options.resume,
        overwrite=options.overwrite,
    )
    path = options.out / "discriminator.safetensors"
    trained = load_discriminator(path) if config.gan_weight and path.exists() else discriminator
    metadata = {"settings": config.to_dict(), "recorded": teacher.fingerprint}
    save_checkpoint(
        options.out / "teacher.safetensors", Checkpoint(average, d=trained, metadata=metadata), torch.float16
    )
    unseen_l1 = held_out_l1(average, RecordedTeacher(ws[unseen], images[unseen], options.device))
    print(f"held-out L1 {unseen_l1:.4f} on {options.held_out} images; wrote {options.out / 'teacher.safetensors'}")


@torch.no_grad()
def held_out_l1(generator: torch.nn.Module, recorded: RecordedTeacher) -> float:
    """Return the mean absolute error on held-out images in [-1, 1], without noise."""
    total = 0.0
    for rows in torch.arange(len(recorded)).split(50):
        ws = recorded.recorded_ws[rows].to(recorded.device)[:, None].expand(-1, generator.config.num_ws, -1)
        total += (generator.synthesis(ws, "none") - recorded.batch(rows)).abs().mean().item() * len(rows)
    return total / len(recorded)


if __name__ == "__main__":
    with one_line_errors():
        train(tyro.cli(Options, description=__doc__))
