"""How models give scores: a function of users and a slice of the items, so that no M x N matrix is needed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Scorer = Callable[[Tensor, slice], Tensor]
"""Scores ``[B, n]`` of a slice of n items for a tensor of users ``[B]``, in a tensor of its own; higher is better."""

Prepared = TypeVar("Prepared")


class UserRows:
    r"""Rows of the binary user-item matrix :math:`X`, for any chunk of users at once.

    Args:
        pairs: interactions, int64 ``[2, E]``, users above items, in any order.
        num_users, num_items: M and N.
    """

    def __init__(self, pairs: Tensor, num_users: int, num_items: int) -> None:
        order = (pairs[0] * num_items + pairs[1]).argsort()
        self.items = pairs[1, order]
        self.degree = torch.bincount(pairs[0], minlength=num_users)
        self.end = self.degree.cumsum(0)
        self.num_items = num_items

    def to(self, device: torch.device | str) -> UserRows:
        """The same rows on another device."""
        moved = copy.copy(self)
        moved.items, moved.degree, moved.end = (x.to(device) for x in (self.items, self.degree, self.end))
        return moved

    def pairs(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """For ``users`` ``[B]``, in any order: position in ``users`` (ascending) and item of each of their pairs."""
        degree = self.degree[users]
        position = torch.repeat_interleave(torch.arange(users.numel(), device=users.device), degree)
        first = torch.repeat_interleave(self.end[users] - degree.cumsum(0), degree)
        return position, self.items[first + torch.arange(position.numel(), device=users.device)]

    def dense(self, users: Tensor) -> Tensor:
        """The rows of ``users`` as float32 zeros and ones ``[B, N]``."""
        rows = torch.zeros(users.numel(), self.num_items, device=users.device)
        rows[self.pairs(users)] = 1.0
        return rows

    def product(self, users: Tensor, weights: Tensor) -> Tensor:
        """Sums ``[B, n]`` of the rows of ``weights`` ``[N, n]`` over each user's items."""
        _, items = self.pairs(users)
        pointers = torch.cat([self.degree.new_zeros(1), self.degree[users].cumsum(0)])
        ones = torch.ones(items.numel(), device=weights.device, dtype=weights.dtype)
        size = (users.numel(), self.num_items)
        return torch.sparse_csr_tensor(pointers, items, ones, size=size, check_invariants=False) @ weights


def dot_scorer(users: Tensor, items: Tensor) -> Scorer:
    """Inner products of user embeddings ``[M, d]`` with item embeddings ``[N, d]``."""
    return lambda rows, window: users[rows] @ items[window].T


def item_scorer(rows: UserRows, weights: Tensor) -> Scorer:
    """Sums of the rows of item-item weights ``[N, N]`` over each user's items: :math:`X_u B`."""
    return lambda users, window: rows.product(users, weights[:, window])


def chunk_scorer(prepare: Callable[[Tensor], Prepared], score: Callable[[Prepared, slice], Tensor]) -> Scorer:
    """A scorer for models with work that belongs to the users alone.

    The ranking asks for the same users with one slice of items after another: what ``prepare`` makes of the last users
    is kept, so that the work is done once for all slices.

    Args:
        prepare: what ``score`` needs of users ``[B]``.
        score: scores ``[B, n]`` of a slice, in a tensor of its own.
    """
    last: list[tuple[Tensor, Prepared]] = []

    def scorer(users: Tensor, window: slice) -> Tensor:
        if not last or not torch.equal(last[0][0], users):
            last.clear()  # before the new one is made, so that never two are held
            last.append((users.clone(), prepare(users)))
        return score(last[0][1], window)

    return scorer
