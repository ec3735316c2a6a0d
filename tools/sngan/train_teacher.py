"""Train an SN-GAN from scratch on a folder or zip of images: hinge loss, five discriminator updates per step.

Writes a run folder (see `cagc.distill.distill`), which then holds `teacher.safetensors` with the averaged generator and
the discriminator. The published model is `--width 256 --discriminator-width 128 --config.steps 50000`.

    python tools/sngan/cifar_to_zip.py cifar-10-python.tar.gz cifar10.zip
    python tools/sngan/train_teacher.py --data cifar10.zip --out run
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro

from cagc.checkpoints import Checkpoint, load_discriminator, save_checkpoint
from cagc.common.console import one_line_errors
from cagc.data.dataset import ImageDataset
from cagc.distill import DistillConfig, distill
from cagc.models import SNGANConfig, SNGANDiscriminator, SNGANDiscriminatorConfig, SNGANGenerator
from cagc.recipes import RECIPES


def recipe() -> DistillConfig:
    """Return the recipe of SN-GAN without distillation losses."""
    return replace(RECIPES["sngan"].distillation, rgb_weight=0.0, perceptual_weight=0.0)


@dataclass
class Options:
    """Options of the command.

    Attributes:
        data: folder or zip of images; `cifar_to_zip.py` makes a zip from CIFAR-10's archive.
        convert_images: crop and convert images that are not square or not RGB, instead of refusing them.
        out: folder of the run.
        width: channels of every layer of the generator.
        discriminator_width: channels of every layer of the discriminator.
        z_dim: length of the latents.
        resolution: side of the images in pixels.
        resume: continue the run in `out`.
        overwrite: replace the run in `out`.
        device: device such as cpu or cuda.
        config: settings of the training.
    """

    data: Path
    out: Path
    convert_images: bool = False
    width: int = 256
    discriminator_width: int = 128
    z_dim: int = 128
    resolution: int = 32
    resume: bool = False
    overwrite: bool = False
    device: str = "cpu"
    config: DistillConfig = field(default_factory=recipe)


def train(options: Options) -> None:
    """Run the training."""
    data = ImageDataset(options.data, options.resolution, convert=options.convert_images)
    torch.manual_seed(options.config.seed)
    generator = SNGANGenerator(SNGANConfig.uniform(options.resolution, options.width, z_dim=options.z_dim))
    judge = SNGANDiscriminator(SNGANDiscriminatorConfig(options.resolution, options.discriminator_width))
    generator.to(options.device)
    # The generator takes the place of a teacher, which only defines the latents here: no loss compares with it.
    average = distill(
        generator, generator, judge.to(options.device), data, options.config, options.out,
        resume=options.resume, overwrite=options.overwrite,
    )  # fmt: skip
    discriminator = load_discriminator(options.out / "discriminator.safetensors")
    metadata = {"settings": options.config.to_dict(), "data": data.describe()}
    save_checkpoint(options.out / "teacher.safetensors", Checkpoint(average, d=discriminator, metadata=metadata))
    print(options.out / "teacher.safetensors")


if __name__ == "__main__":
    with one_line_errors():
        train(tyro.cli(Options, description=__doc__))
