"""``cagc project | mix | morph | edit``: the same edit on a teacher and its student, side by side."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from PIL.Image import Image
from torch import Tensor

from ..checkpoints import load_generator
from ..common.checks import at_least_one
from ..common.console import console, phase
from ..common.documents import write_json
from ..common.errors import CagcError
from ..common.files import atomic_write, check_target
from ..common.seeds import inputs_of_seeds
from ..data.dataset import ImageDataset, read_image
from ..editing.directions import Directions, edited_images, find_directions, mapping_hash
from ..editing.layers import check_layers
from ..editing.mixing import check_animation, mix_styles, morph, write_animation
from ..editing.projection import Projection, ProjectionConfig, project
from ..generate import parse_seeds
from ..metrics.fidelity import content_psnr
from ..metrics.sampling import noise_for
from ..models import AnyGenerator
from ..pictures import Figure, Row, image_grid
from ..runs import ContentOptions, ImageOptions, TeacherOptions


@dataclass(frozen=True, kw_only=True)
class Pair(TeacherOptions):
    """The pair of generators, teacher and student, that a command works on."""

    student: Path | None = None
    """A second checkpoint, put beside it, such as the teacher's student."""

    def load(self) -> dict[str, AnyGenerator]:
        """Load the generators, by the name that labels their images.

        Raises:
            CagcError: a checkpoint cannot be used, or the two do not share resolution and mapping network.
        """
        generators = {"Teacher": self.load_teacher()[0]}
        if self.student is not None:
            generators["Student"] = load_generator(self.student, generators["Teacher"].w_avg.device)
            teacher, student = generators.values()
            for name in ("img_size", "img_channels", "c_dim", "w_dim", "num_ws"):
                ours, theirs = getattr(student, name), getattr(teacher, name)
                if ours != theirs:
                    raise CagcError(f"student: got {name} {ours}, expected the teacher's {theirs}")
            if mapping_hash(teacher) != mapping_hash(student):
                raise CagcError("student: its mapping network is not the teacher's, the same w means another image")
            student.labels = teacher.labels
        return generators


def parse_layers(text: str | None, num_ws: int) -> list[int]:
    """``"4-9"`` or ``"0,3"`` → indices of w vectors; None: all.

    Raises:
        CagcError: ``text`` is not such a list, or an index is out of range.
    """
    try:
        return check_layers(None if text is None else parse_seeds(text), num_ws)
    except CagcError:
        raise CagcError(f"layers: got {text!r}, expected numbers and ranges within 0-{num_ws - 1}") from None


def claim(out: Path, overwrite: bool, names: Sequence[str] = ()) -> None:
    """Raise CagcError if one of ``names`` exists in the folder ``out``, unless ``overwrite``."""
    if out.exists() and not out.is_dir():
        raise CagcError(f"out: {out} is a file, expected a folder")
    existing = [name for name in names if (out / name).exists()]
    if existing and not overwrite:
        raise CagcError(f"out: {out / existing[0]} exists; add --overwrite to replace it")


def write_png(path: Path, rows: Mapping[str, Tensor]) -> None:
    """Write one labelled row of images [N, 3, H, W] per name."""
    strips = tuple(Row(name, name, image_grid(images, background=None)) for name, images in rows.items())
    with atomic_write(path) as temporary:
        Figure(path.stem, "", "", strips).composite().save(temporary)


def _draw_seeds(generator: AnyGenerator, seeds: Sequence[int]) -> Tensor:
    z, c = inputs_of_seeds(generator, seeds)
    return generator.ws(z, c=c)


