"""Fused operations: one op a file, with its Triton kernels, CPU twin and autograd function."""
