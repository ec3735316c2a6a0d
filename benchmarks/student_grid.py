"""Draws pictures of a teacher, its students and their differences: ``python -m benchmarks.student_grid``.

The images are those of the first evaluation seeds of :mod:`benchmarks.bench_compression`; they are not hand-picked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from cagc.checkpoints import load_generator
from cagc.common.files import atomic_write
from cagc.metrics.sampling import draw
from cagc.models import Generator
from cagc.pictures import DIFFERENCE_GAIN, Figure, Row, difference, image_grid

from .bench_compression import STUDENT_SEEDS

OUT = Path(__file__).resolve().parents[1] / "docs" / "students.png"


@torch.inference_mode()
def grid(teacher: Generator, students: dict[str, Generator], count: int, tile: int) -> Figure:
    """Draw rows of ``count`` images, ``tile`` px each, of the same latents and noise.

    Below the teacher's row are two for each student (label → generator): its images, and their differences.
    """
    seeds = range(STUDENT_SEEDS, STUDENT_SEEDS + count)
    images = {"Teacher": draw(teacher, seeds)}
    for label, student in students.items():
        images[label] = draw(student, seeds)
        images[f"{label}, difference x{DIFFERENCE_GAIN}"] = difference(
            images[label], images["Teacher"], DIFFERENCE_GAIN
        )
    rows = tuple(Row(name, name, image_grid(batch, tile=tile)) for name, batch in images.items())
    return Figure("students", "Teacher and students", "", rows)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=Path("faces64"))
    parser.add_argument("--students", nargs="+", metavar="[LABEL=]CHECKPOINT", default=["Student=faces64-student"])
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--tile", type=int, default=96)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    pairs = [text.rpartition("=") for text in given.students]
    students = {label or "Student": load_generator(path) for label, _, path in pairs}
    figure = grid(load_generator(given.teacher), students, given.count, given.tile)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(given.out) as temporary:
        figure.composite().save(temporary, "PNG", optimize=True)
    print(given.out)


if __name__ == "__main__":
    main()
