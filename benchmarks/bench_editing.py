"""Measures the smoothness of two latent spaces: ``python -m benchmarks.bench_editing STUDENT --out FILE``.

It compares teacher and student by perceptual path length in W and Z, linear separability, and how much an edit changes
outside the content. STUDENT is a checkpoint or a folder of ``cagc compress``. This tests the claim of "Content-Aware
GAN Compression" (Liu et al., CVPR 2021) that the compressed latent space is smoother.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cagc import content
from cagc.checkpoints import load_generator
from cagc.common.files import atomic_write
from cagc.distill.losses import load_perceptual
from cagc.editing.directions import find_directions
from cagc.metrics.disentanglement import edit_leakage, linear_separability
from cagc.metrics.ppl import Distance, authors_path_length, perceptual_path_length
from cagc.models import AnyGenerator
from cagc.runs import load_teacher

from .results import commit, machine, versions

PERCEPTUAL = "efficientnet-lite0"
# Above every seed that scoring, training and the other benchmarks draw from.
_SEED = 40_000_000


def measure(
    generator: AnyGenerator, teacher: AnyGenerator, samples: int, parser: Any, distance: Distance
) -> dict[str, float]:
    """Return figures of a generator: path lengths over ``samples`` pairs, separability over twice as many images."""
    figures = {
        f"path length, {space} {sampling}": perceptual_path_length(
            generator, distance, samples, _SEED, space=space.lower(), sampling=sampling
        )
        for space, sampling in (("W", "full"), ("W", "end"), ("Z", "full"), ("Z", "end"))
    }
    figures["authors' path length"] = authors_path_length(generator, distance, samples, _SEED)
    figures |= {
        f"separability, {name}": value
        for name, value in linear_separability(generator, parser, 2 * samples, _SEED).items()
        if name != "separability"
    }
    leakage = edit_leakage(generator, find_directions(teacher), parser, max(2, samples // 5), seed=_SEED)
    return figures | {f"edit, change {name}" if name != "leakage" else name: v for name, v in leakage.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("--teacher", type=Path, default=Path("faces64"))
    parser.add_argument("--content", default="faces")
    parser.add_argument("--samples", type=int, default=500, help="pairs of images for each path length")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    path = options.student / "student.safetensors" if options.student.is_dir() else options.student
    teacher, student = load_teacher(options.teacher)[0], load_generator(path)
    found = content.load(options.content)
    generators = {"Teacher": teacher, "Student": student}
    words = sys.argv[1:] if arguments is None else arguments
    distance = load_perceptual(PERCEPTUAL)
    document = {
        "command": " ".join(["python -m benchmarks.bench_editing", *words]),
        "perceptual": PERCEPTUAL,
        "samples": options.samples,
        "content": found.name,
        "machine": machine("cpu"),
        "versions": versions(),
        "commit": commit(),
        "generators": {name: measure(g, teacher, options.samples, found, distance) for name, g in generators.items()},
    }
    with atomic_write(options.out) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
