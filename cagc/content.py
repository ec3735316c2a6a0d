"""Content parsers: which pixels of an image are the content of interest.

A parser maps images [N, 3, H, W] in [-1, 1] to a mask [N, 1, H, W] of zeros and ones, in the images' dtype and on their
device. Channel scores and distillation losses look at the pixels of ones only. `load` makes one from a short spec:
the embedded face parser, BiSeNet weights, a folder or zip of masks, any callable, or `everything`.
"""

from __future__ import annotations

import inspect
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from cagc import assets
from cagc.errors import CagcError
from cagc.models import bisenet, face_parser

MASK_SUFFIXES = (".png", ".webp", ".bmp", ".gif", ".jpg", ".jpeg", ".tif", ".tiff")
SPECS = "'faces', 'everything', BiSeNet weights (.pth, .pt, .safetensors), a folder or zip of masks, or a callable"


@runtime_checkable
class ContentParser(Protocol):
    """`name` is what plans and reports record. `seeds` are the seeds that the images were drawn from, where known."""

    name: str

    def __call__(self, images: Tensor, seeds: Sequence[int] | None = None) -> Tensor: ...


def check_images(images: Tensor) -> None:
    """Raises ValueError unless `images` is a floating-point tensor [N, 3, H, W]."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        got = f"{list(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images: expected floating point [N, 3, H, W], got {got}")


def validate_mask(mask: Tensor, images: Tensor, name: str = "content parser") -> Tensor:
    """Return `mask` if it is [N, 1, H, W], of zeros and ones, for `images` [N, 3, H, W].

    Raises:
        CagcError: another type, shape or values, with what came and what was expected.
    """
    expected = [images.shape[0], 1, *images.shape[-2:]]
    if not isinstance(mask, Tensor):
        raise CagcError(f"{name}: expected a mask tensor {expected}, got {type(mask).__name__}")
    if list(mask.shape) != expected:
        raise CagcError(f"{name}: expected a mask of shape {expected}, got {list(mask.shape)}")
    wrong = (mask != 0) & (mask != 1)
    if wrong.any():
        raise CagcError(f"{name}: expected mask values 0 and 1, got {mask[wrong][0].item():g}")
    return mask


def resize_mask(mask: Tensor, size: int | tuple[int, int], rule: str = "nearest") -> Tensor:
    """Binary mask [N, H, W] or [N, 1, H, W] → the same at `size` (side, or height and width), same dtype.

    `nearest` takes the source pixel under each target pixel's centre, floor((i + 0.5)·H/h): the CAGC authors' rule for
    channel scores. `bilinear` interpolates without antialiasing and keeps what exceeds 0.5: theirs for distillation.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if rule == "nearest":
        rows, columns = (
            (2 * torch.arange(n, device=mask.device) + 1) * m // (2 * n)
            for n, m in zip((height, width), mask.shape[-2:])
        )
        return mask[..., rows[:, None], columns]
    if rule == "bilinear":
        as_batch = mask.reshape(-1, 1, *mask.shape[-2:]).float()
        soft = F.interpolate(as_batch, (height, width), mode="bilinear", align_corners=False)
        return (soft > 0.5).to(mask.dtype).reshape(*mask.shape[:-2], height, width)
    raise ValueError(f"rule: expected 'nearest' or 'bilinear', got {rule!r}")


def apply_mask(images: Tensor, mask: Tensor) -> Tensor:
    """images [N, C, H, W] with zeros (mid-grey in [-1, 1]) outside mask [N, 1, H, W]; differentiable in `images`."""
    if mask.shape != (images.shape[0], 1, *images.shape[-2:]):
        raise ValueError(f"mask: expected {[images.shape[0], 1, *images.shape[-2:]]}, got {list(mask.shape)}")
    return images * mask


class ContentCoverage:
    """Counts content over many masks, to tell a parser that sees nothing from one that misses a sample."""

    def __init__(self) -> None:
        self.samples = 0
        self.empty = 0
        self._area = 0.0

    def add(self, mask: Tensor) -> None:
        """mask [N, 1, H, W]."""
        area = mask.detach().flatten(1).double().mean(1)
        self.samples += len(area)
        self.empty += int((area == 0).sum())
        self._area += float(area.sum())

    @classmethod
    def joined(cls, parts: Iterable[ContentCoverage]) -> ContentCoverage:
        """Of the masks of all ``parts``."""
        whole = cls()
        for part in parts:
            whole.samples += part.samples
            whole.empty += part.empty
            whole._area += part._area
        return whole

    @property
    def mean_area(self) -> float:
        """Share of all pixels that is content, in [0, 1]."""
        return self._area / max(1, self.samples)

    def check(self, name: str = "content parser") -> None:
        """Raises CagcError if masks came and every one was empty."""
        if self.samples and self.empty == self.samples:
            raise CagcError(
                f"{name}: found no content in any of {self.samples} images; choose another parser or other classes"
            )


