"""Replacements for ``torch_utils.ops`` of NVlabs' stylegan2-ada-pytorch and stylegan3.

    from cagc_kernels.compat import nvlabs
    nvlabs.install()
    from torch_utils.ops import bias_act, conv2d_gradfix, filtered_lrelu, fma, upfirdn2d

If the code base is on the path, its own ``torch_utils`` is kept and only these six modules are replaced.
:func:`cagc_kernels.compat.install` replaces single functions in them instead, in whatever folder they are.
``impl="cuda"``, their default, chooses the backend on any device; ``impl="ref"`` is the reference backend.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

import torch

from .. import ops
from ..arguments import Resampling
from ..ops import setup_filter
from ..ops.upfirdn2d import check_filter
from ..reference.bias_act import ACTIVATIONS, Activation
from ..reference.upfirdn2d import parse_factors, parse_padding
from .families import NETWORKS, as_dtype, op, real, serve, whole
from .gradfix import CONV2D_GRADFIX, grid_sample
from .stand_in import Installation

_IMPLEMENTATIONS = {"cuda": None, "ref": "reference"}


def _backend(impl: str) -> str | None:
    if impl not in _IMPLEMENTATIONS:
        raise ValueError(f"impl: got {impl!r}, expected one of {', '.join(_IMPLEMENTATIONS)}")
    return _IMPLEMENTATIONS[impl]


def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="cuda") -> torch.Tensor:
    """Call :func:`cagc_kernels.bias_act`; ``b`` is cast to the dtype of ``x``."""
    alpha, gain, clamp = real(alpha), real(gain), real(clamp)
    return ops.bias_act(x, as_dtype(b, x), whole("dim", dim), act, alpha, gain, clamp, _backend(impl))


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="cuda") -> torch.Tensor:
    """Call :func:`cagc_kernels.upfirdn2d`."""
    factors = whole("up", up), whole("down", down)
    return ops.upfirdn2d(x, f, *factors, whole("padding", padding), flip_filter, real(gain), _backend(impl))


def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl="cuda") -> torch.Tensor:
    """Call :func:`cagc_kernels.filter2d`."""
    return ops.filter2d(x, f, whole("padding", padding), flip_filter, real(gain), _backend(impl))


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl="cuda") -> torch.Tensor:
    """Call :func:`cagc_kernels.upsample2d`."""
    return ops.upsample2d(x, f, whole("up", up), whole("padding", padding), flip_filter, real(gain), _backend(impl))


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl="cuda") -> torch.Tensor:
    """Call :func:`cagc_kernels.downsample2d`."""
    down, padding = whole("down", down), whole("padding", padding)
    return ops.downsample2d(x, f, down, padding, flip_filter, real(gain), _backend(impl))


def filtered_lrelu(
    x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None, flip_filter=False,
    impl="cuda",
) -> torch.Tensor:  # fmt: skip
    """Call :func:`cagc_kernels.filtered_lrelu`; ``b`` is cast to the dtype of ``x``."""
    up, down, padding = whole("up", up), whole("down", down), whole("padding", padding)
    numbers = up, down, padding, real(gain), real(slope), real(clamp)
    return ops.filtered_lrelu(x, fu, fd, as_dtype(b, x), *numbers, flip_filter, _backend(impl))


def fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Return ``a * b + c``, broadcast."""
    return torch.addcmul(c, a, b)


def modulated_conv2d(
    x, weight, styles, noise=None, up=1, down=1, padding=0, resample_filter=None, demodulate=True, flip_weight=True,
    fused_modconv=True,
) -> torch.Tensor:  # fmt: skip
    """Call :func:`cagc_kernels.modulated_conv2d`, which ignores ``fused_modconv``: it is one dense convolution anyway.

    ``noise`` may have fewer dimensions than the output [N, O, H', W'] and broadcasts to its last ones.
    """
    if noise is not None:
        noise = as_dtype(noise, x)
        noise = noise.reshape([1] * (4 - noise.ndim) + list(noise.shape))
    return ops.modulated_conv2d(x, weight, styles, noise, up, down, padding, resample_filter, demodulate, flip_weight)


