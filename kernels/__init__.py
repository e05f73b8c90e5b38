"""Fused operations: one op a file, with its Triton kernels, CPU twin and autograd function."""

from .infonce import InfoNCEOptions, infonce, logsumexp_similarity
from .psnet import PSNetWeights, psnet, psnet_diffuse
from .svd import batched_svd

__all__ = ["InfoNCEOptions", "PSNetWeights", "batched_svd", "infonce", "logsumexp_similarity", "psnet", "psnet_diffuse"]
