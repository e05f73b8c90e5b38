"""Fused operations: one op a file, its Triton kernels, CPU twin and reference each in a file beside it."""

from .bpr import BprEpoch, RowAdamOptions, RowAdamTable, flush_rows
from .infonce import InfoNCEOptions, infonce, logsumexp_similarity
from .psnet import PSNetWeights, psnet, psnet_diffuse
from .svd import batched_svd
from .topk import ItemTable, top_k

__all__ = [
    "BprEpoch",
    "InfoNCEOptions",
    "ItemTable",
    "PSNetWeights",
    "RowAdamOptions",
    "RowAdamTable",
    "batched_svd",
    "flush_rows",
    "infonce",
    "logsumexp_similarity",
    "psnet",
    "psnet_diffuse",
    "top_k",
]
