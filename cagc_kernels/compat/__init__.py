"""Makes other StyleGAN code bases run on these ops, without editing them, and undoes it.

    import cagc_kernels.compat
    with cagc_kernels.compat.install():               # or install() ... uninstall()
        from models.stylegan2.model import Generator  # its copy of the ops, wherever it lies, runs on ours
    print(cagc_kernels.compat.explain_install())      # between the two: what was replaced, what was left alone, and why

``python -m cagc_kernels.compat script.py args…`` runs an unedited script so. ``rosinality.install()`` and
``nvlabs.install()`` make the packages ``op`` and ``torch_utils.ops`` where no code base is on the path. Which backend
an op takes is said by :func:`cagc_kernels.use_backend` as always.
"""

from . import mmcv, nvlabs, rosinality
from .hook import explain_install, install, uninstall

__all__ = ["explain_install", "install", "mmcv", "nvlabs", "rosinality", "uninstall"]
