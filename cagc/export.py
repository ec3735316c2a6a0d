"""Export of a generator as an ONNX graph, for runtimes that have no PyTorch."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from cagc_kernels import use_backend

from .common.errors import CagcError
from .common.files import atomic_write
from .models import AnyGenerator

OPSET = 18
PACKAGES = ("onnx", "onnxscript")


class _Drawing(nn.Module):
    """z → image with fixed truncation and noise."""

    def __init__(self, generator: AnyGenerator, truncation: float, noise: str) -> None:
        super().__init__()
        self.generator, self.truncation, self.noise = generator, truncation, noise

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.generator(z, truncation_psi=self.truncation, noise_mode=self.noise)


def export_onnx(
    generator: AnyGenerator, path: str | Path, batch: int = 1, truncation: float = 1.0, noise: str = "const"
) -> None:
    """Write ``generator`` as ONNX: input "z" [batch, z_dim], output "image" [batch, 3, R, R], float32.

    The graph is that of the reference path, in standard operators of opset 18, the weights inside the file.

    Args:
        generator: on the CPU.
        path: ends in ``.onnx``.
        batch: images per call, fixed in the graph.
        truncation: ψ, fixed in the graph.
        noise: "const" (the stored maps) or "none".

    Raises:
        CagcError: the ``onnx`` or ``onnxscript`` package is missing, another suffix, or the folder does not exist.
        ValueError: ``batch`` is below 1, or ``noise`` is not as above.
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
    z = torch.zeros(batch, generator.z_dim, dtype=generator.w_avg.dtype)
    drawing = _Drawing(generator, truncation, noise).train(generator.training)
    with atomic_write(path) as temporary, use_backend("reference"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about PyTorch's own exporter
        torch.onnx.export(
            drawing, (z,), temporary, dynamo=True, opset_version=OPSET, input_names=["z"], output_names=["image"],
            external_data=False, verbose=False,
        )  # fmt: skip
