"""Triton kernels and their tensor wrappers, compiled at run time: they need no build step and no nvcc."""
