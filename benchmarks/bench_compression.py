"""Compares students with their teacher: ``python -m benchmarks.bench_compression RUN ... --out compression.json``.

RUN is a folder of ``cagc compress``, LABEL=folder of it or of ``cagc distill``, or LABEL=checkpoint; the default is the
embedded student. Runs that differ only in their seed share a label, and their spread is reported. Every student is
compared with the teacher on latents that neither scoring nor training used: by distribution (Fréchet distance,
precision, recall) and image by image (content L1, PSNR, perceptual distance; L1 on each class of the content).
The first row is the teacher against itself on other latents: what a perfect student would score.

A row is written as soon as it is measured, and existing rows with the same weights and settings are kept. ``--timing``
adds milliseconds, measured in turns, to existing rows; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from cagc import assets, content
from cagc.checkpoints import generator_hash, load_generator
from cagc.common.errors import CagcError
from cagc.common.files import atomic_write
from cagc.common.seeds import z_batch
from cagc.data.dataset import ImageDataset
from cagc.distill.losses import FeatureDistance, perceptual_loss
from cagc.latency.measure import LatencyResult, measure_generators, speedup
from cagc.metrics import features as feature_registry
from cagc.metrics.fidelity import evaluate_pair
from cagc.metrics.frechet import FeatureStatistics, dataset_statistics
from cagc.metrics.macs import total_macs, total_parameters
from cagc.metrics.ppl import perceptual_path_length
from cagc.metrics.precision_recall import Manifold, precision_recall
from cagc.metrics.sampling import draw, noise_for, seed_batches
from cagc.models import Generator
from cagc.runs import load_teacher

from .generators import work
from .harness import pin_threads
from .results import Row, append, command, commit, device_folder, machine, make_row, versions

TEACHER = "teacher, other latents"
EMBEDDED = "embedded student"
# Above all seeds of scoring and training, and disjoint from each other.
STUDENT_SEEDS, REFERENCE_SEEDS = 20_000_000, 30_000_000


@dataclass(frozen=True)
class Settings:
    """The settings that the figures depend on.

    Attributes:
        samples: images per generator for Fréchet distance, precision and recall.
        draws: number of disjoint parts of the samples, whose distances give the spread over draws.
        pairs: images compared with the teacher's one by one, and pairs for the path length.
        features: features of the Fréchet distance, precision and recall; their network also gives perceptual distances.
        neighbours: k of precision and recall.
        content: what counts as content, see :func:`cagc.content.load`.
    """

    samples: int = 10_000
    draws: int = 5
    pairs: int = 1000
    features: str = "efficientnet-lite0@112"
    neighbours: int = 3
    content: str = "faces"


@dataclass(frozen=True)
class Run:
    """A student with its label and training seed."""

    label: str
    checkpoint: Path
    seed: int | None = None

    @classmethod
    def parse(cls, text: str) -> Run:
        """Parse a folder of ``cagc compress``, LABEL=folder of it or of ``cagc distill``, or LABEL=checkpoint.

        Raises:
            CagcError: the folder is not of such a run.
        """
        given, equals, path = text.partition("=")
        folder = Path(path if equals else text)
        if equals and not folder.is_dir():
            return cls(given, folder)
        try:
            options = json.loads((folder / "config.json").read_text())
            if equals:
                return cls(given, folder / "student.safetensors", (options.get("settings") or options)["seed"])
            metric, seed = options["metric"], options["seed"]
        except (OSError, ValueError, KeyError) as error:
            raise CagcError(f"run: {folder} holds no compression (no readable config.json: {error})") from None
        label = "content-agnostic" if options["content"] == "everything" else metric
        words = {options.get("recipe", "quick"), options.get("rescale", "keep")} - {
            "quick",
            "keep",
            "none",
            "everything",
        }
        label = ", ".join([label, *sorted(words)])
        return cls(label, folder / "student.safetensors", seed)


class Bench:
    """The teacher with its content parser, its distribution, and real images, with which students are compared."""

    def __init__(self, teacher: Path | None, data: Path | None, settings: Settings) -> None:
        self.settings = settings
        self.teacher = load_teacher(teacher)[0].eval().requires_grad_(False)
        self.parser = content.load(settings.content)
        self.classes = {name: content.load(settings.content, [name]) for name in getattr(self.parser, "classes", ())}
        self.extractor = feature_registry.load(settings.features)
        self.distance = FeatureDistance(feature_registry.load(settings.features.partition("@")[0]))
        embedded = assets.embedded(teacher)
        self.real = None
        if data is not None or embedded:
            images = ImageDataset(data or embedded.images, self.teacher.img_resolution)
            self.real = dataset_statistics(images, features=self.extractor)
        found = self.features(self.teacher, REFERENCE_SEEDS)
        self.reference = self.statistics(found)
        self.manifold = Manifold(found, settings.neighbours)

    @torch.inference_mode()
    def features(self, generator: Generator, seed: int) -> torch.Tensor:
        """Return features [samples, D] of images of the seeds from ``seed`` on, with noise drawn by seed."""
        batches = seed_batches(self.settings.samples, seed, 16)
        return torch.cat([self.extractor(draw(generator, seeds)) for seeds in batches])

    def statistics(self, found: torch.Tensor) -> FeatureStatistics:
        return FeatureStatistics(self.extractor.name).update(found)

    def measure(self, generator: Generator) -> dict[str, Any]:
        """Return the figures of a generator; those that compare images are None for the teacher."""
        settings, found = self.settings, self.features(generator, STUDENT_SEEDS)
        parts = [self.statistics(p).distance(self.reference) for p in found.chunk(settings.draws)]
        whole = self.statistics(found)
        figures = {
            "macs": total_macs(generator),
            "parameters": total_parameters(generator),
            "frechet_to_teacher": whole.distance(self.reference),
            "frechet_to_teacher_of_draws": parts,
            "frechet_to_data": None if self.real is None else whole.distance(self.real),
            **precision_recall(self.manifold, found, settings.neighbours),
            "path_length": perceptual_path_length(generator, self.distance, settings.pairs, STUDENT_SEEDS),
        }
        pair = dict.fromkeys(("content_l1", "content_psnr", "image_l1"))
        if generator is not self.teacher:
            compared = evaluate_pair(
                generator, self.teacher, self.parser, settings.pairs, STUDENT_SEEDS, noise="random"
            )
            # The PSNR of equal images is infinite, which JSON cannot hold.
            pair = {name: compared[name] if math.isfinite(compared[name]) else None for name in pair}
            pair["content_perceptual"] = self.perceptual(generator)
            for name, parser in self.classes.items():
                shown = (generator, self.teacher, parser, settings.pairs, STUDENT_SEEDS)
                pair[f"{name}_l1"] = evaluate_pair(*shown, noise="random")["content_l1"]
        return figures | pair

    @torch.inference_mode()
    def perceptual(self, generator: Generator) -> float:
        """Return the mean perceptual distance to the teacher's images on the content, with equal latents and noise."""
        total = 0.0
        for seeds in seed_batches(self.settings.pairs, STUDENT_SEEDS, 16):
            noise = noise_for(self.teacher, seeds, "random")
            z = z_batch(seeds, self.teacher.z_dim)
            target, image = (g(z, noise=noise).clamp(-1, 1) for g in (self.teacher, generator))
            mask = self.parser(target, seeds=list(seeds)).to(target)
            total += float(perceptual_loss(image, target, self.distance, mask)) * len(seeds)
        return total / self.settings.pairs


