"""The commands of ``cagc``: each is a dataclass whose fields are its options and whose docstrings are their help."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from .. import assets
from ..checkpoints import convert, load_generator, save_generator
from ..common import distributed
from ..common.console import console, phase
from ..common.documents import write_json
from ..common.errors import CagcError
from ..common.files import check_target
from ..compress import CompressConfig, compress, print_table, resume_compress
from ..data.labels import read_labels
from ..distill import DistillConfig
from ..editing.directions import Directions
from ..evaluation import evaluate
from ..export import FLAT_SUFFIX, export_flat, export_onnx
from ..export.web import PageOptions, export_web
from ..generate import generate, parse_seeds
from ..pruning.budget import ChannelPlan, plan_channels
from ..pruning.prune import prune
from ..pruning.scores import ChannelScores, score_channels
from ..recipes import RECIPES
from ..report import Report
from ..runs import (
    ContentOptions,
    DeviceOption,
    Inputs,
    KeyOption,
    LabelOption,
    TeacherOptions,
    distill_run,
    load_teacher,
    resume_distill_run,
)


def _fraction(text: str) -> float:
    """Parse a number, or a ratio such as 1/11."""
    try:
        return float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"got {text!r}, expected a number or a ratio such as 1/11") from None


Ratio = Annotated[
    float,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER|A/B",
        instance_from_str=lambda words: _fraction(words[0]),
        is_instance=lambda value: isinstance(value, (int, float)),
        str_from_instance=lambda value: [str(value)],
    ),
]


_METRICS = (
    "Against real images: frechet, kid, precision-recall, density-coverage. Against the teacher: psnr, ssim, "
    "perceptual. Of the latent space: ppl-wfull, ppl-wend, ppl-zfull, ppl-zend, ppl-authors, separability, leakage. "
    "Default: psnr and, with --data, frechet."
)


@dataclass(frozen=True, kw_only=True)
class Compress(CompressConfig):
    """Compress a generator: score, plan, prune, distil, evaluate, and write a report.

    Without options it compresses the embedded face generator, faces256, to an eleventh of its MACs; --teacher faces128
    and --teacher faces64 take those of smaller images.
    """

    macs: Ratio | None = None
    """Budget of MACs: a share of the teacher's if at most 1, else a number; 1/11 without any budget."""
    distillation: DistillConfig = RECIPES["quick"].distillation
    """Settings of the distillation, with the recipe's as defaults. What is left as in the recipe follows the teacher's
    resolution as the recipe does."""
    given: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Settings of the distillation that the command line gives."""
    resume: bool = False
    """Continue the interrupted compression in --out with its own options."""

    def run(self) -> None:
        """Write the output folder and print the table."""
        if self.resume:
            resume_compress(self.out)
        else:
            compress(self)


@dataclass(frozen=True, kw_only=True)
class Score(TeacherOptions, ContentOptions):
    """Score the channels of a generator; channels with higher scores are kept."""

    metric: str = "content-aware"
    """content-aware, diversity, l1-out, l1-in, l1-style, asv, l1-norm-asv, l2-norm-asv, l1-map or random."""
    samples: int = 400
    """Number of images to score on."""
    batch_size: int = 10
    """Images per batch."""
    batch_rule: str = "per-sample"
    """per-sample, or batch-sum as in the authors' code."""
    consumers: str = "main"
    """Convolutions whose weights score a channel: main, the next one, as in the authors' code; or all that read it."""
    seed: int = 0
    """Seed of all random numbers."""
    out: Path = Path("scores.json")
    """File for the scores."""
    overwrite: bool = False
    """Replace the output of an earlier run."""

    def run(self) -> None:
        """Write the scores as JSON."""
        check_target(self.out, self.overwrite)
        teacher = self.load_teacher()[0]
        parser = self.load_parser(teacher.w_avg.device)
        with phase(f"Scoring {self.samples} samples by {self.metric}") as track:
            scores = score_channels(
                teacher, self.metric, parser, self.samples, self.batch_size, self.batch_rule,
                seed=self.seed, consumers=self.consumers, progress=track("Samples"),
            )  # fmt: skip
        if distributed.is_main():
            scores.save(self.out)
            print(self.out)


