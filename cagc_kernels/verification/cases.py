"""The calls that are verified: every op on the shapes of real layers, with operands and number of multiplications."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..arguments import HALF, Epilogue, Filtering, Resampling, activation
from ..ops.bias_act import bias_act
from ..ops.epilogue import epilogue
from ..ops.filtered_lrelu import filtered_lrelu
from ..ops.modulated_conv2d import modulated_conv2d, styled_conv2d
from ..ops.sparse_channel_conv2d import sparse_channel_conv2d
from ..ops.upfirdn2d import setup_filter, upfirdn2d
from ..reference import epilogue as reference_epilogue
from ..reference.bias_act import ACTIVATIONS

Operands = Mapping[str, Tensor]
SIZES = ("tiny", "quick", "full")
TAPS = (1, 3, 3, 1)
# Absolute value of every bias where gradients are compared: more than a convolution of unit variance reaches.
FAR_FROM_KINK = 10.0


@dataclass(frozen=True)
class Case:
    """One call of an op.

    Attributes:
        op: name of the op.
        name: its shapes and options, for messages.
        shapes: shapes of the operands, which are drawn from the standard normal distribution.
        call: calls the op with operands by name and the name of a backend; "reference" is plain PyTorch.
        multiplications: number of multiplications of one call.
        fixed: operands without a gradient, such as filters and indices.
        wide: operands that stay float32 beside an ``x`` in half precision, as in mixed-precision training.
        gradient_operands: operands that replace drawn ones where gradients are compared, so that no element is so close
            to a kink of the activation that rounding decides its derivative.
    """

    op: str
    name: str
    shapes: Mapping[str, tuple[int, ...]]
    call: Callable[[Operands, str], Tensor]
    multiplications: int = 0
    fixed: Mapping[str, Tensor] | None = None
    wide: tuple[str, ...] = ()
    gradient_operands: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict

    def operands(self, dtype: torch.dtype, device: torch.device, gradient: bool = False) -> dict[str, Tensor]:
        """Return the operands in ``dtype``, the same in every call; ``gradient``: those for comparing gradients."""
        random = torch.Generator().manual_seed(0)
        drawn = {name: torch.randn(shape, generator=random) for name, shape in self.shapes.items()}
        if gradient:
            drawn |= self.gradient_operands(drawn)
        found = {name: value.to(device) for name, value in (self.fixed or {}).items()}
        for name, value in drawn.items():
            kept = torch.float32 if dtype in HALF and name in self.wide else dtype
            found[name] = value.to(device, kept)
        return found


def _of(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _bias_act(shape: tuple[int, ...], act: str = "lrelu", clamp: float | None = None) -> Case:
    def steps(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """Round x to odd multiples of 1/8 and b to multiples of 1/4.

        Then x + b is never 0 and, after the gain, never near the clamp of 1.
        """
        x, b = ((4 * value).round().clamp(-12, 12) / 4 for value in drawn.values())
        return {"x": x + 0.125, "b": b}

    def call(given: Operands, backend: str) -> Tensor:
        return bias_act(given["x"], given["b"], 1, act, clamp=clamp, backend=backend)

    name = f"{_of(shape)} {act}" + ("" if clamp is None else f" clamp {clamp:g}")
    return Case("bias_act", name, {"x": shape, "b": shape[1:2]}, call, gradient_operands=steps)


def _upfirdn2d(
    shape: tuple[int, ...], up: int, down: int, padding: tuple[int, int, int, int], taps: Sequence[float] = TAPS
) -> Case:
    f = setup_filter(taps)

    def call(given: Operands, backend: str) -> Tensor:
        return upfirdn2d(given["x"], given["f"], up, down, padding, gain=up**2, backend=backend)

    height, width = Resampling(f, (up, up), (down, down), padding).output_size(torch.empty(shape, device="meta"))
    work = prod(shape[:2]) * height * width * len(taps) ** 2 // up**2
    name = f"{_of(shape)} up {up} down {down}, {_of(f.shape)} taps"
    return Case("upfirdn2d", name, {"x": shape}, call, work, {"f": f})


def _filtered_lrelu(shape: tuple[int, ...], up: int = 2, radial: bool = False) -> Case:
    """A layer of StyleGAN3: 6 taps a phase; no padding, so that no value lies between an image and zeros."""
    fu, fd = (setup_filter(range(1, 6 * factor + 1)) for factor in (up, 2))
    fd = fd.outer(fd) + 0.01 * torch.eye(len(fd)) if radial else fd

    def call(given: Operands, backend: str) -> Tensor:
        return filtered_lrelu(given["x"], given["fu"], given["fd"], given["b"], up, 2, backend=backend)

    def away(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"b": FAR_FROM_KINK * drawn["b"].sign()}

    filtering, x = Filtering(fu, fd, up, 2), torch.empty(shape, device="meta")
    height, width = filtering.upsampling.output_size(x)
    work = prod(shape[:2]) * height * width * (3 * 6 if not radial else 2 * 6 + 36)
    name = f"{_of(shape)} up {up} down 2, {_of(fu.shape)} and {_of(fd.shape)} taps"
    shapes = {"x": shape, "b": shape[1:2]}
    return Case("filtered_lrelu", name, shapes, call, work, {"fu": fu, "fd": fd}, gradient_operands=away)


def _away(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"bias": FAR_FROM_KINK * drawn["bias"].sign()}


_FACTORS = ("weight", "styles", "bias", "noise", "next_styles")


def _styled(n: int, inputs: int, outputs: int, size: int, up: int = 1, act: str = "lrelu") -> Case:
    def call(given: Operands, backend: str) -> Tensor:
        return styled_conv2d(**given, up=up, act=act, backend=backend)

    side = size * up
    shapes = {
        "x": (n, inputs, size, size), "weight": (outputs, inputs, 3, 3), "styles": (n, inputs), "bias": (outputs,),
        "noise": (1, 1, side, side), "next_styles": (n, outputs),
    }  # fmt: skip
    fixed = {"resample_filter": setup_filter(TAPS)} if up > 1 else None
    name = f"styled {n}x{inputs}x{size}x{size} to {outputs}x{side}x{side} {act}"
    work = 9 * n * inputs * outputs * size**2
    return Case("modulated_conv2d", name, shapes, call, work, fixed, _FACTORS, _away)


def _modulated(n: int, inputs: int, outputs: int, size: int, k: int, down: int = 1) -> Case:
    """Return a case without demodulation or activation: toRGB or, with ``down`` 2, a layer that halves the image."""

    def call(given: Operands, backend: str) -> Tensor:
        filtered = given["x"], given["weight"] / (inputs * k * k) ** 0.5, given["styles"]
        return modulated_conv2d(*filtered, None, 1, down, k // 2, given.get("f"), False, backend=backend)

    shapes = {"x": (n, inputs, size, size), "weight": (outputs, inputs, k, k), "styles": (n, inputs)}
    fixed = {"f": setup_filter(TAPS)} if down > 1 else None
    name = f"{n}x{inputs}x{size}x{size} to {outputs}x{size // down}x{size // down}, {k}x{k}"
    work = k * k * n * inputs * outputs * (size // down) ** 2
    return Case("modulated_conv2d", name, shapes, call, work, fixed, _FACTORS)


def _frozen(n: int, inputs: int, outputs: int, size: int, up: int = 1) -> Case:
    """Return a case of a second call with the same weight, which the CPU's kernels then have packed."""

    def call(given: Operands, backend: str) -> Tensor:
        weight = given["weight"] / (9 * inputs) ** 0.5
        arguments = given["x"], weight, given["styles"], None, up, 1, 1, given["f"], True, up == 1
        if backend != "reference":
            modulated_conv2d(*arguments, backend=backend)
        return modulated_conv2d(*arguments, backend=backend)

    shapes = {"x": (n, inputs, size, size), "weight": (outputs, inputs, 3, 3), "styles": (n, inputs)}
    name = f"second call, {n}x{inputs}x{size}x{size} to {outputs}x{size * up}x{size * up}"
    work = 9 * n * inputs * outputs * size**2
    return Case("modulated_conv2d", name, shapes, call, work, {"f": setup_filter(TAPS)}, _FACTORS)


