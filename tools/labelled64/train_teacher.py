"""Train a labelled teacher further against its labelled images, with a class-conditional discriminator.

    python tools/labelled64/train_teacher.py --teacher labelled/teacher.safetensors --data labelled/images.zip \
        --discriminator unlabelled.safetensors --out trained

The discriminator is that of an unlabelled teacher with one logit a label, which start equal. The distance to the given
teacher's images stays a part of the loss. Nothing is flipped: a flipped face would have the other label.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro

from cagc.checkpoints import Checkpoint, load_discriminator, load_generator, save_checkpoint
from cagc.common.console import one_line_errors
from cagc.common.errors import CagcError
from cagc.data.dataset import ImageDataset
from cagc.distill import DistillConfig, distill
from cagc.models import Discriminator


def recipe() -> DistillConfig:
    """Return settings for a short run that starts from a good generator and a discriminator without labels."""
    return DistillConfig(
        steps=2000,
        batch_size=16,
        learning_rate=0.001,
        lr_schedule="cosine",
        rgb_weight=0.5,
        perceptual_weight=0.0,
        gan_delay=100,
        gan_ramp=100,
        r1_gamma=0.5,
        path_weight=0.0,
        frozen=("*.noise_strength",),
        flip=False,
        augment="none",
        ema_half_life=5000,
        checkpoint_every=100,
        sample_every=500,
    )


@dataclass
class Options:
    """Options of the command.

    Attributes:
        teacher: labelled checkpoint, of `make_teacher.py`.
        data: its labelled images.
        discriminator: checkpoint with a discriminator without labels.
        out: folder of the run, which then holds `teacher.safetensors`.
        resume: continue the run in `out`.
        config: settings of the training.
    """

    teacher: Path
    data: Path
    discriminator: Path
    out: Path
    resume: bool = False
    config: DistillConfig = field(default_factory=recipe)


def with_labels(before: Discriminator, c_dim: int) -> Discriminator:
    """The discriminator with one logit a label, each of which is the logit of ``before``.

    Raises:
        CagcError: ``before`` has labels.
    """
    if before.config.c_dim:
        raise CagcError(f"discriminator: got c_dim {before.config.c_dim}, expected one without labels")
    made = Discriminator(replace(before.config, c_dim=c_dim, cmap_dim=c_dim, mapping_layers=0))
    state = made.state_dict() | before.state_dict()
    for name in ("out.weight", "out.bias"):
        state[name] = state[name].expand(c_dim, *state[name].shape[1:]).clone()
    # Normalised to a mean square of 1, a label has √c_dim in one feature, by which the projection divides.
    state["mapping.embed.weight"] = torch.eye(c_dim) / made.mapping.embed.weight_gain
    state["mapping.embed.bias"] = torch.zeros(c_dim)
    made.load_state_dict(state)
    return made


def main(options: Options) -> None:
    """Train, and write the averaged generator with its discriminator."""
    teacher = load_generator(options.teacher)
    if not teacher.c_dim:
        raise CagcError(f"teacher: {options.teacher} has no labels, expected a labelled generator")
    data = ImageDataset(options.data, teacher.img_resolution)
    teacher.labels = data.labels(teacher.c_dim)
    discriminator = with_labels(load_discriminator(options.discriminator), teacher.c_dim)
    average = distill(teacher, teacher, discriminator, data, options.config, options.out, resume=options.resume)
    trained = load_discriminator(options.out / "discriminator.safetensors")
    average.estimate_w_avg()
    path = options.out / "teacher.safetensors"
    save_checkpoint(path, Checkpoint(average, d=trained), torch.float16)
    print(f"wrote {path}")


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Options, description=__doc__))
