"""InfoNCE of generated vectors against all items, or against a sample that stands for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ranks import ONE, OneRank, Reduction

Contrast: TypeAlias = Callable[[Tensor, Reduction], Tensor]
"""InfoNCE of vectors ``[A, d]`` that were generated for the anchors."""


def sample_candidates(
    items: Tensor, num_items: int, count: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Candidates that stand for all items in the partition function of eq. 11: the anchors' items and a sample.

    With A the set of the anchors' items, R the n others, and every term divided by the number of times q that its
    item is expected among the candidates,

    .. math::
        \hat Z_b = \sum_{j \in A} \exp \frac{s_{bj}}{\tau} + \sum_{k=1}^{S} \frac{n}{S} \exp \frac{s_{b j_k}}{\tau}
        \qquad E[\hat Z_b] = \sum_{j=1}^{N} \exp \frac{s_{bj}}{\tau}

    The S draws are stratified: R in order is cut into S parts of equal length n / S, and :math:`j_k` lies uniformly in
    part k, so every item of R is expected S / n times. No item of A is among them, an item of R at most twice
    (on the border of two parts), and the variance is at most that of independent draws. The work is
    O((A + S) log A) whatever N, shapes do not depend on the draws, and nothing waits for the device.

    Args:
        items: the anchors' items ``[A]``, int64; an item of several anchors is listed as often and each copy carries
            its share of the term.
        num_items: N, more than A.
        count: S.
        generator: source of the draws, on the items' device.

    Returns:
        The candidates' items ``[A + S]``, the anchors' first, and :math:`\log q` of each, for ``log_q`` of
        :func:`~infodcl_geo.kernels.infonce`.
    """
    ordered = items.sort().values
    copies = torch.searchsorted(ordered, items, right=True) - torch.searchsorted(ordered, items)
    new = torch.ones_like(ordered)
    new[1:] = (ordered[1:] != ordered[:-1]).to(new.dtype)
    distinct = F.pad(new.cumsum(0), (1, 0))
    others = num_items - distinct[-1]
    part = torch.arange(count, device=items.device, dtype=torch.float64)
    part += torch.rand(count, generator=generator, device=items.device, dtype=torch.float64)
    rank = torch.minimum((part * (others / count)).long(), others - 1)
    # An item is its rank among the others plus the number of anchors' items before it.
    before = torch.searchsorted(ordered - distinct[1:] + 1, rank, right=True)
    drawn = rank + distinct[before]
    log_q = torch.cat([copies.double().log(), (count / others).log().expand(count)])
    return torch.cat([items, drawn]), log_q.float()


def samples(count: int, num_items: int, anchors: int) -> bool:
    """Whether :func:`contrast` samples: there are more items than the sample and the anchors' own together."""
    return 0 < count < num_items - anchors


def contrast(
    table: nn.Embedding,
    items: Tensor,
    temperature: float,
    count: int,
    generator: torch.Generator | None = None,
    *,
    own: Tensor | None = None,
    share: float = 1.0,
    ranks: OneRank = ONE,
) -> Contrast:
    """InfoNCE (InfoDCL eq. 11) of vectors generated for the anchors' items against all items, or a sample of them.

    A sample (:func:`sample_candidates`) is drawn once, for all channels of a step, and reads nothing but rows of the
    table. The relative error of the partition function falls with its root: for unit vectors of 64 dimensions in
    random directions and a temperature of 0.2, 16384 leave half a percent.

    Args:
        table: embeddings of all items, or of this process's.
        items: the anchors' ``[A]``.
        temperature: tau.
        count: size of the sample, where :func:`samples`; otherwise, and for 0, all items.
        generator: of the sample.
        own: embeddings of ``items`` ``[A, d]``; only several processes read them.
        share: of the step's anchors that ``items`` are; 0 of one that stands in for none.
        ranks: the processes that train together.
    """
    everyone, total = ranks.gathered(items, share), ranks.total("items", table.num_embeddings)
    if not samples(count, total, everyone.numel()):
        everything = table.weight
        return lambda generated, how: ranks.contrast(generated, everything, items, temperature, own=own, reduction=how)
    rows, log_q = sample_candidates(everyone, total, count, generator)
    # The positive is no sample: what the correction adds to its logit, where an item has several anchors, goes.
    correction = log_q[: everyone.numel()].mean()
    _, held = ranks.held(rows)
    if held is not None:
        rows, log_q = rows[held], log_q[held]
    candidates, positives = table(rows), torch.arange(items.numel(), device=items.device)
    return lambda generated, how: (
        ranks.contrast(generated, candidates, positives, temperature, own=own, log_q=log_q, reduction=how) - correction
    )