def run_bench(runs: list[Run], teacher: Path | None, data: Path | None, settings: Settings, out: Path) -> None:
    """Measure the teacher and every run, and write each row to ``out`` when it is done.

    Raises:
        CagcError: a checkpoint cannot be read or is not a student of the teacher, or ``out`` has other settings.
    """
    document = read(out, settings)
    students = {run: load_generator(run.checkpoint).eval() for run in runs}
    bench = None
    for run in [Run(TEACHER, Path("teacher")), *runs]:
        key = f"{run.label} {run.seed}"
        digest = "teacher" if run.label == TEACHER else generator_hash(students[run])
        if document["rows"].get(key, {}).get("generator") == digest:
            continue
        bench = bench or Bench(teacher, data, settings)
        figures = bench.measure(bench.teacher if run.label == TEACHER else students[run])
        document["rows"][key] = {"label": run.label, "seed": run.seed, "generator": digest, **figures}
        document["provenance"] = provenance(bench)
        write(out, document)
        print(f"{key}: Fréchet distance to the teacher {figures['frechet_to_teacher']:.1f}", flush=True)


def time_rows(runs: list[Run], teacher: Path | None, out: Path, repeats: int, batches: tuple[int, ...] = (1,)) -> None:
    """Add milliseconds at each batch to the rows of ``out``: one student per label, in turns with the teacher.

    "latency" holds the first batch, "latency_by_batch" all of them, with the speed-up over the teacher. Rows in the
    common format of the benchmarks go to ``out`` with the suffix .jsonl.
    """
    document = json.loads(out.read_text())
    firsts = {run.label: run for run in reversed(runs)}
    generators = {TEACHER: load_teacher(teacher)[0].eval()}
    generators |= {label: load_generator(run.checkpoint).eval() for label, run in firsts.items()}
    measured = {batch: measure_generators(generators, batch, repeats) for batch in batches}
    for row in document["rows"].values():
        found = {str(b): _latency(times, row["label"]) for b, times in measured.items() if row["label"] in times}
        row["latency"], row["latency_by_batch"] = found.get(str(batches[0])), found
    document["timed_on"] = machine("cpu")
    append(out.with_suffix(".jsonl"), [row for b, times in measured.items() for row in _rows(generators, b, times)])
    write(out, document)