@dataclass(frozen=True, kw_only=True)
class Project(ContentOptions, ImageOptions):
    """Find the latents that draw given images, with a teacher and its student."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or a folder or zip of them."""
    pair: tyro.conf.OmitArgPrefixes[Pair] = field(default_factory=Pair)
    config: tyro.conf.OmitArgPrefixes[ProjectionConfig] = field(default_factory=ProjectionConfig)
    count: int = 8
    """Images at most, of a folder or zip."""
    out: Path = Path("projection")
    """Folder for the pictures, latents, loss curves and metrics.json."""
    overwrite: bool = False
    """Replace the output of an earlier run."""

    def run(self) -> None:
        """Write the folder; Ctrl-C writes the best so far."""
        claim(self.out, self.overwrite, ("metrics.json",))
        at_least_one(count=self.count)
        generators = self.pair.load()
        teacher = generators["Teacher"]
        names, targets = read_targets(self.images, teacher, self.count, self.convert_images)
        targets = targets.to(teacher.w_avg)
        mask = self.load_parser(teacher.w_avg.device, "everything")(targets)
        perceptual = self.config.load_perceptual(teacher.w_avg.device)
        self.out.mkdir(parents=True, exist_ok=True)
        rows, figures, interrupted = {"Target": targets}, {}, False
        for label, generator in generators.items():
            with phase(f"Projecting {len(targets)} images: {label}") as track:
                found = project(generator, targets, self.config, mask, track("Steps"), perceptual)
            rows[label], figures[label] = self._write(label.lower(), generator, found, targets, mask)
            interrupted |= found.stopped == "interrupted"
            stopped = "done" if found.stopped == "steps" else found.stopped
            console.print(
                f"  {stopped} after {len(found.losses)} steps" + "".join(f", loss {x:.4g}" for x in found.losses[-1:])
            )
            if interrupted:
                break
        write_png(self.out / "comparison.png", rows)
        write_json(self.out / "metrics.json", {"images": names, **figures})
        print(self.out / "comparison.png")
        if interrupted:
            raise KeyboardInterrupt("interrupted; the best so far was written")

    def _write(self, label, generator, found: Projection, targets: Tensor, mask: Tensor):
        with torch.inference_mode():
            images = generator.synthesis(found.ws, found.noise).clamp(-1, 1)
        found.save(self.out / f"{label}.safetensors")
        with atomic_write(self.out / f"{label}-loss.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "loss"])
            writer.writerows(enumerate(found.losses, 1))
        whole = torch.ones_like(mask)
        return images, {
            "stopped": found.stopped,
            "steps": len(found.losses),
            "psnr_db": content_psnr(images, targets, whole, "none").tolist(),
            "content_psnr_db": content_psnr(images, targets, mask, "none").tolist(),
        }


def read_targets(
    paths: Sequence[Path], generator: AnyGenerator, count: int, convert: bool = False
) -> tuple[list[str], Tensor]:
    """Names and images [N, img_channels, *img_size] in [-1, 1]; says what is done to an image of another form.

    Raises:
        CagcError: no image, or one that cannot be read, or is of another form and ``convert`` is false.
    """
    if not paths:
        raise CagcError("images: got none, expected image files, or a folder or zip of them")
    if len(paths) == 1 and (paths[0].is_dir() or paths[0].suffix == ".zip"):
        data = ImageDataset(paths[0], generator.img_size, convert=convert, channels=generator.img_channels)
        names, images = data.names[:count], data.batch(range(min(count, len(data))))
        changed = [data.changed.get(name, "") for name in names]
    else:
        names = [path.name for path in paths]
        size, channels = generator.img_size, generator.img_channels
        found, changed = zip(*(read_image(path, size, convert, channels) for path in paths))
        images = torch.stack(found)
    for name, done in zip(names, changed):
        if done:
            console.print(f"  {name}: {done}")
    return names, images


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Take some layers' styles from other seeds: a grid of every source with every style."""

    pair: tyro.conf.OmitArgPrefixes[Pair] = field(default_factory=Pair)
    seeds: str = "0-3"
    """Seeds of the images that are changed, one a row."""
    styles: str = "4-8"
    """Seeds of the images whose styles are taken, one a column."""
    layers: str | None = None
    """w vectors that are taken, such as 4-9; the upper half if left out."""
    out: Path = Path("mixing")
    """Folder for one grid a generator."""
    overwrite: bool = False
    """Replace the output of an earlier run."""

    def run(self) -> None:
        """Write the grids."""
        seeds, styles = parse_seeds(self.seeds), parse_seeds(self.styles)
        generators = self.pair.load()
        num_ws = generators["Teacher"].config.num_ws
        if num_ws == 1:
            raise CagcError("mix: got a generator with one w for all layers, expected one whose layers have their own")
        layers = parse_layers(self.layers or f"{num_ws // 2}-{num_ws - 1}", num_ws)
        names = [f"{label.lower()}.png" for label in generators]
        claim(self.out, self.overwrite, names)
        self.out.mkdir(parents=True, exist_ok=True)
        for name, generator in zip(names, generators.values()):
            with atomic_write(self.out / name) as temporary:
                mixing_grid(generator, seeds, styles, layers).save(temporary)
            print(self.out / name)


@torch.inference_mode()
def mixing_grid(generator: AnyGenerator, seeds: Sequence[int], styles: Sequence[int], layers: Sequence[int]) -> Image:
    """Images of ``seeds`` in the first column, of ``styles`` in the first row, and each with each one's ``layers``."""
    ws, other = _draw_seeds(generator, seeds), _draw_seeds(generator, styles)
    noise = noise_for(generator, [0], "const")
    heads = generator.synthesis(other, noise)
    rows = [torch.full_like(heads[:1], 1.0), heads]
    for row in ws:
        own = row.expand(len(other), -1, -1)
        rows += [generator.synthesis(row[None], noise), generator.synthesis(mix_styles(own, other, layers), noise)]
    return image_grid(torch.cat(rows), columns=len(styles) + 1)


@dataclass(frozen=True, kw_only=True)
class Morph:
    """Walk the straight line between two latents."""

    pair: tyro.conf.OmitArgPrefixes[Pair] = field(default_factory=Pair)
    ends: str = "0,1"
    """Two seeds."""
    projection: Path | None = None
    """Latents of cagc project to walk between instead; --ends are then the indices of its images."""
    steps: int = 24
    """Images on the way."""
    out: Path = Path("morph.webp")
    """.gif, .webp or .mp4 (with the package av) for an animation, .png for a strip; the generators are put beside each
    other."""
    overwrite: bool = False
    """Replace the output of an earlier run."""

    def run(self) -> None:
        """Write the picture."""
        ends = parse_seeds(self.ends)
        if len(ends) != 2:
            raise CagcError(f"ends: got {self.ends!r}, expected two numbers such as 0,1")
        check_animation(self.out)
        check_target(self.out, self.overwrite)
        strips = []
        for generator in self.pair.load().values():
            start, end, noise, end_noise = self._ends(generator, ends)
            strips.append(morph(generator, start, end, self.steps, noise, end_noise))
        write_animation(self.out, strips)
        print(self.out)

    def _ends(self, generator: AnyGenerator, ends: list[int]):
        if self.projection is None:
            with torch.inference_mode():
                return *_draw_seeds(generator, ends), noise_for(generator, [0], "const"), None
        found = Projection.load(self.projection)
        if max(ends) >= len(found.ws) or tuple(found.ws.shape[1:]) != (
            generator.num_ws,
            generator.w_dim,
        ):
            raise CagcError(
                f"projection: {self.projection} holds w of {list(found.ws.shape)}, expected at least {max(ends) + 1} "
                f"of [{generator.num_ws}, {generator.w_dim}]"
            )
        maps, expected = [tuple(n.shape[2:]) for n in found.noise], generator.synthesis.noise_shapes()
        if maps != list(map(tuple, expected)):
            raise CagcError(f"projection: {self.projection} holds noise maps of {maps}, expected {expected}")
        like = generator.w_avg
        noises = [[noise[i : i + 1].to(like) for noise in found.noise] for i in ends]
        return *(found.ws[i].to(like) for i in ends), *noises


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Move images along a direction of w, found by PCA on the teacher unless one is given."""

    pair: tyro.conf.OmitArgPrefixes[Pair] = field(default_factory=Pair)
    seeds: str = "0-3"
    """Seeds of the images."""
    directions: Path | None = None
    """File of an earlier run; if left out, directions are found and written to --out."""
    layer: str | None = None
    """Find directions in the activations of this layer, such as b16.conv1, instead of in w; an SN-GAN's are found in
    b4 if left out."""
    index: int = 0
    """Direction, the most important first."""
    strengths: tuple[float, ...] = (-3.0, -1.5, 0.0, 1.5, 3.0)
    """Standard deviations to move by, one a column."""
    layers: str | None = None
    """w vectors that move, such as 0-3; all if left out."""
    out: Path = Path("edit")
    """Folder for edit.png and directions.safetensors."""
    overwrite: bool = False
    """Replace the output of an earlier run."""

    def run(self) -> None:
        """Write the picture and the directions."""
        claim(self.out, self.overwrite, ("edit.png",))
        seeds = parse_seeds(self.seeds)
        if not self.strengths:
            raise CagcError("strengths: got none, expected at least one")
        generators = self.pair.load()
        teacher = generators["Teacher"]
        layers = parse_layers(self.layers, teacher.num_ws)
        if self.directions is not None:
            directions = Directions.load(self.directions)
        else:
            with phase("Finding directions") as track:
                directions = find_directions(teacher, layer=self.layer, progress=track("Samples"))
        directions.check(teacher)
        rows = {
            f"{label} {seed}": images
            for seed in seeds
            for label, images in edited_images(generators, directions, seed, self.index, self.strengths, layers).items()
        }
        self.out.mkdir(parents=True, exist_ok=True)
        if self.directions is None:
            directions.save(self.out / "directions.safetensors")
        write_png(self.out / "edit.png", rows)
        print(self.out / "edit.png")
