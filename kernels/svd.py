"""Batched singular value decomposition of small matrices (eq. 1)."""

from __future__ import annotations

from torch import Tensor

from .reference_psnet import batched_svd_reference

__all__ = ["batched_svd"]


def batched_svd(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD ``y = U diag(S) Vh`` of small matrices: U [B, n, k], S [B, k] descending, Vh [B, k, m]."""
    return batched_svd_reference(y)