def _rows(generators: dict[str, Generator], batch: int, measured: dict[str, LatencyResult]) -> list[Row]:
    """Return a row for each generator of one measurement."""
    times = {label: [ms / 1e3 for ms in result.times_ms] for label, result in measured.items()}
    rows = []
    for label, generator in generators.items():
        case, side = {"generator": label, "batch": batch}, generator.img_resolution
        macs, moved = work(generator, batch)
        about = {"of": label, "shape": (batch, 3, side, side), "bytes": moved, "macs": macs}
        rows.append(make_row("compression", "runtime", case, times, "cpu", **about))
    return rows


def _latency(times: dict[str, LatencyResult], label: str) -> dict[str, Any]:
    return times[label].to_dict() | {"speedup": speedup(times[TEACHER], times[label]).median}


def provenance(bench: Bench) -> dict[str, Any]:
    return {
        "teacher": generator_hash(bench.teacher),
        "content": bench.parser.name,
        "perceptual": bench.distance.features.name,
        "machine": machine("cpu"),
        "versions": versions(),
        "commit": commit(),
        "command": command(),
    }


def read(out: Path, settings: Settings) -> dict[str, Any]:
    """Return the document in ``out``, or a new one.

    Raises:
        CagcError: its rows were measured with other settings.
    """
    if not out.exists():
        return {"settings": asdict(settings), "rows": {}}
    document = json.loads(out.read_text())
    if document["settings"] != asdict(settings):
        raise CagcError(f"out: {out} has settings {document['settings']}, expected {asdict(settings)}")
    return document


def write(out: Path, document: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n")


def draws_error(row: dict[str, Any]) -> float:
    """Return the standard error of the mean of a row's Fréchet distances over its disjoint draws."""
    distances = row["frechet_to_teacher_of_draws"]
    return statistics.stdev(distances) / math.sqrt(len(distances)) if len(distances) > 1 else math.nan


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Run.parse, metavar="RUN")
    parser.add_argument("--teacher", type=Path, default=Path("faces64"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--timing", action="store_true")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, help="threads of the timed calls (default: all usable cores)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1], help="images per timed call")
    for setting in fields(Settings):
        parser.add_argument(f"--{setting.name}", type=type(setting.default), default=setting.default)
    given = parser.parse_args(arguments)
    runs = given.runs or [Run(EMBEDDED, assets.checkpoint("faces64-student"))]
    settings = Settings(**{setting.name: getattr(given, setting.name) for setting in fields(Settings)})
    out = given.out or Path(__file__).parent / "results" / device_folder("cpu") / "compression.json"
    if given.timing:
        pin_threads(given.threads)
        time_rows(runs, given.teacher, out, given.repeats, tuple(given.batches))
    else:
        run_bench(runs, given.teacher, given.data, settings, out)


if __name__ == "__main__":
    main()
