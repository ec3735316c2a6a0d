"""Measure a labelled teacher and its student label by label, and draw both by label.

    python tools/labelled64/examine.py --teacher labelled/teacher.safetensors --student small/student.safetensors

The embedded face parser says on which side the face is. The table has one row a label: how many images of teacher and
student are on the label's side, and the distance of the student's images to the teacher's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from cagc import content
from cagc.checkpoints import load_generator
from cagc.common.console import one_line_errors
from cagc.common.documents import write_json
from cagc.common.errors import CagcError
from cagc.common.files import atomic_write
from cagc.common.seeds import z_batch
from cagc.metrics.fidelity import content_psnr
from cagc.models import Generator
from cagc.pictures import image_grid


@dataclass
class Options:
    """Options of the command.

    Attributes:
        teacher: labelled checkpoint.
        student: its student.
        out: folder for table.json and one picture a label, teacher above student.
        samples: images a label.
    """

    teacher: Path
    student: Path
    out: Path = Path("by-label")
    samples: int = 200


def sides(images: Tensor, parser: content.ContentParser) -> Tensor:
    """Horizontal place [N] of the face's centre, in widths from the middle."""
    face = parser(images).sum(dim=(1, 2))
    across = (torch.arange(face.shape[1]) - (face.shape[1] - 1) / 2) / face.shape[1]
    return (face * across).sum(dim=1) / face.sum(dim=1).clamp_min(1)


@torch.inference_mode()
def draw(generator: Generator, label: int, samples: int) -> Tensor:
    """Images of seeds 1,000,000 and on with one label, the same latents for every label."""
    z = z_batch(range(10**6, 10**6 + samples), generator.z_dim)
    c = torch.nn.functional.one_hot(torch.full((samples,), label), generator.c_dim).float()
    return torch.cat([generator(*part, noise_mode="const").clamp(-1, 1) for part in zip(z.split(50), c.split(50))])


def main(options: Options) -> None:
    """Print the table and write the pictures."""
    teacher, student = load_generator(options.teacher), load_generator(options.student)
    if teacher.c_dim == 0 or student.c_dim != teacher.c_dim:
        raise CagcError(f"student: got c_dim {student.c_dim}, expected the teacher's {teacher.c_dim}, above 0")
    parser, rows = content.load("faces", classes=("face",)), []
    everything = {label: (draw(teacher, label, options.samples), draw(student, label, options.samples))
                  for label in range(teacher.c_dim)}  # fmt: skip
    middle = torch.cat([sides(theirs, parser) for theirs, _ in everything.values()]).median()
    options.out.mkdir(parents=True, exist_ok=True)
    for label, (theirs, ours) in everything.items():
        right = [sides(images, parser) > middle for images in (theirs, ours)]
        found = [(side == bool(label)).float().mean().item() for side in right]
        psnr = content_psnr(ours, theirs, torch.ones_like(ours[:, :1]), "none").mean().item()
        l1 = (ours - theirs).abs().mean().item()
        rows.append({"label": label, "teacher": found[0], "student": found[1], "l1": l1, "psnr_db": psnr})
        with atomic_write(options.out / f"label-{label}.png") as temporary:
            image_grid(torch.cat([theirs[:8], ours[:8]]), columns=8).save(temporary, "PNG")
    print("label  teacher on its side  student on its side  L1      PSNR (dB)")
    for row in rows:
        shares = "  ".join(f"{100 * row[name]:<19.1f}" for name in ("teacher", "student"))
        print(f"{row['label']:<6} {shares} {row['l1']:.4f}  {row['psnr_db']:.2f}")
    write_json(options.out / "table.json", {"samples": options.samples, "labels": rows})


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Options, description=__doc__))