class Everything:
    """Every pixel is content: content-agnostic scores and losses."""

    name = "everything"

    def __call__(self, images: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        check_images(images)
        return torch.ones_like(images[:, :1])


class CallableParser:
    """A user's function of the images (and of `seeds`, if it has a parameter of that name).

    It may return [N, 1, H, W] or [N, H, W], boolean or of zeros and ones; anything else is a CagcError.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.name = f"callable:{getattr(function, '__qualname__', type(function).__name__)}"
        try:
            self._wants_seeds = "seeds" in inspect.signature(function).parameters
        except (TypeError, ValueError):
            self._wants_seeds = False

    def __call__(self, images: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        check_images(images)
        with torch.no_grad():
            mask = self.function(images, seeds=seeds) if self._wants_seeds else self.function(images)
        if isinstance(mask, Tensor) and mask.ndim == 3:
            mask = mask[:, None]
        return validate_mask(mask, images, self.name).to(images)


class LabelParser:
    """Content by class name over a network that labels pixels. Subclasses set the attributes and `label`."""

    kind: str
    class_names: tuple[str, ...]
    default_classes: tuple[str, ...]
    images_per_pass: int

    def __init__(self, net: nn.Module, classes: Iterable[str] | None, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.net = net.to(self.device).eval().requires_grad_(False)
        self.classes = choose_classes(classes, self.class_names, self.default_classes)
        self.name = f"{self.kind}({','.join(self.classes)})"
        self._chosen = torch.tensor([self.class_names.index(c) for c in self.classes], device=self.device)

    def label(self, images: Tensor) -> Tensor:
        """float32 images on the network's device → class index per pixel [N, h, w]."""
        raise NotImplementedError

    def resize(self, mask: Tensor, size: tuple[int, int]) -> Tensor:
        """Boolean mask of `label`'s size → the images' size."""
        return resize_mask(mask, size)

    @torch.no_grad()
    def __call__(self, images: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        check_images(images)
        size = (images.shape[-2], images.shape[-1])
        masks = []
        for part in images.split(self.images_per_pass):
            labels = self.label(part.to(self.device, torch.float32))
            masks.append(self.resize(torch.isin(labels, self._chosen), size))
        mask = torch.cat(masks) if masks else torch.empty(0, *size)
        return mask[:, None].to(images)


class FaceContent(LabelParser):
    """The embedded face parser: background, person (hair, neck, clothes), face.

    Content by default is person and face: the parser draws no line between hair and clothes, and leaving out hair
    would lose what the CAGC authors keep (hair, neck, hats).
    """

    kind = "faces"
    class_names = face_parser.CLASSES
    default_classes = ("person", "face")
    images_per_pass = 64

    def label(self, images: Tensor) -> Tensor:
        return face_parser.label_pixels(self.net, images)


class BiSeNetContent(LabelParser):
    """BiSeNet with a user's weights; content by default as the CAGC authors have it: all but background and cloth.

    `resize_rule` is `resize_mask`'s rule from 512 px to the images' size.
    """

    kind = "bisenet"
    class_names = bisenet.CLASSES
    default_classes = tuple(c for c in bisenet.CLASSES if c not in ("background", "cloth"))
    images_per_pass = 8
    resize_rule = "nearest"

    def label(self, images: Tensor) -> Tensor:
        return self.net(bisenet.preprocess(images)).argmax(dim=1)

    def resize(self, mask: Tensor, size: tuple[int, int]) -> Tensor:
        return resize_mask(mask, size, self.resize_rule)


class MaskFolder:
    """Masks drawn by hand: a folder or zip of images whose file name is the seed of the image that each belongs to.

    Content is what is brighter than mid-grey, in a file of zeros and ones what is not zero, and in a palette image what
    is not black. Masks of another size are resized by `resize_mask`. Draw them over what `cagc generate --seeds` wrote.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files: dict[int, str] = {}
        for file in self._list():
            stem = Path(file).stem
            if not stem.isdecimal():
                raise CagcError(f"{self.path}: mask {file!r} must be named by the seed of its image, such as 00017.png")
            if int(stem) in self._files:
                raise CagcError(f"{self.path}: two masks for seed {int(stem)}, one of them {file!r}")
            self._files[int(stem)] = file
        if not self._files:
            raise CagcError(f"{self.path}: no mask image in it (expected files such as 00017.png, named by seed)")
        self.seeds = sorted(self._files)
        self.name = f"masks:{self.path.name}"

    def _list(self) -> list[str]:
        if self.path.is_dir():
            names = [entry.name for entry in self.path.iterdir() if entry.is_file()]
        else:
            try:
                with zipfile.ZipFile(self.path) as bundle:
                    names = bundle.namelist()
            except (OSError, zipfile.BadZipFile) as error:
                raise CagcError(f"cannot read masks from {self.path}: {error}") from error
        images = (n for n in names if Path(n).suffix.lower() in MASK_SUFFIXES and not Path(n).name.startswith("."))
        return sorted(images)

    def _read(self, file: str) -> Tensor:
        try:
            if self.path.is_dir():
                data = (self.path / file).read_bytes()
            else:
                with zipfile.ZipFile(self.path) as bundle:
                    data = bundle.read(file)
            image = Image.open(BytesIO(data))
            image.load()
        except (OSError, UnidentifiedImageError, zipfile.BadZipFile, SyntaxError, ValueError) as error:
            raise CagcError(f"{self.path}: cannot read mask {file!r}: {error}") from error
        palette, wide = image.mode == "P", image.mode.startswith(("I", "F"))
        pixels = np.asarray(image if wide else image.convert("L"))
        threshold = 0 if palette or pixels.max() <= 1 else 127 if pixels.max() <= 255 else 32767
        return torch.from_numpy(pixels > threshold)

    def __call__(self, images: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Raises CagcError if `seeds` is missing or names an image without a mask, ValueError if its length differs."""
        check_images(images)
        if seeds is None:
            raise CagcError(f"{self.name}: needs the seeds of the images; these images have none")
        seeds = [int(seed) for seed in seeds]
        if len(seeds) != len(images):
            raise ValueError(f"seeds: expected {len(images)}, one for each image, got {len(seeds)}")
        missing = [seed for seed in seeds if seed not in self._files]
        if missing:
            raise CagcError(
                f"{self.path}: no mask for seeds {missing[:5]} (it has {len(self.seeds)} masks, "
                f"seeds {self.seeds[0]} to {self.seeds[-1]})"
            )
        masks = [resize_mask(self._read(self._files[seed])[None], tuple(images.shape[-2:])) for seed in seeds]
        return torch.stack(masks).to(images)


def choose_classes(wanted: Iterable[str] | None, names: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """Class names in the network's order. `wanted`: names, or one string with commas; None takes `default`.

    Raises:
        CagcError: a name that the parser does not know (the known ones are listed), or no name at all.
    """
    if wanted is None:
        return tuple(default)
    chosen = {c.strip() for c in (wanted.split(",") if isinstance(wanted, str) else wanted)} - {""}
    unknown = sorted(chosen - set(names))
    if unknown or not chosen:
        raise CagcError(f"classes: expected some of {', '.join(names)}; got {', '.join(unknown) or 'none'}")
    return tuple(name for name in names if name in chosen)


def load_face_parser(path: str | Path) -> face_parser.FaceParser:
    """Weights that `tools/faces64/train_parser.py` wrote; CagcError if the file is damaged or another kind of file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key).float() for key in file.keys()}
        net = face_parser.FaceParser(json.loads(metadata["widths"]))
        net.load_state_dict(state)
    except (OSError, SafetensorError) as error:
        raise CagcError(f"cannot read the face parser {path}: {error}") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CagcError(f"{path} does not hold a face parser: {str(error).splitlines()[0]}") from error
    return net


def _is_face_parser(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == "cagc-face-parser"
    except (OSError, SafetensorError):
        return False


def load(
    spec: str | Path | Callable[..., Tensor],
    classes: Iterable[str] | None = None,
    device: torch.device | str = "cpu",
) -> ContentParser:
    """Make a content parser.

    spec: `"faces"` (embedded, 64 px working resolution), `"everything"`, the path of BiSeNet weights or of a face
    parser trained by `tools/faces64`, a folder or zip of masks named by seed, or a callable images → mask.
    classes: class names that count as content, for parsers that have classes. device: where a network runs; images may
    be on any device.

    Raises:
        CagcError: an unknown spec or class, or a file that cannot be used. TypeError: not a spec at all.
    """
    if callable(spec):
        parser = spec if isinstance(spec, ContentParser) else CallableParser(spec)
    elif not isinstance(spec, (str, Path)):
        raise TypeError(f"content: expected {SPECS}, got {type(spec).__name__}")
    elif spec == "faces":
        return FaceContent(load_face_parser(assets.faces64() / "parser.safetensors"), classes, device)
    elif spec == "everything":
        parser = Everything()
    else:
        path = Path(spec)
        if not path.exists():
            raise CagcError(f"content: expected {SPECS}; got {str(spec)!r}, neither a name nor an existing path")
        if path.suffix == ".safetensors" and _is_face_parser(path):
            return FaceContent(load_face_parser(path), classes, device)
        if path.suffix in (".pth", ".pt", ".safetensors"):
            return BiSeNetContent(bisenet.load_bisenet(path), classes, device)
        parser = MaskFolder(path)
    if classes is not None:
        raise CagcError(f"classes: the content parser {parser.name} has none; leave classes out")
    return parser
