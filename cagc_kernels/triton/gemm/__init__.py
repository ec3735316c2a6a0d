"""The implicit GEMM of modulated convolution: kernel, launch, tiles and their tuning, packing of weights."""