@dataclass(frozen=True, kw_only=True)
class Prune(TeacherOptions):
    """Prune a generator to a budget by scores, or by an existing plan."""

    out: Path
    """Student checkpoint, .safetensors; a new plan is written beside it as .plan.json."""
    scores: Path | None = None
    """Output of cagc score."""
    plan: Path | None = None
    """Existing plan, instead of --scores and a budget."""
    macs: Ratio | None = None
    """Budget of MACs: a share of the teacher's if at most 1, else a number."""
    keep: Ratio | None = None
    """Share of channels to keep in every layer, the paper's uniform rule."""
    latency_ms: float | None = None
    """Budget of milliseconds per image on this machine; the first use times its layers."""
    round_to: int = 8
    """Widths become multiples of this; 1 gives the paper's widths."""
    rescale: str = "keep"
    """Scaling of pruned weights: keep (the scale of RGB), none (as the authors) or svs (singular value scaling)."""
    overwrite: bool = False
    """Replace the output of an earlier run."""

    def run(self) -> None:
        """Write the student and its plan."""
        check_target(self.out, self.overwrite)
        if (self.scores is None) == (self.plan is None):
            raise CagcError("prune: expected one of --scores and --plan")
        if self.plan is not None and (self.macs, self.keep, self.latency_ms) != (None, None, None):
            raise CagcError("prune: got --plan and a budget, expected one of them: a plan says what is kept")
        teacher = self.load_teacher()[0]
        if self.plan is not None:
            plan = ChannelPlan.load(self.plan)
        else:
            plan = plan_channels(
                teacher, ChannelScores.load(self.scores), macs=self.macs, keep=self.keep, round_to=self.round_to,
                latency_ms=self.latency_ms,
            )  # fmt: skip
        save_generator(prune(teacher, plan, self.rescale), self.out)
        if self.plan is None:
            plan.save(self.out.with_suffix(".plan.json"))
        print(f"{self.out}: {plan.describe()}")


@dataclass(frozen=True, kw_only=True)
class Distill(Inputs):
    """Train a pruned generator to reproduce its teacher's images on the content of interest."""

    out: Path
    """Run folder: checkpoints, metrics.jsonl, sample grids, student.safetensors."""
    student: Path | None = None
    """Pruned checkpoint."""
    plan: Path | None = None
    """Plan of the pruning, needed for --feature-weight."""
    recipe: str | None = None
    """Recipe with the defaults of the options below: quick, paper, everything, stylekd, dcp, svs or sngan."""
    resume: bool = False
    """Continue the interrupted run in --out with its own options."""
    overwrite: bool = False
    """Replace an earlier run in --out."""
    config: tyro.conf.OmitArgPrefixes[DistillConfig] = field(default_factory=DistillConfig)

    def run(self) -> None:
        """Write the run folder."""
        if self.resume or (distributed.restarts() and (self.out / "config.json").exists()):
            path = resume_distill_run(self.out)
        else:
            if self.student is None:
                raise CagcError("distill: expected --student, a pruned checkpoint")
            path = distill_run(self.student, self.inputs(), self.config, self.out, self.plan, self.overwrite)
        if distributed.is_main():
            print(path)


@dataclass(frozen=True, kw_only=True)
class Evaluate(Inputs):
    """Measure a student against its teacher: MACs, parameters, milliseconds and the metrics in --metrics."""

    student: Path
    """Checkpoint of the student."""
    metrics: Annotated[tuple[str, ...], tyro.conf.arg(help=_METRICS)] = ()
    samples: int = 1000
    """Images for the metrics against real images and for separability."""
    pairs: int = 200
    """Images for the metrics against the teacher, and pairs for a path length."""
    features: str = "efficientnet-lite0"
    """Feature space against real images: efficientnet-lite0, or inception if torch-fidelity is installed."""
    perceptual: str = "efficientnet-lite0"
    """Distance for perceptual and path lengths: efficientnet-lite0, or lpips-vgg if lpips is installed."""
    batch: int = 1
    """Images per timed call."""
    seed: int = 0
    """Seed of all random numbers."""
    json: Path | None = None
    """File for the figures as JSON."""

    def run(self) -> None:
        """Print the table, and write the figures to ``json`` if given."""
        if self.json is not None:
            check_target(self.json)
        loaded = self.load(need_data=False)
        student = load_generator(self.student, loaded.device)
        if student.c_dim == loaded.teacher.c_dim:
            student.labels = loaded.teacher.labels
        with phase("Evaluating") as track:
            variants = evaluate(
                student, loaded.teacher, loaded.parser, loaded.data, samples=self.samples,
                pairs=self.pairs, features=self.features, batch=self.batch, seed=self.seed, track=track,
                metrics=self.metrics, perceptual=self.perceptual,
            )  # fmt: skip
        if not distributed.is_main():
            return
        report = Report("", "", variants["Teacher"], variants["Student"], features=self.features, batch=self.batch)
        print_table(report)
        if self.json is not None:
            write_json(self.json, report.metrics())


