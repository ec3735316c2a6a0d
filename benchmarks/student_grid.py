"""Draws the README's picture of teacher, student and their difference: ``python -m benchmarks.student_grid``.

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
def grid(teacher: Generator, student: Generator, count: int, tile: int) -> Figure:
    """Draw rows of ``count`` images, ``tile`` px each, of the same latents and noise; the difference last."""
    seeds = range(STUDENT_SEEDS, STUDENT_SEEDS + count)
    images = {"Teacher": draw(teacher, seeds), "Student": draw(student, seeds)}
    gap = difference(images["Student"], images["Teacher"], DIFFERENCE_GAIN)
    images[f"|Difference| x{DIFFERENCE_GAIN}"] = gap
    rows = tuple(Row(name, name, image_grid(batch, tile=tile)) for name, batch in images.items())
    return Figure("students", "Teacher and student", "", rows)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=Path("faces64"))
    parser.add_argument("--student", type=Path, default=Path("faces64-student"))
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--tile", type=int, default=80)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    figure = grid(load_generator(given.teacher), load_generator(given.student), given.count, given.tile)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(given.out) as temporary:
        figure.composite().save(temporary, "PNG", optimize=True)
    print(given.out)


if __name__ == "__main__":
    main()
