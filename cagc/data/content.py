"""Content parsers: which pixels of an image are the content of interest.

A parser maps images [N, 3, H, W] in [-1, 1] to a mask [N, 1, H, W] of zeros and ones, in the images' dtype and on their
device. Channel scores and distillation losses use only the pixels where the mask is 1. `load` creates a parser from a
short spec: the embedded face parser, BiSeNet weights, a folder or zip of masks, any callable, or `everything`.
"""

from __future__ import annotations

import hashlib
import inspect
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .. import assets
from ..checkpoints.states import fill
from ..common.errors import CagcError
from ..common.file_kinds import SAFETENSORS, TORCH_ZIP, file_kind
from ..common.reading import parse_json, reading
from ..common.rgb import as_rgb
from ..common.torch_files import open_document
from ..common.wrappings import Part
from ..common.zips import MAX_IMAGE_ZIP_DIRECTORY_BYTES, has_directory
from ..models import bisenet, face_parser
from .masks import MaskFolder, check_images, resize_mask, validate_mask

SPECS = "'faces', 'everything', BiSeNet weights (.pth, .pt, .safetensors), a folder or zip of masks, or a callable"


@runtime_checkable
class ContentParser(Protocol):
    """What a content parser must have: a `name`, which plans and reports record, and a call from images to masks.

    `seeds` are the seeds of the images, if known. A parser may also have an attribute `fingerprint`, a string made of
    its name and of the content of its weights or masks, by which a resumed run recognises it; the default is its name.
    """

    name: str

    def __call__(self, images: Tensor, seeds: Sequence[int] | None = None) -> Tensor: ...


class Everything:
    """Treats every pixel as content, for content-agnostic scores and losses."""

    name = "everything"

    def __call__(self, images: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        check_images(images)
        return torch.ones_like(images[:, :1])


class CallableParser:
    """Wraps a user's function of the images, and of `seeds` if it has a parameter of that name.

    The function may return [N, 1, H, W] or [N, H, W], boolean or zeros and ones; anything else is a CagcError.
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
            rgb = as_rgb(images)
            mask = self.function(rgb, seeds=seeds) if self._wants_seeds else self.function(rgb)
        if isinstance(mask, Tensor) and mask.ndim == 3:
            mask = mask[:, None]
        return validate_mask(mask, images, self.name).to(images)


class LabelParser:
    """Selects content by class names from a network that labels pixels. Subclasses set the attributes and `label`."""

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

    @cached_property
    def fingerprint(self) -> str:
        """The parser's name with a hash of the network's weights."""
        digest = hashlib.sha256()
        for key, tensor in self.net.state_dict().items():
            digest.update(key.encode() + tensor.cpu().numpy().tobytes())
        return f"{self.name} {digest.hexdigest()[:16]}"

    def label(self, images: Tensor) -> Tensor:
        """Return the class index of each pixel, [N, h, w], of float32 images on the network's device."""
        raise NotImplementedError

    def resize(self, mask: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize a boolean mask from `label`'s size to `size`."""
        return resize_mask(mask, size)

    @torch.no_grad()
    def __call__(self, images: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        check_images(images)
        size = (images.shape[-2], images.shape[-1])
        masks = []
        for part in as_rgb(images).split(self.images_per_pass):
            labels = self.label(part.to(self.device, torch.float32))
            masks.append(self.resize(torch.isin(labels, self._chosen), size))
        mask = torch.cat(masks) if masks else torch.empty(0, *size)
        return mask[:, None].to(images)


class FaceContent(LabelParser):
    """The embedded face parser: background, person (hair, neck, clothes), face.

    The default content is person and face: the parser does not separate hair from clothes, and without hair it would
    lose what the CAGC authors keep (hair, neck, hats).
    """

    kind = "faces"
    class_names = face_parser.CLASSES
    default_classes = ("person", "face")
    images_per_pass = 64

    def label(self, images: Tensor) -> Tensor:
        return face_parser.label_pixels(self.net, images)


class BiSeNetContent(LabelParser):
    """BiSeNet with a user's weights. The default content is the CAGC authors': all but background and cloth.

    `resize_rule` is the rule by which `resize_mask` resizes masks from 512 px to the images' size.
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


def choose_classes(wanted: Iterable[str] | None, names: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """Return class names in the network's order. `wanted`: names, or one string with commas; None means `default`.

    Raises:
        CagcError: the parser does not know a name (the message lists the known ones), or there is no name.
    """
    if wanted is None:
        return tuple(default)
    chosen = {c.strip() for c in (wanted.split(",") if isinstance(wanted, str) else wanted)} - {""}
    unknown = sorted(chosen - set(names))
    if unknown or not chosen:
        raise CagcError(f"classes: expected some of {', '.join(names)}; got {', '.join(unknown) or 'none'}")
    return tuple(name for name in names if name in chosen)


def load_face_parser(path: str | Path) -> face_parser.FaceParser:
    """Load weights that `tools/faces64/train_parser.py` wrote. Raises CagcError if the file is damaged or another."""
    with reading("face parser", path):
        document = open_document(Path(path))
        widths = parse_json(document.header.get("widths", "null"))
        if (
            not isinstance(widths, list)
            or not 1 <= len(widths) <= len(document.root)
            or not all(map(_is_width, widths))
        ):
            raise CagcError(f"does not hold a face parser: got widths {widths!r:.60}, expected a list of numbers")
        part = Part("", "", document.root, document=document)
        return fill(lambda: face_parser.FaceParser(widths), part, None, "face parser", "a face parser")


def _is_width(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 2**20


def _is_face_parser(path: Path) -> bool:
    with reading("content", path):
        return file_kind(path) == SAFETENSORS and open_document(path).header.get("format") == "cagc-face-parser"


def _holds_masks(path: Path) -> bool:
    """Whether ``path`` is a folder, or a zip that torch did not write."""
    if path.is_dir():
        return True
    with reading("content", path):
        if file_kind(path) != TORCH_ZIP:
            return False
        with path.open("rb") as file:
            if not has_directory(file, MAX_IMAGE_ZIP_DIRECTORY_BYTES):
                return path.suffix == ".zip"  # a truncated zip does not show what it held
            return not any(name.endswith("/data.pkl") for name in zipfile.ZipFile(file).namelist())


def load(
    spec: str | Path | Callable[..., Tensor],
    classes: Iterable[str] | None = None,
    device: torch.device | str = "cpu",
) -> ContentParser:
    """Create a content parser.

    Args:
        spec: `"faces"` (embedded, 64 px working resolution), `"everything"`, the path of BiSeNet weights or of a face
            parser trained by `tools/faces64`, a folder or zip of masks named by seed, or a callable images → mask.
        classes: class names that count as content, for parsers that have classes.
        device: device of the parser's network; images may be on any device.

    Raises:
        CagcError: the spec or a class is unknown, or a file cannot be used. TypeError: `spec` has another type.
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
        if not _holds_masks(path):
            if _is_face_parser(path):
                return FaceContent(load_face_parser(path), classes, device)
            return BiSeNetContent(bisenet.load_bisenet(path), classes, device)
        parser = MaskFolder(path)
    if classes is not None:
        raise CagcError(f"classes: the content parser {parser.name} has none; leave classes out")
    return parser
