"""Fused operations: one op a file, with its Triton kernels, CPU twin and autograd function."""

from .psnet import PSNetWeights, psnet, psnet_diffuse
from .svd import batched_svd

__all__ = ["PSNetWeights", "batched_svd", "psnet", "psnet_diffuse"]
