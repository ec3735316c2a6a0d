"""Runs other StyleGAN code bases on these ops without editing them.

    import cagc_kernels.compat
    with cagc_kernels.compat.install():               # or install() ... uninstall()
        from models.stylegan2.model import Generator  # its copy of the ops is replaced by ours, in whatever folder
        print(cagc_kernels.compat.explain_install())  # what was replaced, what was left alone, and why

``python -m cagc_kernels.compat script.py args…`` runs an unedited script this way. ``rosinality.install()`` and
``nvlabs.install()`` also create the packages ``op`` and ``torch_utils.ops`` if no code base provides them. Backends are
chosen as everywhere, for example by :func:`cagc_kernels.use_backend`.
"""

from . import mmcv, nvlabs, rosinality
from .hook import explain_install, install, uninstall

__all__ = ["explain_install", "install", "mmcv", "nvlabs", "rosinality", "uninstall"]
