"""``torch_utils.ops`` of NVlabs' stylegan2-ada-pytorch and stylegan3 on our ops.

    from cagc_kernels.compat import nvlabs
    nvlabs.install()
    from torch_utils.ops import bias_act, conv2d_gradfix, fma, upfirdn2d

Have the code base on the path first: its own ``torch_utils`` is then kept, and only these four modules are replaced.
``impl="cuda"``, the peers' default, lets the backend be chosen on any device; ``impl="ref"`` is the reference.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import SimpleNamespace

import torch

from .. import ops
from ..arguments import Resampling
from ..ops import setup_filter
from ..ops.upfirdn2d import check_filter
from ..reference.bias_act import ACTIVATIONS, Activation
from ..reference.upfirdn2d import parse_factors, parse_padding
from . import CONV2D_GRADFIX, Installation

_IMPLEMENTATIONS = {"cuda": None, "ref": "reference"}


def _backend(impl: str) -> str | None:
    if impl not in _IMPLEMENTATIONS:
        raise ValueError(f"impl: got {impl!r}, expected one of {', '.join(_IMPLEMENTATIONS)}")
    return _IMPLEMENTATIONS[impl]


def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="cuda") -> torch.Tensor:
    """:func:`cagc_kernels.bias_act`."""
    return ops.bias_act(x, b, dim, act, alpha, gain, clamp, _backend(impl))


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="cuda") -> torch.Tensor:
    """:func:`cagc_kernels.upfirdn2d`."""
    return ops.upfirdn2d(x, f, up, down, padding, flip_filter, gain, _backend(impl))


def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl="cuda") -> torch.Tensor:
    """:func:`cagc_kernels.filter2d`."""
    return ops.filter2d(x, f, padding, flip_filter, gain, _backend(impl))


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl="cuda") -> torch.Tensor:
    """:func:`cagc_kernels.upsample2d`."""
    return ops.upsample2d(x, f, up, padding, flip_filter, gain, _backend(impl))


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl="cuda") -> torch.Tensor:
    """:func:`cagc_kernels.downsample2d`."""
    return ops.downsample2d(x, f, down, padding, flip_filter, gain, _backend(impl))


def fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """``a * b + c``, broadcast."""
    return torch.addcmul(c, a, b)


def _describe(activation: Activation) -> SimpleNamespace:
    function, alpha, gain = activation
    return SimpleNamespace(func=lambda x, alpha=alpha, **_: function(x, alpha), def_alpha=alpha, def_gain=gain)


def _get_filter_size(f: torch.Tensor | None) -> tuple[int, int]:
    check_filter("f", f, f)
    height, width = Resampling(f).filter_size
    return width, height


_installation = Installation(
    "nvlabs",
    {
        "torch_utils": {},
        "torch_utils.ops": {},
        "torch_utils.ops.bias_act": {
            "bias_act": bias_act,
            # The networks take their default gains from here.
            "activation_funcs": {name: _describe(activation) for name, activation in ACTIVATIONS.items()},
        },
        "torch_utils.ops.upfirdn2d": {
            "setup_filter": setup_filter,
            "upfirdn2d": upfirdn2d,
            "filter2d": filter2d,
            "upsample2d": upsample2d,
            "downsample2d": downsample2d,
            # What conv2d_resample.py imports.
            "_get_filter_size": _get_filter_size,
            "_parse_padding": parse_padding,
            "_parse_scaling": parse_factors,
        },
        "torch_utils.ops.fma": {"fma": fma},
        "torch_utils.ops.conv2d_gradfix": CONV2D_GRADFIX,
    },
    packages=("torch_utils", "torch_utils.ops"),
    marks=(("torch_utils.ops.bias_act", "bias_act"), ("torch_utils.ops.upfirdn2d", "upsample2d")),
)


def install() -> Installation:
    """Put the four modules into ``sys.modules``, or our functions into those that are imported already.

    Returns a context manager that undoes it. Raises RuntimeError if a module of that name is imported and is something
    else, or has been replaced since an earlier install.
    """
    present = "torch_utils" in sys.modules or find_spec("torch_utils") is not None
    return _installation.install(without=("torch_utils", "torch_utils.ops") if present else ())


def uninstall() -> None:
    """Undo :func:`install`. Raises RuntimeError if it is not installed, or was replaced since."""
    _installation.uninstall()