@dataclass(frozen=True, kw_only=True)
class Generate(KeyOption, LabelOption, DeviceOption):
    """Generate images, named by their seeds."""

    generator: Path | None = None
    """Checkpoint, or the name of an embedded generator: faces256 (if left out), faces128, faces64, faces64-student."""
    seeds: str = "0-15"
    """Seeds such as 0-15 or 3,7,11."""
    out: Path = Path("images")
    """Folder for the PNG files."""
    truncation: float = 1.0
    """Truncation ψ: 1 is the full distribution, 0 the mean image."""
    noise: str = "const"
    """const (the stored noise maps), random (from the seed) or none."""
    batch: int = 16
    """Images per batch."""
    overwrite: bool = False
    """Replace the output of an earlier run."""

    def run(self) -> None:
        """Write the images."""
        seeds = parse_seeds(self.seeds)
        network = load_teacher(self.generator, self.open_device(), self.key)[0]
        network.labels = read_labels(self.labels, network.c_dim)
        with phase(f"Drawing {len(seeds)} images") as track:
            generate(network, seeds, self.out, self.truncation, self.noise, self.batch, self.overwrite, track("Images"))
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert a checkpoint to the native layout, to that of rosinality and the authors, or to NVlabs' state dicts."""

    source: tyro.conf.Positional[Path]
    """Checkpoint to read, of any layout."""
    target: tyro.conf.Positional[Path]
    """Checkpoint to write: .safetensors for the native layout, .pt for the others."""
    to: str | None = None
    """native, rosinality or nvlabs-state; if left out, native for .safetensors and rosinality for .pt."""
    lr_mlp: float | None = None
    """Learning rate multiplier of the mapping network, where the file does not store it; 0.01 if left out."""
    upsampling: str | None = None
    """fir or bilinear, of BasicSR's layout, which does not store it; fir if left out."""
    key: str | None = None
    """Which network of a checkpoint that holds several, by a name that the error about such a file lists."""
    overwrite: bool = False
    """Replace the output of an earlier run."""

    def run(self) -> None:
        """Write ``target``."""
        check_target(self.target, self.overwrite)
        given = {"lr_mlp": self.lr_mlp, "upsampling": self.upsampling}
        given = {name: value for name, value in given.items() if value is not None}
        assumed = convert(self.source, self.target, self.key, self.to, given)
        for name, value in assumed.items():
            console.print(f"  assumed {name} {value}, which the file does not store")
        print(self.target)


@dataclass(frozen=True, kw_only=True)
class Export(KeyOption):
    """Write a generator for places without PyTorch: as an ONNX graph or one flat file (--out), or as a page (--web).

    The graph takes z to image, with fixed truncation and noise. C, C++ and NumPy programs draw from a flat file, and
    browsers from a page: docs/edge.md.
    """

    out: Path | None = None
    """ONNX graph, .onnx, or flat file, .cagc."""
    web: Path | None = None
    """Page that draws in a browser: one file, .html, or a folder for a web server."""
    generator: Path | None = None
    """Checkpoint, or the name of an embedded generator; faces256 if left out."""
    teacher: Path | None = None
    """Checkpoint of the teacher that a page draws beside the generator, such as faces64."""
    batch: int = 1
    """Images per call, fixed in the graph."""
    truncation: float = 1.0
    """Truncation ψ: 1 is the full distribution, 0 the mean image."""
    noise: str = "const"
    """const (the stored noise maps) or none."""
    plain: bool = False
    """Use only operators that the converters of mobile runtimes know (docs/edge.md)."""
    storage: str | None = None
    """Weights of a flat file or page: float32, float16, or int8 (mapping and affine layers as int8 rows, others
    float16). float16 if left out, for a page int8."""
    directions: Path | None = None
    """Edit directions, from `cagc edit`, that a flat file or page carries. A page finds some if left out."""
    names: tuple[str, ...] = ()
    """Names of the directions on a page."""
    mapping: bool = True
    """Carry the mapping network in a page; without it, it is smaller and draws from principal components of w."""
    title: str = ""
    """Heading of a page."""
    seeds: str = "0-11"
    """Images that a page starts with, such as 0-11 or 3,7,11."""
    licence: str | None = None
    """Licence of the weights, a name or its text, which a flat file or page carries; known for the embedded ones."""
    overwrite: bool = False
    """Replace the output of an earlier run."""

    def run(self) -> None:
        """Write what is asked for."""
        targets = [path for path in (self.out, self.web) if path is not None]
        if not targets:
            raise CagcError("export: got neither --out nor --web, expected one of them")
        for path in targets:
            check_target(path, self.overwrite)
        generator = load_teacher(self.generator, key=self.key)[0]
        directions = None if self.directions is None else Directions.load(self.directions)
        if directions is not None:
            directions.check(generator)
        licence = assets.licence(self.generator) if self.licence is None else self.licence
        if self.out is not None and self.out.suffix == FLAT_SUFFIX:
            storage = self.storage or "float16"
            export_flat(generator, self.out, storage=storage, directions=directions, licence=licence)
        elif self.out is not None:
            export_onnx(generator, self.out, self.batch, self.truncation, self.noise, self.plain)
        if self.web is not None:
            options = PageOptions(
                directions=directions, names=self.names, mapping=self.mapping, storage=self.storage or "int8",
                title=self.title, seeds=parse_seeds(self.seeds), licence=licence,
            )  # fmt: skip
            teacher = None if self.teacher is None else load_teacher(self.teacher)[0]
            targets[-1] = export_web(generator, self.web, teacher, options)
        for path in targets:
            print(path)
