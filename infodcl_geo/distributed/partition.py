"""Which rows of a table are whose."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..nn.ranks import Side


@dataclass(frozen=True)
class Rows:
    """Contiguous rows of equal number for every rank but the last ones: rank r has rows ``r * block`` and on.

    Args:
        total: rows of the table.
        ranks: number of ranks.
        rank: this one.
    """

    total: int
    ranks: int
    rank: int

    @property
    def block(self) -> int:
        """Rows of a rank, at most."""
        return max(1, -(-self.total // self.ranks))

    def bounds(self, rank: int) -> tuple[int, int]:
        """First row of a rank, and the one behind its last."""
        return min(rank * self.block, self.total), min((rank + 1) * self.block, self.total)

    @property
    def start(self) -> int:
        return self.bounds(self.rank)[0]

    @property
    def stop(self) -> int:
        return self.bounds(self.rank)[1]

    @property
    def own(self) -> slice:
        """The rows of this rank."""
        return slice(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start

    def owner(self, ids: Tensor) -> Tensor:
        """The rank that has each row."""
        return ids // self.block

    def by_owner(self, ids: Tensor) -> tuple[Tensor, list[int]]:
        """An order of ``ids`` that has those of rank 0 first, and how many each rank has."""
        owner = self.owner(ids)
        order = owner.argsort(stable=True)
        return order, torch.bincount(owner, minlength=self.ranks).tolist()


@dataclass(frozen=True)
class Partition:
    """The rows of users and of items."""

    users: Rows
    items: Rows

    def of(self, side: Side) -> Rows:
        return self.users if side == "users" else self.items

    @property
    def sizes(self) -> tuple[int, int]:
        """Users and items of this rank."""
        return len(self.users), len(self.items)


def partition(num_users: int, num_items: int, ranks: int, rank: int) -> Partition:
    """Equal ranges of users and of items for each rank."""
    return Partition(Rows(num_users, ranks, rank), Rows(num_items, ranks, rank))
