"""Exports a generator as an ONNX graph, for runtimes without PyTorch."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from cagc_kernels import use_backend

from ..common.errors import CagcError
from ..common.files import atomic_write
from ..models import AnyGenerator
from .plain import PlainGenerator

OPSET = 18
PACKAGES = ("onnx", "onnxscript")


class _Drawing(nn.Module):
    """Maps z, and labels where there are any, to images with fixed truncation and noise."""

    def __init__(self, generator: AnyGenerator, truncation: float, noise: str) -> None:
        super().__init__()
        self.generator, self.truncation, self.noise = generator, truncation, noise

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        return self.generator(z, c, truncation_psi=self.truncation, noise_mode=self.noise)


def export_onnx(
    generator: AnyGenerator,
    path: str | Path,
    batch: int = 1,
    truncation: float = 1.0,
    noise: str = "const",
    plain: bool = False,
) -> None:
    """Write ``generator`` as ONNX: input "z" [batch, z_dim], output "image" [batch, img_channels, *img_size], float32.

    A class-conditional generator has a second input, "c" [batch, c_dim].
    The graph uses the reference backend, in standard operators of opset 18, with the weights inside the file.
    ``plain`` writes :class:`PlainGenerator` instead, which mobile runtimes and their converters accept.

    Args:
        generator: a generator on the CPU.
        path: file name that ends in ``.onnx``.
        batch: images per call, fixed in the graph.
        truncation: truncation ψ, fixed in the graph.
        noise: "const" (the stored maps) or "none".
        plain: use only operators that every converter knows; for generators with frozen weights.

    Raises:
        CagcError: the ``onnx`` or ``onnxscript`` package is missing, the suffix differs, the folder does not exist, or
            ``plain`` does not support the generator.
        ValueError: ``batch`` is below 1, or ``noise`` has another value.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise CagcError(f"export {path}: got suffix {path.suffix!r}, expected '.onnx'")
    if batch < 1:
        raise ValueError(f"batch: got {batch}, expected at least 1")
    if noise not in ("const", "none"):
        raise ValueError(f"noise: got {noise!r}, expected 'const' or 'none'")
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise CagcError(f"export: needs the packages {' and '.join(PACKAGES)} (pip install 'cagc[export]')")
    if plain:
        drawing: nn.Module = PlainGenerator(generator, truncation, noise)
        z = torch.zeros(batch, generator.z_dim)
    else:
        drawing = _Drawing(generator, truncation, noise).train(generator.training)
        z = torch.zeros(batch, generator.z_dim, dtype=generator.w_avg.dtype)
    inputs = {"z": z} | ({"c": torch.zeros(batch, generator.c_dim, dtype=z.dtype)} if generator.c_dim else {})
    with atomic_write(path) as temporary, use_backend("reference"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside PyTorch's exporter
        torch.onnx.export(
            drawing, tuple(inputs.values()), temporary, dynamo=True, opset_version=OPSET, input_names=list(inputs),
            output_names=["image"], external_data=False, verbose=False,
        )  # fmt: skip
