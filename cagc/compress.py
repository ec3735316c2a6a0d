"""Runs a whole compression: score, plan, prune, distil, evaluate, report."""

from __future__ import annotations

import math
import platform
import shutil
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from rich.table import Table

from . import __version__, assets
from .checkpoints import save_generator
from .checkpoints.native import narrowest_dtype, round_to_float16
from .common.checks import choice
from .common.console import console, phase, plain_console
from .common.documents import write_json
from .common.errors import CagcError
from .common.files import holds_files, locked
from .common.reading import read_json
from .content import ContentParser
from .distill import DistillConfig, Interrupted, RunFolder, distill
from .distill.losses import load_perceptual
from .evaluation import Tools, evaluate
from .export.web import PageOptions, export_web, fits_beside
from .metrics.frechet import result_key
from .metrics.macs import total_macs, total_parameters
from .models import AnyGenerator
from .pictures import comparison_figures
from .pruning.budget import ChannelPlan, plan_channels
from .pruning.prune import RESCALES, prune
from .pruning.scores import METRICS, score_channels
from .recipes import adapted, recipe
from .report import Report, Variant, layer_table, training_curves, write_report
from .runs import Inputs, LoadedInputs

# Far from the seeds of scoring, so that evaluation uses latents that the compression has not seen.
_HELD_OUT = 1_000_000

_PAGE = "student.html"
_OWN_FILES = ("plan.json", "pruned.safetensors", "student.safetensors", "metrics.json", "report.html", _PAGE)
_OWN_FOLDERS = ("distill", "grids", "baseline")


