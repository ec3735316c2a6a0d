"""The table of checkpoint layouts: those that are read, and those that are recognised and refused by name.

A layout is recognised by tensor names that no other layout has ("anchors"), with any prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..common.errors import CagcError
from ..common.torch_files import Document
from ..common.wrappings import Part, parts
from .basicsr import generator_from_basicsr, generator_from_clean
from .nvlabs import discriminator_from_nvlabs, generator_from_nvlabs
from .rosinality import discriminator_from_rosinality, generator_from_rosinality
from .stylegan3 import generator_from_stylegan3

GENERATOR, DISCRIMINATOR, OTHER = "generator", "discriminator", "other"


@dataclass(frozen=True)
class Layout:
    """How one code base names the tensors of a network.

    Attributes:
        title: name of the layout in docs/checkpoints.md and in messages.
        network: :data:`GENERATOR`, :data:`DISCRIMINATOR`, or :data:`OTHER`, which is not read.
        anchors: names of tensors; two of them identify the layout, or its only one.
        build: builds the network from a part of a file; the second argument begins its messages.
        told_by: text that at least one tensor name must contain, besides the anchors.
        found_in: the files that use it, for the table of docs/checkpoints.md.
    """

    title: str
    network: str
    anchors: tuple[str, ...]
    build: Callable[[Part, str], Any] | None = None
    told_by: str = ""
    found_in: str = ""

    def recognises(self, part: Part) -> bool:
        """Whether the tensors of ``part`` have the names of this layout."""
        named = sum(anchor in part.tensors for anchor in self.anchors)
        return named >= min(2, len(self.anchors)) and (
            not self.told_by or any(self.told_by in name for name in part.tensors)
        )


_STYLEGAN2 = ("input.input", "conv1.conv.weight", "to_rgb1.conv.weight", "style.1.weight")

_STYLEGAN3 = ("synthesis.input.weight", "synthesis.input.freqs", "synthesis.input.affine.weight")

LAYOUTS = (
    Layout("swagan of rosinality", OTHER, _STYLEGAN2, told_by="iwt."),
    Layout(
        "rosinality's StyleGAN2 generator", GENERATOR, _STYLEGAN2[:3], generator_from_rosinality,
        found_in="training files with `args` and optimiser states, the paper's authors, DCP-GAN, StyleGAN-NADA, "
        "Anycost; `decoder.` in pSp, e4e and HyperStyle",
    ),
    Layout(
        "rosinality's StyleGAN2 discriminator", DISCRIMINATOR,
        ("final_conv.0.weight", "final_linear.0.weight", "convs.0.0.weight"), discriminator_from_rosinality,
        found_in="the same training files, under `d`",
    ),
    Layout(
        "GFPGAN's \"clean\" StyleGAN2 generator", GENERATOR, ("constant_input.weight", "style_conv1.bias"),
        generator_from_clean, found_in="`stylegan_decoder.` in GFPGANv1Clean (GFPGAN v1.2 to v1.4)",
    ),
    Layout(
        "BasicSR's StyleGAN2 generator", GENERATOR,
        ("constant_input.weight", "style_conv1.modulated_conv.weight", "style_mlp.1.weight"), generator_from_basicsr,
        found_in="`params_ema` and `params` of BasicSR; `stylegan_decoder.` in GFPGANv1 and GFPGANBilinear",
    ),
    Layout("StyleGAN-XL with classes, whose mapping network embeds them by another network", OTHER, _STYLEGAN3,
           told_by="mapping.embed_proj."),
    Layout(
        "NVlabs' StyleGAN3 generator", GENERATOR, _STYLEGAN3, generator_from_stylegan3,
        found_in="`.pkl` snapshots of stylegan3's configurations T and R, also with numpy arrays (SVS's students), "
        "StyleGAN-Human's sg3; the network alone; its state dict alone",
    ),
    Layout(
        "NVlabs' StyleGAN2 generator", GENERATOR,
        ("synthesis.b4.const", "synthesis.b4.conv1.weight", "mapping.w_avg", "mapping.fc0.weight"),
        generator_from_nvlabs,
        found_in="`.pkl` snapshots of stylegan2-ada-pytorch and of stylegan3's `stylegan2` configuration, with every "
        "pickle protocol; StyleGAN-Human; `backbone.` in EG3D and PanoHead; the network alone; its state dict alone",
    ),
    Layout(
        "NVlabs' StyleGAN2 discriminator", DISCRIMINATOR, ("b4.conv.weight", "b4.fc.weight", "b4.out.weight"),
        discriminator_from_nvlabs, found_in="the same snapshots, under `D`",
    ),
    Layout("lucidrains' StyleGAN2", OTHER, ("initial_block", "blocks.0.to_style1.weight")),
    Layout("R3GAN", OTHER, ("MainLayers.0.TransitionLayer.Basis",)),
    Layout("Projected GAN (FastGAN)", OTHER, ("synthesis.init.init.0.weight_orig", "synthesis.to_big.weight_orig")),
    Layout("an encoder of pSp or e4e, whose decoder is under `decoder.` where the file has it", OTHER,
           ("encoder.input_layer.0.weight",)),
    Layout("a BiSeNet face parser, which --content takes", OTHER, ("cp.resnet.conv1.weight",)),
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A network that was found in a file and not read yet."""

    layout: Layout
    part: Part

    def build(self, source: str) -> Any:
        """Build the network. Raises CagcError if its layout is not supported, or if it differs from its layout."""
        if self.layout.build is None:
            raise CagcError(f"{source}: {self.layout.title}, which is not supported")
        return self.layout.build(self.part, source)


def candidates(document: Document) -> list[Candidate]:
    """Find every network in ``document`` whose layout is in the table, also those that are refused by name."""
    anchors = dict.fromkeys(anchor for layout in LAYOUTS for anchor in layout.anchors)
    found: dict[tuple[str, str], Candidate] = {}
    for part in parts(document, anchors):
        layout = next((layout for layout in LAYOUTS if layout.recognises(part)), None)
        if layout is not None:
            found.setdefault((part.place, part.prefix), Candidate(layout, part))
    return list(found.values())
