"""The public ops modulated_conv2d and styled_conv2d: argument checks and choice of backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import profiling
from ..arguments import Epilogue, Resampling, activation
from ..convolution import is_empty
from ..reference import modulated_conv2d as reference
from ..reference.bias_act import ACTIVATIONS
from . import checks
from .composed import composed
from .dispatch import choose, kernels, outside_autocast
from .single_kernel import single_kernel
from .upfirdn2d import check_filter


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    backend: str | None = None,
) -> torch.Tensor:
    """Convolution whose input channels are scaled by a style per sample (StyleGAN2, eqs. 1 and 3).

        d[n, o] = rsqrt(Σ_i styles[n, i]² · Σ_k weight[o, i, k]² + 1e-8)      (1 without ``demodulate``)
        y[n, o] = d[n, o] · conv(x[n] · styles[n], weight)[o] + noise

    The activations are multiplied by the styles, not the weights, so that one dense convolution serves the batch.

    Args:
        x: [N, I, H, W], any floating-point dtype. All other tensors have the same, or are float32 where ``x`` is
            float16 or bfloat16.
        weight: [O, I, kh, kw], shared by the batch and used unscaled: multiply by 1/√fan_in beforehand.
        styles: [N, I].
        noise: [N or 1, 1, H', W'] or any shape that broadcasts to the output; added after demodulation.
        up, down: integer factors of resampling with ``resample_filter``; at least one of them is 1.
        padding: pixels that the convolution pads at the up-sampled resolution: one number, ``[x, y]`` or
            ``[x0, x1, y0, y1]``.
        resample_filter: float32 taps from :func:`cagc_kernels.setup_filter`; None is identity.
        demodulate: normalise each filter of each sample to unit energy.
        flip_weight: correlate (as ``torch.nn.Conv2d``); False mirrors the kernel.
        backend: "reference", "native", "triton", or None to choose.

    Returns:
        [N, O, H', W'] in the dtype of ``x``.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape, dtype, device or value, or ``backend`` cannot run
            on this device. Raised before any work, naming the argument.

    In half precision everything but the convolution is computed in float32 and rounded once; in float16, weight and
    styles are normalised first, so that the convolution stays in range however large they are. Under ``torch.autocast``
    x is cast to its dtype and the other tensors to float32. Differentiable any number of times in x, weight, styles
    and noise.
    """
    arguments = (weight, styles, noise, up, down, padding, resample_filter, demodulate, flip_weight, backend)
    if profiling.active:
        return profiling.ranged(f"modulated_conv2d up={up} down={down}", _modulated_conv2d, x, *arguments)
    return _modulated_conv2d(x, *arguments)


@outside_autocast
def _modulated_conv2d(
    x, weight, styles, noise, up, down, padding, resample_filter, demodulate, flip_weight, backend
) -> torch.Tensor:
    checks.flag("flip_weight", flip_weight)
    resampling = _gather(x, weight, styles, noise, up, down, padding, resample_filter, demodulate)
    return _layer(x, weight, styles, demodulate, True, flip_weight, resampling, Epilogue(noise), backend)


def _layer(x, weight, styles, demodulate, modulate, flip_weight, resampling, epilogue, backend) -> torch.Tensor:
    """Run either op on checked arguments with the chosen backend."""
    arguments = x, weight, styles, demodulate, modulate, flip_weight, resampling, epilogue
    chosen = choose("modulated_conv2d", backend, x)
    if chosen == "reference" or is_empty(x, weight):
        return reference.layer(*arguments)
    module = kernels("modulated_conv2d", chosen)
    if module.layer is None or module.composed_because(x, weight, resampling, epilogue):
        return composed(*arguments, chosen)
    return single_kernel(*arguments, chosen)


def _gather(x, weight, styles, noise, up, down, padding, resample_filter, demodulate) -> Resampling:
    """Check the arguments that both ops share and return their resampling."""
    checks.tensor("x", x, 4, "[N, I, H, W]")
    checks.tensor("weight", weight, 4, "[O, I, kh, kw]")
    checks.tensor("styles", styles, 2, "[N, I]")
    checks.like("weight", weight, "x", x, wide=True)
    checks.like("styles", styles, "x", x, wide=True)
    if weight.shape[1] != x.shape[1]:
        raise ValueError(f"weight: got {weight.shape[1]} input channels, expected {x.shape[1]} as x")
    kh, kw = weight.shape[2:]
    if kh == 0 or kw == 0:
        raise ValueError(f"weight: got a {kh} x {kw} kernel, expected at least 1 x 1")
    checks.shape("styles", styles, x.shape[:2], "samples and channels of x")
    checks.flag("demodulate", demodulate)
    (up,), (down,) = checks.integers("up", up, (), 1), checks.integers("down", down, (), 1)
    if up > 1 and down > 1:
        raise ValueError(f"up, down: got {up} and {down}, expected one of them to be 1")
    check_filter("resample_filter", resample_filter, x)
    resampling = Resampling(resample_filter, (up, up), (down, down), checks.margins("padding", padding))
    height, width = resampling.padded_size(x)
    if height < kh or width < kw:
        raise ValueError(
            f"padding: leaves {height} x {width} pixels of the up-sampled x, "
            f"expected at least the {kh} x {kw} of weight"
        )
    checks.addressable("up, padding", x.shape[0], max(weight.shape[:2]), height, width)
    if noise is not None:
        _check_noise(noise, x, (x.shape[0], weight.shape[0], *resampling.output_size(x, (kh, kw))))
    return resampling


def _check_noise(noise: torch.Tensor, x: torch.Tensor, output: tuple[int, ...]) -> None:
    checks.tensor("noise", noise)
    checks.like("noise", noise, "x", x, wide=True)
    fits = noise.ndim <= 4 and all(n in (1, o) for n, o in zip(noise.shape[::-1], output[::-1], strict=False))
    if not fits:
        raise ValueError(f"noise: got shape {list(noise.shape)}, expected one that broadcasts to {list(output)}")


def styled_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    bias: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    act: str = "lrelu",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    next_styles: torch.Tensor | None = None,
    modulate: bool = True,
    backend: str | None = None,
) -> torch.Tensor:
    """Return the output of a StyleGAN2 generator layer: modulated convolution, noise, bias, activation, gain, clamp.

    Equivalent to::

        y = modulated_conv2d(x, weight, styles, noise, up, 1, k // 2, resample_filter, demodulate, flip_weight=up == 1)
        y = bias_act(y, bias, 1, act, alpha, gain, clamp)
        y = y * next_styles[:, :, None, None]                # when given: the next layer's modulation

    Args:
        x: [N, I, H, W]; dtypes as in :func:`modulated_conv2d`.
        weight: [O, I, k, k], k odd.
        styles: [N, I].
        bias: [O].
        noise: [N or 1, 1, H·up, W·up], already multiplied by its strength; None adds no noise.
        next_styles: [N, O], styles of the next layer, multiplied into this output; call the next layer with
            ``modulate=False``.
        modulate: False if ``x`` is already multiplied by ``styles``; they are then used for demodulation only.
        act, alpha, gain, clamp: see :func:`cagc_kernels.bias_act`.
        up, resample_filter, demodulate, backend: see :func:`modulated_conv2d`. A named backend runs the whole layer;
            with None, each part runs on the best backend that implements it.

    Returns:
        [N, O, H·up, W·up] in the dtype of ``x``.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape, dtype, device or value, or ``backend`` cannot run
            on this device. Raised before any work, naming the argument.
    """
    arguments = (
        weight, styles, bias, noise, up, resample_filter, demodulate, act, alpha, gain, clamp, next_styles, modulate,
        backend,
    )  # fmt: skip
    if profiling.active:
        return profiling.ranged(f"styled_conv2d up={up} {act}", _styled_conv2d, x, *arguments)
    return _styled_conv2d(x, *arguments)


def composed_because(
    backend: str,
    x: torch.Tensor,
    weight: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] | None = None,
    resample_filter: torch.Tensor | None = None,
    act: str = "linear",
) -> str | None:
    """Return why ``backend`` composes a modulated_conv2d or styled_conv2d call of several kernels; None if it is fused.

    Reads only the shapes of tensors, so tensors on "meta" are accepted. ``padding=None`` is that of
    :func:`styled_conv2d`.
    """
    if backend == "reference":
        return "plain PyTorch"
    if is_empty(x, weight):
        return "nothing to compute"
    margins = checks.margins("padding", weight.shape[-1] // 2 if padding is None else padding)
    resampling = Resampling(resample_filter, (up, up), (down, down), margins)
    return kernels("modulated_conv2d", backend).composed_because(x, weight, resampling, Epilogue(noise, act=act))


@outside_autocast
def _styled_conv2d(
    x, weight, styles, bias, noise, up, resample_filter, demodulate, act, alpha, gain, clamp, next_styles, modulate,
    backend,
) -> torch.Tensor:  # fmt: skip
    checks.flag("modulate", modulate)
    checks.tensor("weight", weight, 4, "[O, I, k, k]")
    resampling = _gather(x, weight, styles, noise, up, 1, weight.shape[-1] // 2, resample_filter, demodulate)
    _check_styled(x, weight, bias, act, alpha, gain, clamp, next_styles)
    epilogue = Epilogue(noise, bias, next_styles, *activation(act, alpha, gain, clamp))
    flip_weight = resampling.up == (1, 1)
    return _layer(x, weight, styles, demodulate, modulate, flip_weight, resampling, epilogue, backend)


def _check_styled(x, weight, bias, act, alpha, gain, clamp, next_styles) -> None:
    kh, kw = weight.shape[2:]
    if kh != kw or kh % 2 == 0:
        raise ValueError(f"weight: got a {kh} x {kw} kernel, expected a square one of odd size")
    checks.tensor("bias", bias, 1, "[O]")
    checks.like("bias", bias, "x", x, wide=True)
    checks.shape("bias", bias, weight.shape[:1], "outputs of weight")
    checks.choice("act", act, ACTIVATIONS)
    checks.number("alpha", alpha)
    checks.number("gain", gain)
    checks.number("clamp", clamp, 0)
    if next_styles is not None:
        checks.tensor("next_styles", next_styles, 2, "[N, O]")
        checks.like("next_styles", next_styles, "x", x, wide=True)
        checks.shape("next_styles", next_styles, (x.shape[0], weight.shape[0]), "samples of x, outputs of weight")
