"""Draws images from a flat student file with NumPy alone, through the C library beside this file.

The folder needs neither PyTorch nor the packages ``cagc`` and ``cagc_kernels``: it can be copied. Names are those of a
generator in PyTorch::

    import cagc_edge, numpy
    g = cagc_edge.Generator("student.cagc")
    ws = g.mapping(numpy.random.randn(1, g.z_dim), truncation_psi=0.7)
    image = g.synthesis(ws)
"""

from .generator import Direction, EdgeError, Generator, random_z, version

__all__ = ["Direction", "EdgeError", "Generator", "random_z", "version"]
