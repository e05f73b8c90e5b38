"""Plain PyTorch references: the truth of the tests and the baseline of the benchmarks.

They form every intermediate array, so they are short, differentiable by autograd in any precision, and slow.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["infonce", "logsumexp_similarity"]


def infonce(
    anchors: Tensor,
    candidates: Tensor,
    positives: Tensor,
    temperature: float = 0.5,
    *,
    normalize: bool = True,
    in_batch: bool = False,
    anchor_ids: Tensor | None = None,
    candidate_ids: Tensor | None = None,
    exclude: tuple[Tensor, Tensor] | None = None,
    log_q: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """InfoNCE by one B x N array of logits; arguments and value as :func:`infodcl_geo.kernels.infonce`."""
    rows = torch.arange(anchors.size(0), device=anchors.device)
    left_out = _excluded(anchors, candidates, positives, exclude)
    if candidate_ids is None and (in_batch or anchor_ids is not None):
        candidate_ids = torch.arange(candidates.size(0), device=anchors.device)
    if anchor_ids is None and candidate_ids is not None:
        anchor_ids = candidate_ids[positives]
    if in_batch:
        left_out, candidates = left_out[:, positives], candidates[positives]
        candidate_ids = None if candidate_ids is None else candidate_ids[positives]
        log_q = None if log_q is None else log_q[positives]
        positives = rows
    if anchor_ids is not None and candidate_ids is not None:
        left_out |= anchor_ids[:, None] == candidate_ids
    left_out[rows, positives] = False
    logits = _logits(anchors, candidates, temperature, normalize, log_q).masked_fill(left_out, float("-inf"))
    return F.cross_entropy(logits, positives, reduction=reduction)


def logsumexp_similarity(
    anchors: Tensor,
    candidates: Tensor,
    temperature: float = 0.5,
    *,
    normalize: bool = True,
    positives: Tensor | None = None,
    offset: int = 0,
    anchor_ids: Tensor | None = None,
    candidate_ids: Tensor | None = None,
    exclude: tuple[Tensor, Tensor] | None = None,
    log_q: Tensor | None = None,
) -> Tensor:
    """Log-sum-exp over a shard by one B x N array; as :func:`infodcl_geo.kernels.logsumexp_similarity`."""
    if positives is None:
        positives = torch.full((anchors.size(0),), offset - 1, device=anchors.device)
    if exclude is not None:
        exclude = (exclude[0], exclude[1] - offset)
    left_out = _excluded(anchors, candidates, positives - offset, exclude)
    columns = torch.arange(candidates.size(0), device=anchors.device)
    if anchor_ids is not None:
        ids = columns + offset if candidate_ids is None else candidate_ids
        left_out |= (anchor_ids[:, None] == ids) & (columns + offset != positives[:, None])
    logits = _logits(anchors, candidates, temperature, normalize, log_q)
    return logits.masked_fill(left_out, float("-inf")).logsumexp(1)


def _logits(x: Tensor, y: Tensor, temperature: float, normalize: bool, log_q: Tensor | None) -> Tensor:
    if normalize:
        x, y = F.normalize(x), F.normalize(y)
    logits = x @ y.T / temperature
    return logits if log_q is None else logits - log_q


def _excluded(x: Tensor, y: Tensor, positives: Tensor, exclude: tuple[Tensor, Tensor] | None) -> Tensor:
    """Mask [B, N] of the listed candidates, each anchor's positive excepted."""
    left_out = torch.zeros(x.size(0), y.size(0), dtype=torch.bool, device=x.device)
    columns = torch.arange(y.size(0), device=x.device)
    if exclude is not None:
        ptr, idx = exclude
        for row in range(x.size(0)):
            left_out[row] = torch.isin(columns, idx[ptr[row] : ptr[row + 1]])
    return left_out & (columns != positives[:, None])