def _sparse(n: int, width: int, kept: int, size: int, up: int = 1) -> Case:
    def call(given: Operands, backend: str) -> Tensor:
        return sparse_channel_conv2d(**given, up=up, backend=backend)

    random = torch.Generator().manual_seed(1)
    chosen = (torch.randperm(width, generator=random)[:kept].sort().values for _ in range(2))
    fixed = dict(zip(("in_channels", "out_channels"), chosen, strict=True))
    if up > 1:
        fixed["resample_filter"] = setup_filter(TAPS)
    shapes = {"x": (n, kept, size, size), "weight": (width, width, 3, 3), "styles": (n, kept)}
    name = f"{n}x{kept}x{size}x{size} of {width} to {kept}x{size * up}x{size * up}"
    return Case("sparse_channel_conv2d", name, shapes, call, 9 * n * kept**2 * size**2, fixed, _FACTORS)


def _epilogue(n: int, channels: int, size: int, filtered: bool) -> Case:
    def call(given: Operands, backend: str) -> Tensor:
        x, factors = given["x"], given["scale"].dtype
        f = given["f"].to(factors) if filtered else None
        after = Epilogue(given["noise"], given["bias"], given["next_styles"], *activation("lrelu", None, None, None))
        margins = ((1, 1) if filtered else (0, 0)), (size, size)
        if backend == "reference":
            return reference_epilogue.epilogue(x, f, given["scale"], after, *margins).to(x.dtype)
        # The op may overwrite x if nothing else keeps it.
        return epilogue(x if x.requires_grad else x.clone(), f, given["scale"], after, *margins, backend)

    side = size + 1 if filtered else size
    shapes = {
        "x": (n, channels, side, side), "scale": (n, channels), "noise": (1, 1, size, size), "bias": (channels,),
        "next_styles": (n, channels),
    }  # fmt: skip
    fixed = {"f": 4 * setup_filter(TAPS)} if filtered else None
    name = f"{n}x{channels}x{size}x{size} lrelu" + (", filtered" if filtered else "")
    work = 16 * n * channels * size**2 if filtered else 0
    return Case("epilogue", name, shapes, call, work, fixed, (*_FACTORS, "scale"), _small_scale)


