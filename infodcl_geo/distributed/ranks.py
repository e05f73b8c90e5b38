"""The answers of several processes to what a loss asks of them, for tables in parts and for whole copies."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.kernels import infonce, logsumexp_similarity

from ..nn.ranks import OneRank, Reduction, Side
from .exchange import Request, drawn_rows, sharded_infonce
from .group import Group
from .partition import Partition


class _Ranks(OneRank):
    """What is the same whether tables are whole or in parts.

    Args:
        group: the processes.
        part: which users and items are whose; with whole copies, whose users a process trains.
    """

    def __init__(self, group: Group, part: Partition) -> None:
        self.group, self.partition = group, part

    def part(self, draw: Callable[[int], Tensor], count: int, share: float) -> Tensor:
        sizes = self.group.all_counts(count if share else 0)
        before = sum(sizes[: self.group.rank])
        drawn = draw(sum(sizes))
        return drawn[before : before + count] if share else drawn[:count]

    def mean(self, value: Tensor, share: float) -> Tensor:
        return self.group.sum_(value.detach() * share, "means")

    def gathered(self, ids: Tensor, share: float) -> Tensor:
        return self.group.gather(ids if share else ids[:0], "ids")[0]

    def contrast(
        self,
        anchors: Tensor,
        candidates: Tensor,
        positives: Tensor,
        temperature: float,
        *,
        own: Tensor | None = None,
        log_q: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        assert own is not None
        losses = self.losses(anchors, candidates, own, temperature, log_q)
        return losses if reduction == "none" else losses.mean()

    def losses(
        self, anchors: Tensor, candidates: Tensor, own: Tensor, temperature: float, log_q: Tensor | None
    ) -> Tensor:
        """InfoNCE ``[A]`` of the anchors, whose positives are ``own`` ``[A, d]``; otherwise as :meth:`contrast`."""
        raise NotImplementedError


class ShardedRanks(_Ranks):
    """Each process has its own rows of users and items."""

    def rows(self, side: Side, table: Tensor, ids: Tensor) -> Tensor:
        request = Request(self.group, self.partition.of(side), ids)
        return request.fetch(F.embedding(request.asked, table), "rows")

    def uniform(self, nodes: Tensor, generator: torch.Generator | None) -> Tensor:
        def draw(count: int) -> Tensor:
            return torch.rand(count, nodes.size(1), generator=generator, device=nodes.device, dtype=nodes.dtype)

        sides = (self.partition.users, self.partition.items)
        return torch.cat([drawn_rows(draw, rows) for rows in sides])

    def total(self, side: Side, own: int) -> int:
        return self.partition.of(side).total

    def held(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        rows = self.partition.items
        held = ((ids >= rows.start) & (ids < rows.stop)).nonzero()[:, 0]
        return ids[held] - rows.start, held

    def views(self, side: Side, ids: Tensor, one: Tensor, other: Tensor, temperature: float) -> Tensor:
        # Each id counts once, where it lives: the views are there, and only ids travel before the anchors do.
        rows = self.partition.of(side)
        order, give = rows.by_owner(ids)
        received = self.group.exchange(ids[order], give, self.group.counts(give), "ids")
        chosen = received.unique() - rows.start
        count = sum(self.group.all_counts(chosen.numel()))
        anchors, candidates = F.embedding(chosen, one), F.embedding(chosen, other)
        return sharded_infonce(anchors, candidates, candidates, temperature, self.group).sum() / max(count, 1)

    def losses(
        self, anchors: Tensor, candidates: Tensor, own: Tensor, temperature: float, log_q: Tensor | None
    ) -> Tensor:
        return sharded_infonce(anchors, candidates, own, temperature, self.group, log_q=log_q)


class WholeRanks(_Ranks):
    """Each process has a copy of all tables, and the gradients are averaged."""

    def views(self, side: Side, ids: Tensor, one: Tensor, other: Tensor, temperature: float) -> Tensor:
        everyone = self.gathered(ids, 1.0).unique()
        parts = everyone.tensor_split(self.group.size)
        anchors = parts[self.group.rank]
        before = sum(part.numel() for part in parts[: self.group.rank])
        positives = torch.arange(before, before + anchors.numel(), device=ids.device)
        x, y = F.embedding(anchors, one), F.embedding(everyone, other)
        return infonce(x, y, positives, temperature, reduction="sum") / max(1, everyone.numel())

    def losses(
        self, anchors: Tensor, candidates: Tensor, own: Tensor, temperature: float, log_q: Tensor | None
    ) -> Tensor:
        similarity = (F.normalize(anchors, eps=1e-12) * F.normalize(own, eps=1e-12)).sum(-1)
        return logsumexp_similarity(anchors, candidates, temperature, log_q=log_q) - similarity / temperature
