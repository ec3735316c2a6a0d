"""The commands of ``cagc``: each is a dataclass whose fields are its options and whose docstrings are their help."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from ..checkpoints import convert, load_generator, save_generator
from ..common import distributed
from ..common.console import phase
from ..common.documents import write_json
from ..common.errors import CagcError
from ..common.files import check_target
from ..compress import CompressConfig, compress, print_table, resume_compress
from ..distill import DistillConfig
from ..evaluation import evaluate
from ..export import export_onnx
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
    TeacherOptions,
    distill_run,
    load_teacher,
    resume_distill_run,
)


def _fraction(text: str) -> float:
    """A number, or a ratio such as 1/11."""
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
    "Of sets: frechet, kid, precision-recall, density-coverage. Against the teacher: psnr, ssim, perceptual. Of the "
    "latent space: ppl-wfull, ppl-wend, ppl-zfull, ppl-zend, ppl-authors, separability, leakage. If left out: psnr, "
    "and frechet where there is --data."
)


@dataclass(frozen=True, kw_only=True)
class Compress(CompressConfig):
    """Compress a generator: score, plan, prune, distil, evaluate, and write a report.

    Without options it compresses the embedded 64 px face generator to an eleventh of its MACs.
    """

    macs: Ratio | None = None
    """MACs to stay within: a share of the teacher's up to 1, else a number. 1/11 if --keep is left out too."""
    distillation: DistillConfig = RECIPES["quick"].distillation
    """Settings of the distillation; the defaults are the recipe's."""
    resume: bool = False
    """Go on with an interrupted run in --out, with the options it was started with."""

    def run(self) -> None:
        """Write the output folder and print the table."""
        if self.resume:
            resume_compress(self.out)
        else:
            compress(self)


@dataclass(frozen=True, kw_only=True)
class Score(TeacherOptions, ContentOptions):
    """Score the channels of a generator; larger means keep."""

    metric: str = "content-aware"
    """content-aware, diversity, l1-out, l1-in, l1-style, asv, l1-norm-asv, l2-norm-asv, l1-map or random."""
    samples: int = 400
    """Images to draw."""
    batch_size: int = 10
    """Images at a time."""
    batch_rule: str = "per-sample"
    """per-sample, or batch-sum as in the authors' code."""
    consumers: str = "main"
    """main: score on the next convolution, as the authors; all: on every convolution that reads the channel."""
    seed: int = 0
    """Of every random draw."""
    out: Path = Path("scores.json")
    """Where the scores go."""
    overwrite: bool = False
    """Replace what an earlier run wrote."""

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
    """Cut a generator down to a budget, by scores or by a plan made before."""

    out: Path
    """Student checkpoint, .safetensors; a plan made here is written beside it as .plan.json."""
    scores: Path | None = None
    """Output of cagc score."""
    plan: Path | None = None
    """Plan to repeat, instead of --scores and a budget."""
    macs: Ratio | None = None
    """MACs to stay within: a share of the teacher's up to 1, else a number."""
    keep: Ratio | None = None
    """Share of channels to keep in every layer, the paper's uniform rule."""
    latency_ms: float | None = None
    """Milliseconds an image to stay within on this machine, whose layers are timed the first time."""
    round_to: int = 8
    """Widths become multiples of this; 1 gives the paper's."""
    rescale: str = "keep"
    """Weights afterwards: keep the scale of RGB, none as the paper's authors, or svs, singular value scaling."""
    overwrite: bool = False
    """Replace what an earlier run wrote."""

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
    """Train a pruned generator to draw what its teacher draws, on the content of interest."""

    out: Path
    """Run folder: checkpoints, metrics.jsonl, sample grids, student.safetensors."""
    student: Path | None = None
    """Pruned checkpoint."""
    plan: Path | None = None
    """Plan that it was pruned by, for --feature-weight."""
    recipe: str | None = None
    """Gives what is left out below: quick, paper, everything, stylekd, dcp, svs or sngan."""
    resume: bool = False
    """Go on with an interrupted run in --out, with the options it was started with."""
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
    """Measure a student against its teacher: MACs, parameters, milliseconds, and what --metrics lists."""

    student: Path
    """Checkpoint."""
    metrics: Annotated[tuple[str, ...], tyro.conf.arg(help=_METRICS)] = ()
    samples: int = 1000
    """Images behind the metrics of sets and separability."""
    pairs: int = 200
    """Images that are compared with the teacher's, and pairs behind a path length."""
    features: str = "efficientnet-lite0"
    """Feature space of the metrics of sets: efficientnet-lite0, or inception where torch-fidelity is installed."""
    perceptual: str = "efficientnet-lite0"
    """Distance of perceptual and path lengths: efficientnet-lite0, or lpips-vgg where lpips is installed."""
    batch: int = 1
    """Images in a timed call."""
    seed: int = 0
    """Of every random draw."""
    json: Path | None = None
    """Also write the figures here."""

    def run(self) -> None:
        """Print the table, and write it where asked."""
        if self.json is not None:
            check_target(self.json)
        loaded = self.load(need_data=False)
        student = load_generator(self.student, loaded.device)
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
class Generate(KeyOption, DeviceOption):
    """Draw images, each named by its seed."""

    generator: Path | None = None
    """Checkpoint, or faces64-student for the embedded student; the embedded face generator if left out."""
    seeds: str = "0-15"
    """Seeds such as 0-15 or 3,7,11."""
    out: Path = Path("images")
    """Folder for the PNG files."""
    truncation: float = 1.0
    """ψ: 1 is the full distribution, 0 the mean image."""
    noise: str = "const"
    """const, random (drawn from the seed) or none."""
    batch: int = 16
    """Images at a time."""
    overwrite: bool = False
    """Replace what an earlier run wrote."""

    def run(self) -> None:
        """Write the images."""
        seeds = parse_seeds(self.seeds)
        network = load_teacher(self.generator, self.open_device(), self.key)[0]
        with phase(f"Drawing {len(seeds)} images") as track:
            generate(network, seeds, self.out, self.truncation, self.noise, self.batch, self.overwrite, track("Images"))
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Rewrite a checkpoint: .safetensors is the native layout, .pt that of rosinality and the paper's authors."""

    source: tyro.conf.Positional[Path]
    """Checkpoint to read, of any layout."""
    target: tyro.conf.Positional[Path]
    """Checkpoint to write; its ending says in which layout."""
    key: str | None = None
    """Which network of a file that holds several, as the error about it lists them."""
    overwrite: bool = False
    """Replace what an earlier run wrote."""

    def run(self) -> None:
        """Write ``target``."""
        check_target(self.target, self.overwrite)
        convert(self.source, self.target, self.key)
        print(self.target)


@dataclass(frozen=True, kw_only=True)
class Export(KeyOption):
    """Write a generator as an ONNX graph: z to image, with fixed truncation and noise."""

    out: Path
    """Graph, .onnx."""
    generator: Path | None = None
    """Checkpoint; the embedded face generator if left out."""
    batch: int = 1
    """Images per call, fixed in the graph."""
    truncation: float = 1.0
    """ψ: 1 is the full distribution, 0 the mean image."""
    noise: str = "const"
    """const (the stored noise maps) or none."""
    plain: bool = False
    """Use only operators that the converters of mobile runtimes know (docs/edge.md)."""
    overwrite: bool = False
    """Replace what an earlier run wrote."""

    def run(self) -> None:
        """Write the graph."""
        check_target(self.out, self.overwrite)
        generator = load_teacher(self.generator, key=self.key)[0]
        export_onnx(generator, self.out, self.batch, self.truncation, self.noise, self.plain)
        print(self.out)
