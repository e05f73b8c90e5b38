"""What a loss asks of the processes ("ranks") that train one model together; here the answers of a single process.

A loss that is written with these calls is a sum of contributions: each process computes those of its own share of a
batch (:attr:`~infodcl_geo.models.base.Batch.share`), and the sum over the processes is the loss of the whole batch.
:mod:`infodcl_geo.distributed` has the answers of several processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.kernels import infonce


@dataclass(frozen=True)
class Traffic:
    """What one step of a model reads that may lie on other processes, for a plan of what will travel.

    Args:
        item_rows: rows of items for each pair of a batch.
        products: products with the graph, forward.
        views: whether the distinct users and items of a batch are contrasted.
        channels: vectors that are contrasted with all items for each item that is diffused.
    """

    item_rows: int
    products: int = 0
    views: bool = False
    channels: int = 0


Side = Literal["users", "items"]
Reduction = Literal["mean", "none"]


class OneRank:
    """One process, which has all users, all items and whole batches."""

    def rows(self, side: Side, table: Tensor, ids: Tensor) -> Tensor:
        """Rows ``[n, d]`` of all users or all items; ``table`` are those that this process has."""
        return F.embedding(ids, table)

    def part(self, draw: Callable[[int], Tensor], count: int, share: float) -> Tensor:
        """Of random numbers for the anchors of all processes, in the order of the processes, those for this one's.

        Args:
            draw: random numbers for so many anchors.
            count: of anchors of this process.
            share: of the step's anchors that they are; 0 of one that stands in for none.
        """
        return draw(count)

    def uniform(self, nodes: Tensor, generator: torch.Generator | None) -> Tensor:
        """Numbers of U(0, 1) for the users and items of this process, shaped as ``nodes``, drawn for all together."""
        return torch.rand(nodes.shape, generator=generator, device=nodes.device, dtype=nodes.dtype)

    def mean(self, value: Tensor, share: float) -> Tensor:
        """Mean over all processes of a number that is a mean over this one's share; without gradient."""
        return value

    def total(self, side: Side, own: int) -> int:
        """Number of all users or all items, of which this process has ``own``."""
        return own

    def gathered(self, ids: Tensor, share: float) -> Tensor:
        """Ids of all processes, in their order, without those of a share of 0."""
        return ids

    def held(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of ids of items: those of this process, as rows of its table, and where they stand (``None``: all)."""
        return ids, None

    def views(self, side: Side, ids: Tensor, one: Tensor, other: Tensor, temperature: float) -> Tensor:
        """This process's share of the mean InfoNCE between two views of the distinct ``ids`` of all processes.

        Args:
            side: whose ids.
            ids: of this process's share of the batch, repeats included.
            one, other: both views of all users, or all items, that this process has.
            temperature: tau.
        """
        chosen = ids.unique()
        positives = torch.arange(chosen.numel(), device=chosen.device)
        return infonce(F.embedding(chosen, one), F.embedding(chosen, other), positives, temperature)

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
        """InfoNCE of this process's anchors against the candidates of all processes.

        Args:
            anchors: ``[A, d]``.
            candidates: those of this process ``[n, d]``.
            positives: rows of the anchors' positives among the candidates of all processes ``[A]``.
            temperature: tau.
            own: vectors ``[A, d]`` of the positives, which need not be of this process; only several processes read it.
            log_q: of this process's candidates ``[n]``, see :func:`~infodcl_geo.kernels.infonce`.
            reduction: mean over this process's anchors, or none.
        """
        return infonce(anchors, candidates, positives, temperature, log_q=log_q, reduction=reduction)


ONE = OneRank()