def _small_scale(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return :func:`_away` with scales so small that |x · scale + noise| stays below the bias."""
    return _away(drawn) | {"scale": drawn["scale"].clamp(-0.5, 0.5), "noise": drawn["noise"].clamp(-2, 2)}


def cases(size: str = "full") -> list[Case]:
    """Return the cases of every op: with ``size`` "full", layers of 256-pixel generators, full and pruned to 30 %.

    "quick" has the same kinds of layers with fewer channels and pixels; "tiny" is meant for Triton's interpreter.
    """
    if size == "tiny":
        return [
            _bias_act((2, 3, 4, 4), clamp=1.0), _bias_act((2, 3, 4, 4), "swish"),
            _upfirdn2d((1, 2, 6, 6), 2, 1, (2, 1, 2, 1)),
            _epilogue(2, 3, 6, True), _styled(1, 4, 5, 4), _modulated(1, 4, 3, 4, 1), _sparse(1, 6, 4, 4),
            _filtered_lrelu((1, 2, 12, 12)),
        ]  # fmt: skip
    if size == "quick":
        return [
            *(_bias_act((2, 39, 16, 16), act) for act in ACTIVATIONS),
            _bias_act((1, 128, 32, 32), clamp=1.0), _bias_act((8, 512)),
            _upfirdn2d((1, 3, 64, 64), 2, 1, (2, 1, 2, 1)), _upfirdn2d((2, 39, 33, 33), 1, 1, (1, 1, 1, 1)),
            _upfirdn2d((1, 64, 32, 32), 1, 2, (1, 1, 1, 1)),
            _upfirdn2d((1, 16, 20, 20), 2, 1, (6, 5, 6, 5), range(1, 13)),
            _epilogue(2, 77, 16, False), _epilogue(1, 39, 32, True),
            _styled(2, 77, 64, 8), _styled(1, 77, 39, 16, 2), _styled(1, 39, 39, 32, act="swish"),
            _modulated(2, 77, 3, 16, 1), _modulated(1, 32, 32, 16, 3, 2),
            _frozen(2, 77, 39, 9), _frozen(1, 77, 39, 11, 2),
            _sparse(2, 128, 39, 16), _sparse(1, 128, 39, 8, 2),
            _filtered_lrelu((2, 39, 20, 20)), _filtered_lrelu((1, 16, 16, 24), 4),
            _filtered_lrelu((1, 16, 20, 20), 2, True),
        ]  # fmt: skip
    return [
        *(_bias_act((2, 154, 32, 32), act) for act in ACTIVATIONS),
        _bias_act((1, 512, 32, 32), clamp=1.0), _bias_act((1, 256, 128, 128)), _bias_act((1, 128, 256, 256)),
        _bias_act((4, 39, 256, 256)), _bias_act((8, 512)),
        _upfirdn2d((1, 3, 128, 128), 2, 1, (2, 1, 2, 1)), _upfirdn2d((1, 128, 257, 257), 1, 1, (1, 1, 1, 1)),
        _upfirdn2d((1, 128, 256, 256), 1, 2, (1, 1, 1, 1)), _upfirdn2d((2, 77, 129, 129), 1, 1, (1, 1, 1, 1)),
        _upfirdn2d((1, 81, 84, 84), 2, 1, (6, 5, 6, 5), range(1, 13)),
        _epilogue(1, 512, 32, False), _epilogue(2, 154, 64, False), _epilogue(1, 128, 256, True),
        _styled(2, 512, 512, 4), _styled(1, 512, 512, 32), _styled(1, 512, 256, 64, 2), _styled(1, 128, 128, 256),
        _styled(2, 154, 154, 32), _styled(1, 154, 77, 64, 2), _styled(1, 39, 39, 256),
        _styled(1, 77, 77, 128, act="swish"),
        _modulated(1, 512, 3, 32, 1), _modulated(1, 128, 3, 256, 1), _modulated(1, 128, 256, 64, 3, 2),
        _frozen(1, 512, 256, 32), _frozen(1, 512, 256, 32, 2),
        _sparse(1, 512, 154, 32), _sparse(1, 512, 154, 32, 2), _sparse(2, 256, 77, 64),
        _filtered_lrelu((1, 512, 36, 36)), _filtered_lrelu((1, 362, 150, 150)), _filtered_lrelu((1, 512, 54, 54), 4),
        _filtered_lrelu((2, 154, 86, 86)), _filtered_lrelu((1, 512, 52, 52), 2, True),
    ]  # fmt: skip


def bytes_of(*tensors: Tensor | None) -> int:
    """Return the total bytes of the tensors."""
    return sum(t.nbytes for t in tensors if t is not None)
