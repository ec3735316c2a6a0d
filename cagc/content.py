"""The public module of content parsers, defined in `cagc.data.content` and `cagc.data.masks`."""

from .data.content import (
    SPECS,
    BiSeNetContent,
    CallableParser,
    ContentParser,
    Everything,
    FaceContent,
    LabelParser,
    choose_classes,
    load,
    load_face_parser,
)
from .data.masks import ContentCoverage, MaskFolder, apply_mask, check_images, resize_mask, validate_mask

__all__ = [
    "SPECS",
    "BiSeNetContent",
    "CallableParser",
    "ContentCoverage",
    "ContentParser",
    "Everything",
    "FaceContent",
    "LabelParser",
    "MaskFolder",
    "apply_mask",
    "check_images",
    "choose_classes",
    "load",
    "load_face_parser",
    "resize_mask",
    "validate_mask",
]
