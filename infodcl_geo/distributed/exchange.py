"""Exchanges of rows between ranks that autograd goes back through, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infodcl_geo.kernels import logsumexp_similarity

from .group import Group
from .partition import Rows


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, give: list[int], take: list[int], what: str) -> Tensor:
        ctx.how = (group, give, take, what)
        return group.exchange(x, give, take, what)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        group, give, take, what = ctx.how
        return group.exchange(grads[0], take, give, f"{what}, backward"), None, None, None, None


def exchange(x: Tensor, group: Group, give: list[int], take: list[int], what: str) -> Tensor:
    """:meth:`Group.exchange`, whose gradient travels back the same way."""
    return _Exchange.apply(x, group, give, take, what)


class Request:
    """Rows that this rank asks of all, found once for several look-ups.

    Args:
        group: the ranks.
        rows: whose rows they are.
        ids: rows among all ``[n]``, repeats allowed.
    """

    def __init__(self, group: Group, rows: Rows, ids: Tensor) -> None:
        self.group = group
        order, self.take = rows.by_owner(ids)
        self.give = group.counts(self.take)
        asked = group.exchange(ids[order], self.take, self.give, "ids")
        self.asked = asked - rows.start
        """rows of this rank that others ask for, those of rank 0 first"""
        self.place = torch.empty_like(order)
        self.place[order] = torch.arange(order.numel(), device=order.device)

    def fetch(self, rows: Tensor, what: str) -> Tensor:
        """The rows asked for ``[n, d]``, in the order of the ids.

        Args:
            rows: :attr:`asked` of this rank's table.
            what: under which the bytes are counted.
        """
        received = exchange(rows, self.group, self.give, self.take, what)
        return F.embedding(self.place, received)


class ShardedEmbedding(nn.Module):
    """A table of which each rank has its own rows: a look-up sends ids and gets rows, its backward sends gradients.

    Args:
        local: table of this rank's rows; an optimizer by rows (:class:`~infodcl_geo.training.optim.LazyAdam`) takes it.
        group: the ranks.
        rows: which rows these are.
    """

    def __init__(self, local: nn.Embedding, group: Group, rows: Rows) -> None:
        super().__init__()
        self.local, self.group, self.rows = local, group, rows

    @property
    def weight(self) -> Tensor:
        """This rank's rows."""
        return self.local.weight

    @property
    def num_embeddings(self) -> int:
        return self.local.num_embeddings

    def forward(self, ids: Tensor) -> Tensor:
        request = Request(self.group, self.rows, ids)
        return request.fetch(self.local(request.asked), "rows")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, sizes: list[int]) -> Tensor:
        ctx.group, ctx.sizes = group, sizes
        return group.exchange(x.repeat(group.size, 1), [x.size(0)] * group.size, sizes, "anchors")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        group, sizes = ctx.group, ctx.sizes
        own = sizes[group.rank]
        back = group.exchange(grads[0], sizes, [own] * group.size, "anchors, backward")
        return back.view(group.size, own, -1).sum(0), None, None


def sharded_infonce(
    anchors: Tensor,
    candidates: Tensor,
    own: Tensor,
    temperature: float,
    group: Group,
    *,
    log_q: Tensor | None = None,
) -> Tensor:
    r"""InfoNCE ``[A]`` of this rank's anchors against the candidates of all ranks.

    Anchors travel, candidates do not: each rank has the anchors of all and makes the log-sum-exp of each over its own
    candidates; the numbers go back to the anchor's rank, which combines them by their largest and the sum,

    .. math::
        \ell_b = -\frac{s(x_b, y_b)}{\tau} + \log \sum_{r=1}^{R} \exp \Big( \log \sum_{j \in r}
            \exp \frac{s(x_b, y_j)}{\tau} \Big)

    so that A (d + R) numbers a rank travel each way whatever the number of candidates.

    Args:
        anchors: x ``[A, d]``.
        candidates: those of this rank ``[n, d]``; there may be none.
        own: vectors of the anchors' positives ``[A, d]``.
        temperature: tau; s is the cosine.
        group: the ranks.
        log_q: of this rank's candidates ``[n]``, as for :func:`~infodcl_geo.kernels.infonce`; 0 for the positives.
    """
    sizes = group.all_counts(anchors.size(0))
    everyone = _Gather.apply(anchors, group, sizes)
    if candidates.size(0):
        partial = logsumexp_similarity(everyone, candidates, temperature, log_q=log_q)
    else:
        partial = everyone.sum(1) * 0 + candidates.sum() - torch.inf
    parts = exchange(partial[:, None], group, sizes, [anchors.size(0)] * group.size, "log-sum-exp")
    total = parts.view(group.size, anchors.size(0)).logsumexp(0)
    similarity = (F.normalize(anchors, eps=1e-12) * F.normalize(own, eps=1e-12)).sum(-1)
    return total - similarity / temperature


def drawn_rows(draw: Callable[[int], Tensor], rows: Rows, block: int = 16_384) -> Tensor:
    """Of random rows that are drawn for all, those of this rank; never more than a block of the others' is held.

    Blocks begin at the same rows whatever the number of ranks, and so the numbers are the same.

    Args:
        draw: so many rows ``[n, d]`` of a generator that is the same on all ranks.
        rows: of this rank.
        block: rows drawn at once, a multiple of 16 (of so many numbers PyTorch makes normal ones together).
    """
    kept = []
    for start in range(0, rows.total, block):
        drawn = draw(min(block, rows.total - start))
        own = drawn[max(0, rows.start - start) : max(0, rows.stop - start)]
        if own.size(0):  # a view would keep all that was drawn
            kept.append(own if own.size(0) == drawn.size(0) else own.clone())
    return torch.cat(kept) if kept else draw(0)