@dataclass(frozen=True, kw_only=True)
class CompressConfig(Inputs):
    """Settings of a compression; None means the recipe's value."""

    recipe: str = "quick"
    """Recipe with the defaults of the options below: quick (minutes; above 128 px with fewer samples, targets and
    steps) or, for days on GPUs, paper, everything, stylekd, dcp, svs or sngan."""
    metric: str | None = None
    """Channel score, as in cagc score; the recipe's if left out."""
    samples: int | None = None
    """Images that channels are scored on; the recipe's for the teacher's resolution if left out."""
    batch_rule: str | None = None
    """per-sample, or batch-sum as in the authors' code; the recipe's if left out."""
    rescale: str | None = None
    """Weights after pruning, as in cagc prune; the recipe's if left out."""
    macs: float | None = None
    """Budget of MACs: a share of the teacher's if at most 1, else a number; 1/11 without any budget."""
    keep: float | None = None
    """Share of channels to keep in every layer instead, the paper's uniform rule."""
    latency_ms: float | None = None
    """Budget of milliseconds per image on this machine instead; the first use times its layers."""
    round_to: int = 8
    """Widths become multiples of this; 1 gives the paper's widths."""
    steps: int | None = None
    """Updates of the distillation; the recipe's for the teacher's resolution if left out."""
    distillation: DistillConfig | None = None
    """Settings of the distillation; its steps and seed are those given here. What is left as in the recipe follows the
    teacher's resolution as the recipe does."""
    given: tuple[str, ...] = ()
    """Names of settings of the distillation that keep their values at any resolution: those typed."""
    baseline: str | None = None
    """Also prune by this score, such as l1-out, distil as long, and report it beside the student."""
    evaluation_samples: int = 1000
    """Images for the Fréchet distance; a fifth of them are compared with the teacher's individually."""
    features: str = "efficientnet-lite0@112"
    """Feature space of the Fréchet distance @ the side of its input in pixels; without @ it is 224, four times the
    work."""
    evaluation_metrics: tuple[str, ...] = ()
    """Metrics as in cagc evaluate --metrics; psnr and frechet if left out."""
    web: bool = True
    """Also write student.html, a page that draws with the student in a browser."""
    out: Path = Path("cagc-out")
    """Folder for the student, plan, metrics, report and grids."""
    seed: int = 0
    """Seed of all random numbers."""
    overwrite: bool = False
    """Replace an earlier compression in --out."""

    def resolve(self, side: int = 0) -> CompressConfig:
        """The settings for a teacher's images of ``side`` pixels, with the recipe's values in place of None.

        Raises:
            CagcError: there is no such recipe.
        """
        chosen = recipe(self.recipe, side)
        names = ("metric", "samples", "batch_rule", "rescale")
        filled = {name: getattr(chosen, name) for name in names if getattr(self, name) is None}
        training = adapted(self.distillation or chosen.distillation, self.recipe, side, self.given)
        steps = training.steps if self.steps is None else self.steps
        return replace(
            self, **filled, content=self.content or chosen.content or "faces", steps=steps, given=(),
            distillation=replace(training, steps=steps, seed=self.seed),
        )  # fmt: skip

    @property
    def pairs(self) -> int:
        """Number of images that are compared with the teacher's individually."""
        return max(2, self.evaluation_samples // 5)

    def budget(self) -> dict[str, float]:
        """The budget, as a keyword argument of :func:`plan_channels`.

        Raises:
            CagcError: more than one of ``macs``, ``keep`` and ``latency_ms`` is given.
        """
        budgets = {"macs": self.macs, "keep": self.keep, "latency_ms": self.latency_ms}
        given = {name: value for name, value in budgets.items() if value is not None}
        if len(given) > 1:
            raise CagcError(f"compress: expected one of --macs, --keep and --latency-ms, got {' and '.join(given)}")
        return given or {"macs": 1 / 11}


def compress(config: CompressConfig, resume: bool = False) -> Report:
    """Run every phase, write the folder ``config.out``, print the table and return the report.

    With ``resume`` the phases that an interrupted run finished are read from the folder, and its distillation goes on.

    Raises:
        CagcError: an input cannot be used, the budget cannot be met, or the folder exists; before anything is written.
    """
    asked, config = config, config.resolve()
    if not resume:
        _check_out(config)
    with phase("Opening teacher, images and content parser"):
        loaded = config.inputs().load(need_data=config.distillation.gan_weight > 0)
    if not resume:
        config = asked.resolve(max(loaded.teacher.img_size))
    _describe(loaded)
    _check_request(config, loaded)
    folders = {config.metric: config.out} | ({config.baseline: config.out / "baseline"} if config.baseline else {})
    plans = {metric: _plan(config, loaded, metric, folder, resume) for metric, folder in folders.items()}
    config.out.mkdir(parents=True, exist_ok=True)
    with locked(config.out):
        if not resume:
            _claim(config)
        try:
            students = {
                metric: _distill(config, loaded, plans[metric], folder, resume) for metric, folder in folders.items()
            }
        except Interrupted as interruption:
            step = str(interruption).partition(";")[0]
            raise Interrupted(f"{step}; go on with `cagc compress --resume --out {config.out}`") from None
        return _conclude(config, loaded, plans[config.metric], students)


def _conclude(
    config: CompressConfig,
    loaded: LoadedInputs,
    plan: ChannelPlan,
    students: dict[str, tuple[AnyGenerator, AnyGenerator]],
) -> Report:
    """Evaluate the students (metric → student and pruned student), write what the folder ends with, and print it."""
    student, pruned = students[config.metric]
    others = {"Before distillation": pruned}
    others |= {f"Pruned by {metric}": other for metric, (other, _) in students.items() if metric != config.metric}
    with phase("Evaluating") as track:
        variants = evaluate(
            student, loaded.teacher, loaded.parser, loaded.data, others, config.evaluation_samples,
            config.pairs, config.features, seed=_HELD_OUT + config.seed, track=track, metrics=config.evaluation_metrics,
        )  # fmt: skip
    with phase("Writing the report"):
        report = _report(config, loaded, plan, variants, student, pruned)
        if config.web:
            report = replace(report, web=_write_page(config, student, loaded.teacher))
        page = write_report(config.out, report)
        metrics = {"generators": report.metrics(), "features": report.features, "provenance": dict(report.provenance)}
        write_json(config.out / "metrics.json", metrics)
        made_by = {"plan": plan.digest(), "teacher": plan.teacher}
        save_generator(student, config.out / "student.safetensors", made_by, narrowest_dtype(student))
    print_table(report)
    print(page)
    return report


def _write_page(config: CompressConfig, student: AnyGenerator, teacher: AnyGenerator) -> str | None:
    """Write the page that draws with ``student`` and return its name, or None, with a note, if there can be none."""
    try:
        options = PageOptions(licence=assets.licence(config.teacher))
        export_web(student, config.out / _PAGE, teacher if fits_beside(student, teacher) else None, options)
    except CagcError as error:
        console.print(f"  no page for browsers: {error}")
        return None
    return _PAGE


def resume_compress(out: Path) -> Report:
    """Go on with the interrupted compression in ``out``, with the settings that it was started with.

    Raises:
        CagcError: ``out`` holds no compression.
    """
    try:
        options = read_json(out / "config.json")
        paths = {name: Path(options[name]) if options[name] else None for name in ("teacher", "data")}
        training = DistillConfig.from_dict(options["distillation"])
        given = paths | {"out": Path(out), "distillation": training}
        given |= {name: tuple(options.get(name, ())) for name in ("classes", "evaluation_metrics")}
        config = CompressConfig(**options | given)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CagcError(f"resume: {out} holds no compression that was started (no readable config.json)") from None
    return compress(config, resume=True)


def _describe(loaded: LoadedInputs) -> None:
    teacher, data = loaded.teacher, loaded.data
    console.print(
        f"  {teacher.img_resolution} px, {total_macs(teacher) / 1e9:.3f} GMACs, "
        f"{total_parameters(teacher) / 1e6:.2f} M parameters; "
        f"{'no images' if data is None else data.describe()}; content: {loaded.parser.name}; device: {loaded.device}"
    )


def _check_request(config: CompressConfig, loaded: LoadedInputs) -> None:
    """Raise now for requests that would otherwise fail after minutes of work."""
    if config.evaluation_samples < 2:
        raise CagcError(f"evaluation_samples: got {config.evaluation_samples}, expected at least 2")
    for name, metric in (("metric", config.metric), ("baseline", config.baseline)):
        if metric is not None:
            choice(name, metric, METRICS)
    choice("rescale", config.rescale, RESCALES)
    if config.distillation.perceptual_weight:
        load_perceptual(config.distillation.perceptual)
    Tools.load(config.evaluation_metrics, loaded.data is not None, config.features)
    # Whether a budget can be met does not depend on the scores.
    scores = score_channels(loaded.teacher, "random", samples=config.samples)
    plan_channels(loaded.teacher, scores, round_to=config.round_to, **config.budget())


def _check_out(config: CompressConfig) -> None:
    out = config.out
    if out.exists() and not out.is_dir():
        raise CagcError(f"out: {out} is a file, expected a folder")
    # A compression that was killed early leaves at most its config.json, which may be replaced.
    if out.is_dir() and holds_files(out, ["config.json"]):
        if not config.overwrite:
            raise CagcError(f"out: {out} exists and is not empty; add --overwrite, --resume, or choose another --out")
        if not (out / "config.json").is_file():
            raise CagcError(f"out: {out} holds files that no compression wrote; choose another --out")


def _claim(config: CompressConfig) -> None:
    """Clear the folder of an earlier compression, and write the settings of this one.

    ``config.json`` exists throughout, because it marks the folder as one of a compression.
    """
    _check_out(config)
    for name in _OWN_FOLDERS:
        shutil.rmtree(config.out / name, ignore_errors=True)
    for name in _OWN_FILES:
        (config.out / name).unlink(missing_ok=True)
    options = {field.name: getattr(config, field.name) for field in fields(CompressConfig)}
    options |= {"out": str(config.out), "overwrite": False, "distillation": config.distillation.to_dict()}
    options |= config.inputs().to_dict()
    write_json(config.out / "config.json", options)


def _plan(config: CompressConfig, loaded: LoadedInputs, metric: str, folder: Path, resume: bool) -> ChannelPlan:
    if resume and (folder / "plan.json").is_file():
        return ChannelPlan.load(folder / "plan.json")
    with phase(f"Scoring {config.samples} samples: {metric}") as track:
        scores = score_channels(
            loaded.teacher, metric, loaded.parser, config.samples, batch_rule=config.batch_rule, seed=config.seed,
            progress=track("Samples"),
        )  # fmt: skip
        plan = plan_channels(loaded.teacher, scores, round_to=config.round_to, **config.budget())
    console.print(f"  {plan.describe()}")
    return plan


def _distill(
    config: CompressConfig, loaded: LoadedInputs, plan: ChannelPlan, folder: Path, resume: bool
) -> tuple[AnyGenerator, AnyGenerator]:
    """Student and pruned student of ``plan``; with ``resume`` the distillation found in ``folder`` is continued."""
    pruned, distillation = prune(loaded.teacher, plan, config.rescale), config.distillation
    run, files = RunFolder(folder / "distill"), {"student": folder / "pruned.safetensors", "plan": folder / "plan.json"}
    if not resume or not run.checkpoints():
        folder.mkdir(exist_ok=True)
        plan.save(files["plan"])
        save_generator(pruned, files["student"], {"plan": plan.digest(), "teacher": plan.teacher})
    with phase(f"Distilling {distillation.steps} steps: {plan.metric}"):
        student = distill(
            pruned, loaded.teacher, loaded.discriminator, loaded.data, distillation, run.path, loaded.parser,
            resume=resume and bool(run.checkpoints()), overwrite=resume,
            sources={name: str(path.resolve()) for name, path in files.items()} | config.inputs().to_dict(), plan=plan,
        )  # fmt: skip
    # Rounding must not part the mapping network that student and teacher share.
    return round_to_float16(student) if narrowest_dtype(loaded.teacher.mapping) else student, pruned.eval()


def _report(
    config: CompressConfig,
    loaded: LoadedInputs,
    plan: ChannelPlan,
    variants: dict[str, Variant],
    student: AnyGenerator,
    pruned: AnyGenerator,
) -> Report:
    teacher, latency = loaded.teacher, variants["Teacher"].latency
    figures = comparison_figures(
        teacher, student, loaded.parser, {"Before distillation": pruned}, seeds=_shown_seeds(loaded.parser)
    )
    panels = {"RGB distance on the content": ["rgb"], "Perceptual distance": ["perceptual"]}
    machine = latency.machine
    return Report(
        title="Content-aware compression",
        summary=f"{config.teacher or assets.DEFAULT} at {teacher.img_resolution} px: {plan.describe()}.",
        teacher=variants["Teacher"],
        student=variants["Student"],
        others=[v for name, v in variants.items() if name not in ("Teacher", "Student")],
        layers=layer_table(teacher, student),
        figures=figures,
        curves=training_curves(config.out / "distill" / "metrics.jsonl", panels),
        provenance={
            "Command": _command(),
            "Seed": str(config.seed),
            "Plan": plan.digest(),
            "Teacher": plan.teacher,
            "Content": loaded.parser.name,
            "Machine": ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None),
            "Versions": f"cagc {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        },
        features=config.features,
        notes=_notes(config, loaded),
    )


def _command() -> str:
    program = Path(sys.argv[0])
    typed = program.stem == "cagc" or program.match("cagc/__main__.py")
    return " ".join(["cagc", *sys.argv[1:]]) if typed else "cagc.compress"


def _notes(config: CompressConfig, loaded: LoadedInputs) -> list[str]:
    notes = [
        f"Content figures compare student and teacher on {config.pairs} latents that "
        "neither scoring nor distillation saw, with the same noise.",
        "Milliseconds are medians of interleaved calls, the ratio a median of paired ratios.",
    ]
    if loaded.data is not None:
        drawn, real = config.evaluation_samples, min(config.evaluation_samples, len(loaded.data))
        notes.append(
            f"Fréchet distances compare {drawn} drawn images with {real} real ones: "
            "good for ranking the rows of this page, too few for comparison with figures from elsewhere."
        )
    return notes


def _shown_seeds(parser: ContentParser) -> list[int]:
    return list(getattr(parser, "seeds", None) or range(_HELD_OUT - 8, _HELD_OUT))[:8]


def _three_digits(value: float) -> str:
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def print_table(report: Report) -> None:
    """Print the report's table to standard output."""
    key = result_key(report.features)
    table = Table("", "MACs", "params", "ms", "faster", "realised", key, "content L1", "content PSNR")
    for name, row in report.metrics().items():
        latency = row["latency"]
        table.add_row(
            name,
            f"{row['macs'] / 1e9:.3f} G",
            f"{row['parameters'] / 1e6:.2f} M",
            _three_digits(latency["median_ms"]) if latency else "",
            "too noisy" if row["too_noisy"] else f"{row['time_ratio']:.2f}x" if row["time_ratio"] else "",
            f"{row['realised_share']:.2f}" if row["realised_share"] else "",
            *(
                f"{row[k]:.{digits}f}" if row[k] is not None else ""
                for k, digits in ((key, 2), ("content_l1", 4), ("content_psnr_db", 2))
            ),
        )
    # A pipe has no width, and a table cut at the default of 80 columns would lose figures.
    screen = plain_console(width=None if sys.stdout.isatty() else 140)
    screen.print(table)
    if report.further:
        table = Table("", *(variant.name for variant in report.variants))
        for name in report.further:
            row = (variant.further.get(name) for variant in report.variants)
            table.add_row(name, *("" if value is None else f"{value:.4g}" for value in row))
        screen.print(table)
