"""Triton kernels and their wrappers: nothing to build, no nvcc needed."""
