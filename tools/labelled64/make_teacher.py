"""Make a class-conditional teacher of faces that are turned left (label 0) or right (label 1), and its labelled images.

    python tools/labelled64/make_teacher.py --latents latents.npz --images a.zip b.zip --init teacher.pt --out labelled

`labelled/` then holds `teacher.safetensors` and `images.zip`, with which `cagc compress --labels data` runs.

The generator is that of --init with another mapping network. How far a face is turned is read from the label maps: the
horizontal place of the face's centre, as the eyes are always in the same place. It is linear in w to a good part (the
tool prints how well it predicts images that it was not fitted on). The labelled mapping network is that of --init with
two more features, which carry the label to its last layer and there move w along the plane's normal: nothing is
trained.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from cagc.checkpoints import Checkpoint, load_generator, save_checkpoint
from cagc.common.console import one_line_errors
from cagc.common.errors import CagcError
from cagc.common.files import atomic_write
from cagc.data.dataset import ImageDataset
from cagc.models import Generator
from cagc.pictures import image_grid

FACE = 2  # in the label maps
LEAST_FACE = 200  # pixels of the label map


@dataclass
class Options:
    """Options of the command.

    Attributes:
        latents: .npz with `w` [n, 512] and `labels` [n, h, w]; row i belongs to image i.
        images: zips or folders of images named by number, such as 00017.webp.
        init: checkpoint of the generator, whose mapping network made the w.
        out: folder to make.
        count: labelled images, at most.
        share: share of w that shall lie on their label's side.
        seed: of every random draw.
    """

    latents: Path
    images: tuple[Path, ...]
    init: Path
    out: Path
    count: int = 2000
    share: float = 0.97
    seed: int = 0


def face_places(maps: np.ndarray) -> np.ndarray:
    """Horizontal place of the face's centre in each label map [n, h, w], in widths from the middle; NaN without one."""
    face = maps == FACE
    pixels = face.sum(axis=(1, 2))
    across = np.arange(maps.shape[2]) - (maps.shape[2] - 1) / 2
    centre = (face.sum(axis=1) * across).sum(axis=1) / np.maximum(pixels, 1) / maps.shape[2]
    return np.where(pixels >= LEAST_FACE, centre, np.nan)


def fit_plane(w: np.ndarray, places: np.ndarray) -> tuple[Tensor, float, float]:
    """Unit normal [512] and offset of the plane of w where the face looks straight, and its accuracy on held-out w."""
    mean, middle = w.mean(axis=0), np.median(places)
    x, y = w - mean, places - middle
    seen = np.arange(len(y)) % 4 != 0
    normal = np.linalg.solve(x[seen].T @ x[seen] + 30 * np.eye(w.shape[1]), x[seen].T @ y[seen])
    accuracy = float(((x[~seen] @ normal > 0) == (y[~seen] > 0)).mean())
    normal /= np.linalg.norm(normal)
    return torch.from_numpy(normal).float(), float(mean @ normal), accuracy


def labelled(generator: Generator, normal: Tensor, strength: float) -> Generator:
    """The generator with two classes: before its last activation, w is moved by ``strength`` to the label's side.

    Two more features carry the label through the mapping network, whose other features stay as they are.
    """
    config, depth = generator.config, generator.config.mapping_layers
    width = config.style_dim + 2
    options = {"c_dim": 2, "embed_dim": 2, "mapping_width": width}
    with torch.random.fork_rng(devices=[]):
        made = Generator(replace(config, **options))
    state = made.state_dict() | generator.state_dict()
    # Normalised to a mean square of 1, the label is √2 in one feature and 0 in the other.
    state["mapping.embed.weight"], state["mapping.embed.bias"] = torch.eye(2), torch.zeros(2)
    for i, (inputs, outputs) in enumerate(made.config.mapping_sizes()):
        gain = getattr(made.mapping, f"fc{i}").weight_gain
        before = generator.state_dict()[f"mapping.fc{i}.weight"] * getattr(generator.mapping, f"fc{i}").weight_gain
        weight = torch.zeros(outputs, inputs)
        weight[: len(before), : before.shape[1]] = before
        if i < depth - 1:
            weight[-2:, -2:] = torch.eye(2) / 2**0.5  # the activation multiplies by √2
        else:
            weight[:, -2:] = strength / 2**0.5 * torch.stack([-normal, normal], dim=1)
        bias = torch.zeros(outputs)
        bias[: len(before)] = generator.state_dict()[f"mapping.fc{i}.bias"]
        state |= {f"mapping.fc{i}.weight": weight / gain, f"mapping.fc{i}.bias": bias}
    made.load_state_dict(state)
    return made


@torch.no_grad()
def share_on_side(teacher: Generator, normal: Tensor, offset: float, seed: int) -> float:
    """Share of 2,000 w that lie on their label's side of the plane."""
    rng = torch.Generator().manual_seed(seed)
    z, label = torch.randn(2000, teacher.z_dim, generator=rng), torch.randint(2, (2000,), generator=rng)
    w = teacher.mapping.w(z, torch.nn.functional.one_hot(label, 2).float())
    return ((w @ normal - offset) * (2.0 * label - 1) > 0).float().mean().item()


def write_images(options: Options, side: int, places: np.ndarray) -> int:
    """Write `images.zip` with its dataset.json: faces that are clearly turned, half of them each way."""
    middle = np.nanmedian(places)
    clear = np.nanquantile(np.abs(places - middle), 1 / 3)
    labels: dict[str, int] = {}
    with atomic_write(options.out / "images.zip") as temporary, zipfile.ZipFile(temporary, "w") as bundle:
        for path in options.images:
            data = ImageDataset(path, side)
            for i, name in enumerate(data.names):
                number = int(Path(name).stem)
                turned = places[number] - middle if number < len(places) else np.nan
                if len(labels) < options.count and abs(turned) >= clear:
                    picture = f"{number:05d}.png"
                    labels[picture] = int(turned > 0)
                    with bundle.open(picture, "w") as file:
                        image_grid(data[i][None], tile=side).save(file, "PNG")
        bundle.writestr("dataset.json", json.dumps({"labels": [list(item) for item in labels.items()]}))
    return len(labels)


def main(options: Options) -> None:
    """Make the teacher and its images."""
    generator = load_generator(options.init)
    with np.load(options.latents, allow_pickle=False) as archive:
        w, places = archive["w"].astype(np.float64), face_places(archive["labels"])
    found = np.isfinite(places)
    if found.sum() < w.shape[1]:
        raise CagcError(f"latents: {int(found.sum())} label maps hold a face, expected at least {w.shape[1]}")
    normal, offset, accuracy = fit_plane(w[found], places[found])
    print(f"the plane tells the side of {100 * accuracy:.1f} % of held-out faces")
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"{write_images(options, generator.img_resolution, places)} labelled images")
    strength, share = 0.5, 0.0
    while share < options.share and strength < 100:
        strength *= 1.3
        teacher = labelled(generator, normal, strength)
        share = share_on_side(teacher, normal, offset, options.seed)
    teacher.estimate_w_avg()
    save_checkpoint(options.out / "teacher.safetensors", Checkpoint(teacher.requires_grad_(False)), torch.float16)
    print(f"{100 * share:.1f} % of w are on their label's side; wrote {options.out / 'teacher.safetensors'}")


def run(arguments: Sequence[str] | None = None) -> None:
    """Parse the options and run the command."""
    with one_line_errors():
        main(tyro.cli(Options, description=__doc__, args=arguments))


if __name__ == "__main__":
    run()