def normalised_conv2d(x, w, s, demodulate=True, padding=0, input_gain=None) -> torch.Tensor:
    """Call :func:`cagc_kernels.modulated_conv2d` on normalised filters and styles, as StyleGAN3 does if it demodulates.

    ``input_gain`` [], [I] or [N, I] multiplies the channels of ``x`` after demodulation; ``padding`` is a number or
    ``[y, x]``.
    """
    if demodulate:
        w = w * w.square().mean([1, 2, 3], keepdim=True).rsqrt()
        s = s * s.square().mean().rsqrt()
    if input_gain is not None:
        x = x * as_dtype(input_gain, x).expand(s.shape)[:, :, None, None]
    padding = whole("padding", padding)
    padding = padding[::-1] if isinstance(padding, list) else padding
    return ops.modulated_conv2d(x, w, as_dtype(s, x), padding=padding, demodulate=demodulate)


class _Facts(dict):
    """A dictionary whose entries are also attributes, because the code bases use both forms."""

    __getattr__ = dict.__getitem__


def _describe(number: int, activation: Activation) -> _Facts:
    function, alpha, gain = activation
    return _Facts(func=lambda x, alpha=alpha, **_: function(x, alpha), def_alpha=alpha, def_gain=gain, cuda_idx=number)


def _get_filter_size(f: torch.Tensor | None) -> tuple[int, int]:
    check_filter("f", f, f)
    height, width = Resampling(f).filter_size
    return width, height


serve(
    "bias_act",
    {
        "bias_act": {"bias_act": op(bias_act)},
        "upfirdn2d": {f.__name__: op(f) for f in (upfirdn2d, filter2d, upsample2d, downsample2d)},
        "filtered_lrelu": {"filtered_lrelu": op(filtered_lrelu)},
        "fma": {"fma": op(fma)},
        "grid_sample_gradfix": {"grid_sample": op(grid_sample)},
        NETWORKS: {"modulated_conv2d": op(modulated_conv2d)._replace(works=True)},
    },
)
# The networks of StyleGAN3 have another function of this name, which the signature tells.
serve("filtered_lrelu", {NETWORKS: {"modulated_conv2d": op(normalised_conv2d)._replace(works=True)}})

_installation = Installation(
    "nvlabs",
    {
        "torch_utils": {},
        "torch_utils.ops": {},
        "torch_utils.ops.bias_act": {
            "bias_act": bias_act,
            # The networks read their default gains from this table.
            "activation_funcs": {
                name: _describe(i, activation) for i, (name, activation) in enumerate(ACTIVATIONS.items(), 1)
            },
        },
        "torch_utils.ops.upfirdn2d": {
            "setup_filter": setup_filter,
            "upfirdn2d": upfirdn2d,
            "filter2d": filter2d,
            "upsample2d": upsample2d,
            "downsample2d": downsample2d,
            # conv2d_resample.py imports these.
            "_get_filter_size": _get_filter_size,
            "_parse_padding": parse_padding,
            "_parse_scaling": parse_factors,
        },
        "torch_utils.ops.filtered_lrelu": {"filtered_lrelu": filtered_lrelu},
        "torch_utils.ops.fma": {"fma": fma},
        "torch_utils.ops.conv2d_gradfix": CONV2D_GRADFIX,
        "torch_utils.ops.grid_sample_gradfix": {"grid_sample": grid_sample, "enabled": True},
    },
    packages=("torch_utils", "torch_utils.ops"),
    marks=(("torch_utils.ops.bias_act", "bias_act"), ("torch_utils.ops.upfirdn2d", "upsample2d")),
)


def install() -> Installation:
    """Add the six modules to ``sys.modules``, or set our functions in those that are already imported.

    Returns a context manager that undoes it. Raises RuntimeError if an imported module of one of these names is not
    NVlabs', or was replaced since an earlier install.
    """
    present = "torch_utils" in sys.modules or find_spec("torch_utils") is not None
    if present:  # makes torch_utils.ops.bias_act an attribute as well
        import_module("torch_utils.ops")
    return _installation.install(without=("torch_utils", "torch_utils.ops") if present else ())


def uninstall() -> None:
    """Undo :func:`install`. Raises RuntimeError if it is not installed, or was replaced since."""
    _installation.uninstall()
