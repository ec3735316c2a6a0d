"""A modulated 3x3 convolution with frozen weights, packed once for Winograd's algorithm: float32, CPU, no gradients.

See csrc/include/cagc/planar_conv.h. F(4x4, 3x3) takes a quarter of the convolution's multiplications; where the image
is up-sampled, F(4, 2) of its even rows and columns takes 9 of 16. Tiles that reach beyond the image are computed whole.
"""

from __future__ import annotations

import torch

from . import _C
from .synthesis import instruction_sets


class PlanarConv:
    """A convolution of contiguous images in planes with ``weight`` [O, I, 3, 3], which may be changed afterwards.

    Args:
        weight: floating point [O, I, 3, 3].
        up: 1 correlates as ``torch.nn.functional.conv2d``; 2 is its ``conv_transpose2d`` of stride 2, without padding.
        instructions: one of :func:`~cagc_kernels.native.synthesis.instruction_sets`; None takes the best.

    Raises:
        ValueError: ``weight`` has another shape, ``up`` is another number, or ``instructions`` is not available on this
            processor.
    """

    def __init__(self, weight: torch.Tensor, instructions: str | None = None, up: int = 1) -> None:
        available = instruction_sets()
        self.instructions = available[0] if instructions is None else instructions
        if self.instructions not in available:
            raise ValueError(f"instructions: got {instructions!r}, expected one of {', '.join(available)}")
        if weight.ndim != 4 or tuple(weight.shape[2:]) != (3, 3):
            raise ValueError(f"weight: got {list(weight.shape)}, expected [O, I, 3, 3]")
        if up not in (1, 2):
            raise ValueError(f"up: got {up}, expected 1 or 2")
        self.up, (self.out_channels, self.in_channels) = up, weight.shape[:2]
        dense = weight.detach().to("cpu", torch.float64).contiguous()
        self._conv = _C.PlanarConv(
            weight=dense.data_ptr(), in_channels=self.in_channels, out_channels=self.out_channels,
            up=up, instructions=self.instructions,
        )  # fmt: skip

    @property
    def bytes(self) -> int:
        """Bytes of the packed weights."""
        return self._conv.bytes

    def output_size(self, height: int, width: int, padding: int) -> tuple[int, int]:
        """Height and width of the result."""
        if self.up == 2:
            return 2 * height + 1, 2 * width + 1
        return height + 2 * padding - 2, width + 2 * padding - 2

    def multiplications(self, n: int, height: int, width: int, padding: int) -> int:
        """Multiplications of one call without those of the transforms."""
        tiles = self._conv.multiplications(n=n, h=height, w=width, padding=padding)
        return tiles * self.in_channels * self.out_channels

    def workspace(self, n: int, height: int, width: int, padding: int) -> int:
        """Floats of memory that one call of PyTorch's number of threads needs."""
        threads = torch.get_num_threads()
        return self._conv.workspace(n=n, h=height, w=width, padding=padding, threads=threads)

    def __call__(
        self,
        x: torch.Tensor,
        scale: torch.Tensor | None = None,
        demod: torch.Tensor | None = None,
        padding: int = 1,
        out: torch.Tensor | None = None,
        workspace: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """demod · (scale · ``x`` convolved with the weight), of :meth:`output_size`.

        Args:
            x: float32 [N, I, h, w], contiguous. scale: float32 [N, I]; None: ones. demod: float32 [N, O]; None: ones.
            padding: zeros around ``x``; 1 with ``up`` 2.
            out: contiguous, to be filled and returned. workspace: memory of at least :meth:`workspace` floats. Both are
                allocated where they are None.

        Raises:
            ValueError: a shape, dtype or memory order is not as above.
        """
        n, channels, height, width = x.shape
        size = self.output_size(height, width, padding)
        out = x.new_empty(n, self.out_channels, *size) if out is None else out
        needed = self.workspace(n, height, width, padding) if n and min(size) > 0 else 0
        workspace = x.new_empty(needed) if workspace is None else workspace
        shapes = {"x": (x, (n, self.in_channels, height, width)), "scale": (scale, (n, self.in_channels)),
                  "demod": (demod, (n, self.out_channels)), "out": (out, (n, self.out_channels, *size))}  # fmt: skip
        for name, (tensor, shape) in shapes.items():
            if tensor is None:
                continue
            if tuple(tensor.shape) != shape or tensor.dtype != torch.float32 or not tensor.is_contiguous():
                expected = f"contiguous float32 {list(shape)}"
                raise ValueError(f"{name}: got {tensor.dtype} {list(tensor.shape)}, expected {expected}")
        if workspace.numel() < needed or workspace.dtype != torch.float32:
            raise ValueError(f"workspace: got {workspace.numel()} of {workspace.dtype}, expected {needed} of float32")
        if out.numel():
            self._conv.run(
                x=x.data_ptr(), scale=0 if scale is None else scale.data_ptr(),
                demod=0 if demod is None else demod.data_ptr(), y=out.data_ptr(), workspace=workspace.data_ptr(), n=n,
                h=height, w=width, padding=padding, threads=torch.get_num_threads(),
            )  # fmt: skip
        return out
